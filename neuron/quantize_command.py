"""`neuron quantize`: an fp16 or bf16 model folder into an EXL2 one."""

import argparse
import os
import signal
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Final

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TimeElapsedColumn

from neuron.exl2.bitstream import BLOCK_ROWS, WIDTHS
from neuron.exl2.convert import (
    ConvertError,
    ConvertOptions,
    ConvertReport,
    LayerReport,
    convert,
)
from neuron.exl2.errors import FormatError
from neuron.models.errors import ModelError

OK: Final = 0
REFUSED: Final = 1
INTERRUPTED: Final = 130
_MAX_WORKERS: Final = 8
"""Each holds one layer as float32 twice, which is 2 GB in a model of 70 billion."""


def _bits(text: str) -> float:
    try:
        bits = float(text)
    except ValueError:
        raise argparse.ArgumentTypeError(f"must be a number, not {text}") from None
    if not min(WIDTHS) <= bits <= max(WIDTHS):
        raise argparse.ArgumentTypeError(f"must be within 2 and 8, not {text}")
    return bits


def _group_rows(text: str) -> int:
    try:
        rows = int(text)
    except ValueError:
        rows = 0
    if rows <= 0 or rows % BLOCK_ROWS:
        raise argparse.ArgumentTypeError(f"must be a multiple of 32, not {text}")
    return rows


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the arguments of `neuron quantize`."""
    parser.description = (
        "Quantize an fp16 or bf16 Hugging Face folder into EXL2, on the CPU, by "
        "rounding to nearest with a search for the best scales. No calibration."
    )
    parser.add_argument("source", type=Path, metavar="SRC", help="folder to read")
    add_target(parser)
    add_bits(parser, required=True)
    add_details(parser)


def add_target(parser: argparse.ArgumentParser) -> None:
    """Add the folder to make."""
    parser.add_argument(
        "target", type=Path, metavar="DST", help="folder to make; new or empty"
    )


def add_bits(parser: argparse._ActionsContainer, *, required: bool) -> None:
    """Add `--bits`, which may be one of a group."""
    parser.add_argument(
        "--bits",
        type=_bits,
        required=required,
        metavar="B",
        help="mean bits per weight without the head, scales included, such as 4.5",
    )


def add_details(parser: argparse.ArgumentParser) -> None:
    """Add what has a default."""
    parser.add_argument(
        "--head-bits",
        type=int,
        choices=sorted(WIDTHS),
        default=6,
        help="bits per weight of lm_head (default 6)",
    )
    parser.add_argument(
        "--group-rows",
        type=_group_rows,
        default=32,
        metavar="N",
        help="rows that share a scale, a multiple of 32 (default 32)",
    )


def run(args: argparse.Namespace) -> int:
    """Quantize; 0 where it worked, 1 where it was refused, 130 where interrupted."""

    def quantize(progress: Progress) -> str:
        report = convert(args.source, args.target, options_of(args), shown(progress))
        done = summary(args.target, report)
        if not (args.target / "tokenizer.json").exists():
            done += "\nit has no tokenizer.json: nothing can serve it without one"
        return done

    return run_shown("neuron quantize", quantize)


def options_of(args: argparse.Namespace) -> ConvertOptions:
    """What the arguments ask for, with a worker for each CPU."""
    return ConvertOptions(
        bits=args.bits,
        head_bits=args.head_bits,
        group_rows=args.group_rows,
        workers=min(os.cpu_count() or 1, _MAX_WORKERS),
    )


def run_shown(command: str, work: Callable[[Progress], str]) -> int:
    """Do the work under a progress bar; say what it returns, or why it failed.

    Returns:
        0 where it worked, 1 where it was refused, 130 where interrupted.
    """
    console = Console()
    try:
        with _interrupted_by_any_end(), _bar(console) as progress:
            done = work(progress)
    except (ConvertError, FormatError, ModelError, OSError) as error:
        _say(Console(stderr=True), f"{command}: {_words(error)}")
        return REFUSED
    except KeyboardInterrupt:
        _say(Console(stderr=True), f"{command}: interrupted; nothing was kept")
        return INTERRUPTED
    _say(console, done)
    return OK


@contextmanager
def _bar(console: Console) -> Iterator[Progress]:
    """A progress bar that stays where the work is done, and goes where it is not."""
    columns = ("{task.description}", BarColumn(), MofNCompleteColumn())
    progress = Progress(*columns, TimeElapsedColumn(), console=console)
    progress.start()
    try:
        yield progress
    except BaseException:
        progress.live.transient = True
        progress.live.stop()
        raise
    progress.stop()


@contextmanager
def _interrupted_by_any_end() -> Iterator[None]:
    """Being terminated or losing the terminal must not leave gigabytes behind either.

    What is ignored, as `nohup` has it, stays ignored.
    """
    before = {
        number: signal.signal(number, signal.default_int_handler)
        for number in (signal.SIGTERM, signal.SIGHUP)
        if signal.getsignal(number) is not signal.SIG_IGN
    }
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def _words(error: Exception) -> str:
    if isinstance(error, OSError) and error.filename and error.strerror:
        return f"{error.filename}: {error.strerror.lower()}"
    if isinstance(error, OSError) and error.strerror:
        return error.strerror.lower()
    return str(error)


def _say(console: Console, text: str) -> None:
    """One line as it is, however narrow the terminal."""
    console.print(text, markup=False, highlight=False, soft_wrap=True)


def shown(progress: Progress) -> Callable[[LayerReport], None]:
    """A callback that moves the bar and prints a line for each layer."""
    task = progress.add_task("Quantizing", total=None)

    def show(layer: LayerReport) -> None:
        _say(
            progress.console,
            f"{layer.key:<40} {layer.bpw:6.3f} bpw   error {layer.error:8.4%}",
        )
        progress.update(task, completed=layer.done, total=layer.total)

    return show


def summary(target: Path, report: ConvertReport) -> str:
    """One line on what came out."""
    mean = sum(layer.error for layer in report.layers) / len(report.layers)
    return (
        f"{target}: {report.bpw:.3f} bpw, head {report.head_bpw:.3f} bpw, "
        f"{report.bytes_written / 1e6:.1f} MB; "
        f"error (relative Frobenius norm) {mean:.2%} on average, "
        f"{max(layer.error for layer in report.layers):.2%} at most"
    )
