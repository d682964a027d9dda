"""The `neuron` command.

Exit codes: 0 done, 1 failed, 2 wrong usage or configuration.
"""

import argparse
import logging
import sys
from collections.abc import Sequence
from importlib import import_module
from pathlib import Path
from typing import Final

from pydantic import ValidationError

from neuron.config import load_config
from neuron.protocol.command_line import run_to_the_end
from neuron.protocol.config_file import ConfigError
from neuron.protocol.version import build_version

_LEVELS = ("debug", "info", "warning", "error")


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command line; without a command it serves."""
    return run_to_the_end("neuron", lambda: _main(arguments))


def _main(arguments: Sequence[str] | None) -> int:
    given = list(sys.argv[1:] if arguments is None else arguments)
    if not given or (given[0].startswith("-") and given[0] not in _OWN_FLAGS):
        given.insert(0, "serve")
    if given[0] in _COMMANDS:
        return _run(given[0], given[1:])
    return _serve(_parser().parse_args(given))


_OWN_FLAGS = ("-h", "--help", "--version")
_COMMANDS: Final = {
    "quantize": ("quantize_command", "turn a Hugging Face folder into EXL2"),
    "import": ("import_command", "turn a GGUF file into EXL2"),
    "build-ext": ("build_ext_command", "compile exllamav2's CUDA extension"),
    "doctor": ("doctor_command", "say what this host has and lacks"),
}
"""Command → (the module that has it, imported when it is used; what it does)."""


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="neuron", description="Serve the models of this host."
    )
    parser.add_argument(
        "--version", action="version", version=f"neuron {build_version()}"
    )
    commands = parser.add_subparsers(dest="command", required=True)
    serve = commands.add_parser(
        "serve", help="run the daemon (default)", description="Run the daemon."
    )
    serve.add_argument("--listen", metavar="HOST:PORT", help="default 127.0.0.1:13131")
    serve.add_argument("--config", type=Path, metavar="FILE", help="neuron.toml")
    serve.add_argument(
        "--models-dir", type=Path, action="append", metavar="DIR",
        help="folder of model folders; repeatable; replaces models_dirs",
    )  # fmt: skip
    serve.add_argument(
        "--announce", type=Path, metavar="FILE", help="write the address there once up"
    )
    serve.add_argument("--log-level", choices=_LEVELS, default="info")
    for name, (_, what) in _COMMANDS.items():
        commands.add_parser(name, help=what)
    return parser


def _run(name: str, arguments: list[str]) -> int:
    command = import_module(f"neuron.{_COMMANDS[name][0]}")
    parser = argparse.ArgumentParser(prog=f"neuron {name}")
    command.add_arguments(parser)
    return int(command.run(parser.parse_args(arguments)))


def _document() -> bytes:
    from neuron import openapi

    return openapi.document()


def _serve(options: argparse.Namespace) -> int:
    logging.basicConfig(
        level=options.log_level.upper(),
        format="%(asctime)s %(levelname)-7s %(name)s: %(message)s",
    )
    try:
        loaded = load_config(
            options.config, listen=options.listen, models_dirs=options.models_dir
        )
    except ConfigError as error:
        print(f"neuron: {error}", file=sys.stderr)
        return 2
    except ValidationError as error:
        for problem in error.errors():
            reason = problem["msg"].removeprefix("Value error, ")
            print(f"neuron: {reason}", file=sys.stderr)
        return 2
    from neuron.daemon.server import serve

    if loaded.path:
        logging.getLogger(__name__).info("configuration: %s", loaded.path)
    try:
        return serve(
            loaded.config, options.announce, options.log_level.upper(), _document
        )
    except OSError as error:
        print(f"neuron: {error}", file=sys.stderr)
        return 1
