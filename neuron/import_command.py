"""`neuron import`: a GGUF file into a model folder."""

import argparse
from pathlib import Path

from rich.progress import Progress

from neuron.models.gguf_import import import_dense, import_exl2
from neuron.quantize_command import (
    add_bits,
    add_details,
    add_target,
    options_of,
    run_shown,
    shown,
    summary,
)


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the arguments of `neuron import`."""
    parser.description = (
        "Turn a GGUF file (llama, qwen2 or qwen3, of any quantization) into an EXL2 "
        "folder, or into an fp16 Hugging Face one, on the CPU."
    )
    parser.add_argument("source", type=Path, metavar="FILE.gguf", help="file to read")
    add_target(parser)
    result = parser.add_mutually_exclusive_group(required=True)
    add_bits(result, required=False)
    result.add_argument(
        "--fp16", action="store_true", help="keep the weights as float16 instead"
    )
    add_details(parser)


def run(args: argparse.Namespace) -> int:
    """Import; 0 where it worked, 1 where it was refused, 130 where interrupted."""
    return run_shown("neuron import", lambda progress: _import(args, progress))


def _import(args: argparse.Namespace, progress: Progress) -> str:
    if not args.fp16:
        report = import_exl2(
            args.source, args.target, options_of(args), shown(progress)
        )
        return summary(args.target, report)
    task = progress.add_task("Writing", total=None)
    written = import_dense(
        args.source,
        args.target,
        lambda name, done, total: progress.update(task, completed=done, total=total),
    )
    return f"{args.target}: float16, {written / 1e6:.1f} MB"
