"""Everything that needs a GPU, in one call: `python -m tests.gpu`

Builds exllamav2's extension or takes one, writes its models, runs the checks and the
benchmarks, and writes what they found to a file. Under eight minutes on a machine with
sixteen cores.
"""

import argparse
import signal
import sys
from pathlib import Path
from types import FrameType

from tests.gpu.results.tables import tables
from tests.gpu.script import FULL, PARTS, QUICK, WITHIN_S, Run


def main() -> int:
    """0 where every step did what it should and every check passed."""
    args = _arguments()

    def stop(number: int, _frame: FrameType | None) -> None:
        signal.signal(number, signal.SIG_IGN)  # the results are being written
        raise KeyboardInterrupt

    signal.signal(signal.SIGTERM, stop)
    # A shell that waits for this has it ignored, and steps are interrupted by it.
    signal.signal(signal.SIGINT, signal.default_int_handler)
    run = Run(
        out=args.out,
        parts=args.only,
        scale=QUICK if args.quick else FULL,
        within_s=args.within,
        extension=args.extension,
        commit=args.commit,
    )
    results, path = run.run()
    sys.stdout.write(f"{tables(results)}\n{path} after {results.seconds:.0f} s\n")
    return 1 if results.notes or (results.checks and results.checks.failed) else 0


def _arguments() -> argparse.Namespace:
    def parts(text: str) -> list[str]:
        chosen = text.split(",")
        if unknown := set(chosen) - set(PARTS):
            raise argparse.ArgumentTypeError(
                f"{', '.join(sorted(unknown))}: none of {', '.join(PARTS)}"
            )
        return chosen

    parser = argparse.ArgumentParser("python -m tests.gpu", description=__doc__)
    parser.add_argument(
        "--out", type=Path,
        help="file for the results (default: among the recorded); beside it lies what "
        "every step said, as .log",
    )  # fmt: skip
    parser.add_argument(
        "--only", type=parts, default=list(PARTS), metavar="PART[,PART]",
        help=f"of {', '.join(PARTS)}",
    )  # fmt: skip
    parser.add_argument(
        "--extension", type=Path, metavar="FOLDER",
        help="take exllamav2's extension from there: a folder that `neuron build-ext` "
        "has filled, or one with the file itself",
    )  # fmt: skip
    parser.add_argument(
        "--within", type=float, default=WITHIN_S, metavar="S",
        help="seconds for all of it (default: %(default)s)",
    )  # fmt: skip
    parser.add_argument("--commit", default="", help="what it is (default: git's)")
    parser.add_argument(
        "--quick", action="store_true",
        help="without a GPU: the script itself, on the CPU engine; needs --out",
    )  # fmt: skip
    args = parser.parse_args()
    if args.quick and args.out is None:
        parser.error("--quick measures nothing worth recording: name a file with --out")
    return args


if __name__ == "__main__":
    sys.exit(main())
