"""What a run needs and this Python lacks: `python -m tests.gpu.needs`

The machine with the GPU may have no network; what is said here can be carried there as
wheels (`tests.gpu.wheels`).
"""

import re
import sys
import tomllib
from collections.abc import Iterable, Iterator
from importlib.metadata import Distribution, PackageNotFoundError, distribution
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
_BY_THEMSELVES: Final = {"torch", "exllamav2"}
"""Whose own needs are not looked at: the one was installed with its own, the other asks
for more than it imports."""


def needed() -> list[str]:
    """Requirements as pyproject.toml words them."""
    project = tomllib.loads(_PROJECT.read_text(encoding="utf-8"))["project"]
    extras = project["optional-dependencies"]
    return [
        *(
            each
            for each in project["dependencies"]
            if name_of(each) not in _OF_THE_CONSOLE
        ),
        *extras["cuda"],
        *(each for each in extras["dev"] if name_of(each) in _OF_THE_TESTS),
        *_OF_EXLLAMAV2,
    ]


def missing(requirements: Iterable[str]) -> list[str]:
    """Those, and what they need in turn, of which there is none or another version."""
    try:
        from packaging.requirements import Requirement
    except ImportError:  # pytest needs it, too
        return ["packaging", *(each for each in requirements if not _found(each))]
    lacking, seen = [], set()
    left = [(each, True) for each in requirements]
    while left:
        text, is_ours = left.pop(0)
        wanted = Requirement(text)
        if text in seen or (wanted.marker and not wanted.marker.evaluate()):
            continue
        seen.add(text)
        found = _found(wanted.name)
        if found is None:
            lacking.append(text)
            continue
        # What others think of versions is between them and who installed them.
        if is_ours and not wanted.specifier.contains(found.version, prereleases=True):
            lacking.append(f"{text} (found {found.version})")
        left += [(each, False) for each in _needs_of(found)]
    return lacking


def name_of(requirement: str) -> str:
    """Of the package, in the spelling that all names share."""
    found = re.match(r"[A-Za-z0-9._-]+", requirement)
    assert found is not None
    return re.sub(r"[-_.]+", "-", found[0]).lower()


def _needs_of(found: Distribution) -> Iterator[str]:
    if name_of(found.metadata["Name"]) not in _BY_THEMSELVES:
        # Of extras nothing is asked for.
        yield from (each for each in found.requires or () if "extra ==" not in each)


def _found(requirement: str) -> Distribution | None:
    try:
        return distribution(name_of(requirement))
    except PackageNotFoundError:
        return None


def main() -> int:
    """0 where nothing is missing."""
    lacking = missing(needed())
    for each in lacking:
        sys.stderr.write(f"missing: {each}\n")
    return 1 if lacking else 0


if __name__ == "__main__":
    sys.exit(main())
