"""Wheels for a machine that has torch, and no network: `python -m tests.gpu.wheels`

Fills `.wheels` with all else that a run needs there, where `run.sh` takes it from.
"""

import argparse
import re
import subprocess
import sys
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Final

from tests.gpu.needs import name_of, needed

FOLDER: Final = Path(__file__).parents[2] / ".wheels"
_GLIBC: Final = (5, 12, 17, 24, 26, 27, 28, 31, 34, 35, 38, 39)
"""Minor versions for which wheels are published; pip takes the named ones alone."""
_ALONE: Final = ("exllamav2",)
"""Asks for more than it imports."""
_AS_SOURCE: Final = ("forbiddenfruit",)
"""Has no wheel: Python alone, made into one here. blockbuster needs it."""
_THERE: Final = ("torch", "triton")


def fill(folder: Path, python: str, has: Iterable[str] = ()) -> list[str]:
    """Download what is needed; the names of the files.

    Args:
        folder: what is in it already, of any version, is taken away.
        python: the machine's version, such as `3.12`.
        has: requirements or names of what it has already.

    Raises:
        CalledProcessError: pip cannot get it, and has said why.
    """
    folder.mkdir(parents=True, exist_ok=True)
    for old in folder.glob("*.whl"):
        old.unlink()
    named = {name_of(each): each for each in needed()}
    others = [each for name, each in named.items() if name not in {*_ALONE, *_THERE}]
    _pip("wheel", folder, "--no-deps", *_AS_SOURCE)
    target = ["--only-binary=:all:", "--python-version", python]
    for minor in _GLIBC:
        target += ["--platform", f"manylinux_2_{minor}_x86_64"]
    target += ["--find-links", str(folder)]
    _pip("download", folder, *target, *others)
    _pip("download", folder, *target, "--no-deps", *(named[name] for name in _ALONE))
    there = set(map(name_of, has))
    for wheel in folder.glob("*.whl"):
        if name_of(wheel.name.partition("-")[0]) in there:
            wheel.unlink()
    return sorted(wheel.name for wheel in folder.glob("*.whl"))


def _pip(command: str, folder: Path, *arguments: str) -> None:
    into = "--wheel-dir" if command == "wheel" else "--dest"
    common = ["--quiet", "--disable-pip-version-check", into, str(folder)]
    subprocess.run(
        [sys.executable, "-m", "pip", command, *common, *arguments], check=True
    )


def main(argv: Sequence[str] | None = None) -> int:
    """Fill the folder."""
    parser = argparse.ArgumentParser("tests.gpu.wheels", description=__doc__)
    here = ".".join(map(str, sys.version_info[:2]))
    parser.add_argument("--python", default=here, help="that machine's (%(default)s)")
    parser.add_argument(
        "--has", type=Path, metavar="FILE",
        help="names of what it has, as its `pip list --format=freeze` says them",
    )  # fmt: skip
    args = parser.parse_args(argv)
    has = re.split(r"[\s,]+", args.has.read_text("utf-8")) if args.has else ()
    wheels = fill(FOLDER, args.python, filter(None, has))
    size = sum((FOLDER / name).stat().st_size for name in wheels)
    sys.stdout.write(f"{FOLDER}: {len(wheels)} wheels, {size / 1e6:.0f} MB\n")
    return 0


if __name__ == "__main__":
    sys.exit(main())
