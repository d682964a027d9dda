"""`neuron build-ext`: exllamav2's extension, compiled ahead of serving."""

import argparse
import re
import signal
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Final

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TimeElapsedColumn

from neuron.daemon.hardware import read_meminfo
from neuron.engines.exllamav2.host import build as builder, extension
from neuron.engines.exllamav2.host.build import BuildError, BusyError
from neuron.engines.exllamav2.host.build_plan import LackingError, plan_build

OK: Final = 0
REFUSED: Final = 1
INTERRUPTED: Final = 130


def _architectures(text: str) -> list[str]:
    given = text.split(",")
    for each in given:
        if not re.fullmatch(r"\d{1,2}\.\d", each):
            raise argparse.ArgumentTypeError(
                f"must be compute capabilities such as 8.0,9.0, not {text}"
            )
    return given


def _jobs(text: str) -> int:
    if not text.isascii() or not text.isdigit() or int(text) < 1:
        raise argparse.ArgumentTypeError(f"must be 1 or more, not {text}")
    return int(text)


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the arguments of `neuron build-ext`."""
    parser.description = (
        "Compile exllamav2's CUDA extension for this Python, torch and these GPUs, "
        "and keep it where serving finds it."
    )
    parser.add_argument(
        "--arch",
        type=_architectures,
        metavar="CC[,CC]",
        help="compute capabilities to build for (default: those of this host's GPUs)",
    )
    parser.add_argument(
        "--jobs",
        type=_jobs,
        metavar="N",
        help="compilers at once (default: by CPUs and memory)",
    )
    parser.add_argument(
        "--force", action="store_true", help="build even where it is built already"
    )
    parser.add_argument(
        "--no-wait",
        action="store_true",
        help="leave, where another process builds the same",
    )


def run(args: argparse.Namespace) -> int:
    """Build; 0 where it is there, 1 where it cannot be, 130 where interrupted."""
    errors = Console(stderr=True)
    # Being terminated must take the compilers along, too.
    before = signal.signal(signal.SIGTERM, signal.default_int_handler)
    try:
        _say(Console(), _build(args))
    except LackingError as error:
        _say(errors, "neuron build-ext: cannot build yet; this is missing:")
        for each in error.missing:
            _say(errors, f"  {each.what}\n    {each.mend}")
        return REFUSED
    except (BuildError, BusyError, OSError) as error:
        _say(errors, f"neuron build-ext: {error}")
        return REFUSED
    except KeyboardInterrupt:
        _say(errors, "neuron build-ext: interrupted; nothing was kept")
        return INTERRUPTED
    finally:
        signal.signal(signal.SIGTERM, before)
    return OK


def _build(args: argparse.Namespace) -> str:
    build = plan_build(args.arch or (), args.jobs, read_meminfo().get("MemAvailable"))
    console = Console()

    def wait(who: str) -> None:
        _say(console, f"{who}: waiting for it")

    with builder.locked(build, wait, wait=not args.no_wait):
        found = extension.find_exact(build.key, build.root)
        if found and not args.force:
            return f"{build.key} is built already: {found.path}"
        _say(console, f"building {build.key}, {build.jobs} at once; log: {build.log}")
        with _shown(console) as progress:
            found = builder.run(build, progress)
    assert found.manifest is not None
    return (
        f"{found.path}: {found.path.stat().st_size / 1e6:.1f} MB in "
        f"{_duration(found.manifest.seconds)}; restart a running neuron to use it"
    )


@contextmanager
def _shown(console: Console) -> Iterator[Callable[[int, int], None]]:
    """What takes (finished, all) sources: a bar on a terminal, lines elsewhere."""
    if not console.is_terminal:
        yield lambda done, total: _say(console, f"{done} of {total} sources")
        return
    columns = ("{task.description}", BarColumn(), MofNCompleteColumn())
    with Progress(*columns, TimeElapsedColumn(), console=console) as bar:
        task = bar.add_task("Compiling", total=None)
        yield lambda done, total: bar.update(task, completed=done, total=total)


def _duration(seconds: float) -> str:
    minutes, rest = divmod(round(seconds), 60)
    return f"{minutes} min {rest} s" if minutes else f"{rest} s"


def _say(console: Console, text: str) -> None:
    """As it is, however narrow the terminal."""
    console.print(text, markup=False, highlight=False, soft_wrap=True)
