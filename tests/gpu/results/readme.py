"""The README's section of results."""

import re
from pathlib import Path
from typing import Final

from tests.gpu.results import newest
from tests.gpu.results.tables import tables

README: Final = Path(__file__).parents[3] / "README.md"
BEGIN: Final = "<!-- results on a GPU -->"
END: Final = "<!-- end of results on a GPU -->"


def with_results(readme: str) -> str:
    """The README's text with the newest results.

    Raises:
        ValueError: the README has no place for them.
    """
    block = f"{BEGIN}\n\n{tables(newest())}\n{END}"
    pattern = re.escape(BEGIN) + ".*?" + re.escape(END)
    replaced, count = re.subn(pattern, lambda _: block, readme, flags=re.DOTALL)
    if count != 1:
        raise ValueError(f"{README} has {count} places for the results")
    return replaced
