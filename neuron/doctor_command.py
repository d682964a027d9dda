"""`neuron doctor`: what this host has and lacks for each engine."""

import argparse
import json
import sys
from pathlib import Path
from typing import Final

from neuron.config import NeuronConfig, load_config
from neuron.doctor.exllamav2 import check_exllamav2
from neuron.doctor.host import check_host
from neuron.doctor.report import Check, EngineReport, Report
from neuron.engines import registry
from neuron.engines.exllamav2.host import probe
from neuron.protocol.config_file import ConfigError, Loaded

OK: Final = 0
CANNOT_SERVE: Final = 1


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the arguments of `neuron doctor`."""
    parser.description = (
        "Say what this host has and lacks for each engine, and how to mend it. The "
        "exit status is 0 where it can serve."
    )
    parser.add_argument("--config", type=Path, metavar="FILE", help="neuron.toml")
    parser.add_argument(
        "--engine",
        choices=_names(),
        help="let the exit status be that of this engine (default: of any)",
    )
    parser.add_argument("--json", action="store_true", help="for programs")
    parser.add_argument(
        "--deep",
        action="store_true",
        help="import the CUDA engine and use each GPU, too; takes up to minutes",
    )


def run(args: argparse.Namespace) -> int:
    """Look, and print; 0 where an engine, or the one that is named, can serve."""
    report = examine(args.config, deep=args.deep)
    if args.json:
        text = json.dumps(report.as_json(), indent=1)
    else:
        text = "\n".join(report.lines())
    sys.stdout.write(text + "\n")
    return OK if report.serves(args.engine) else CANNOT_SERVE


def examine(config_file: Path | None, *, deep: bool) -> Report:
    """Look at everything."""
    config: ConfigError | Loaded[NeuronConfig]
    try:
        config = load_config(config_file)
    except ConfigError as error:
        config = error
    engines = [
        check_exllamav2(deep=deep) if name == probe.NAME else _probed(name)
        for name in _names()
    ]
    return Report(tuple(check_host(config)), tuple(engines))


def _names() -> list[str]:
    return list(dict.fromkeys((probe.NAME, *registry.names())))


def _probed(name: str) -> EngineReport:
    """An engine that needs nothing besides what it says itself."""
    info = registry.engine_class(name).probe()
    formats = ", ".join(info.formats)
    detail = info.reason or f"serves {formats} on this host's CPU"
    return EngineReport(
        name, (Check("probe", "ok" if info.available else "lacks", detail),)
    )
