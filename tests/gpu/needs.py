"""What a run needs and this Python lacks: `python -m tests.gpu.needs`

The machine with the GPU may have no network; what is said here can be carried there as
wheels.
"""

import re
import sys
import tomllib
from collections.abc import Iterable
from importlib.metadata import PackageNotFoundError, distribution
from pathlib import Path
from typing import Final

_PROJECT: Final = Path(__file__).parents[2] / "pyproject.toml"
_OF_THE_CONSOLE: Final = {"textual"}
_OF_THE_TESTS: Final = {
    "pytest", "pytest-asyncio", "pytest-xdist", "pytest-timeout", "hypothesis",
    "blockbuster", "httpx2",
}  # fmt: skip
_OF_EXLLAMAV2: Final = ("regex", "pygments")
"""Imported by it, and not asked for by us."""


def needed() -> list[str]:
    """Requirements as pyproject.toml words them."""
    project = tomllib.loads(_PROJECT.read_text(encoding="utf-8"))["project"]
    extras = project["optional-dependencies"]
    return [
        *(
            each
            for each in project["dependencies"]
            if _name(each) not in _OF_THE_CONSOLE
        ),
        *extras["cuda"],
        *(each for each in extras["dev"] if _name(each) in _OF_THE_TESTS),
        *_OF_EXLLAMAV2,
    ]


def missing(requirements: Iterable[str]) -> list[str]:
    """Those of which no version is installed."""
    return [each for each in requirements if not _is_installed(_name(each))]


def _name(requirement: str) -> str:
    found = re.match(r"[A-Za-z0-9._-]+", requirement)
    assert found is not None
    return found[0].lower()


def _is_installed(name: str) -> bool:
    try:
        distribution(name)
    except PackageNotFoundError:
        return False
    return True


def main() -> int:
    """0 where nothing is missing."""
    lacking = missing(needed())
    for each in lacking:
        sys.stderr.write(f"missing: {each}\n")
    return 1 if lacking else 0


if __name__ == "__main__":
    sys.exit(main())
