"""Parts of the README that are made from what is so."""

import re
from pathlib import Path
from typing import Final

README: Final = Path(__file__).parents[2] / "README.md"


def with_part(readme: str, begin: str, end: str, text: str) -> str:
    """The README's text with `text` between these lines.

    Raises:
        ValueError: it has no place for it.
    """
    block = f"{begin}\n\n{text.rstrip()}\n\n{end}"
    pattern = re.escape(begin) + ".*?" + re.escape(end)
    replaced, count = re.subn(pattern, lambda _: block, readme, flags=re.DOTALL)
    if count != 1:
        raise ValueError(f"{README} has {count} places that begin with {begin}")
    return replaced
