"""The README's section of results."""

from typing import Final

from tests.gpu.results import newest
from tests.gpu.results.tables import tables
from tests.support.readme import with_part

BEGIN: Final = "<!-- results on a GPU -->"
END: Final = "<!-- end of results on a GPU -->"


def with_results(readme: str) -> str:
    """The README's text with the newest results.

    Raises:
        ValueError: the README has no place for them.
    """
    return with_part(readme, BEGIN, END, tables(newest()))
