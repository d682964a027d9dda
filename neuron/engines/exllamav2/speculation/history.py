"""What a request has said so far, and how it went on when it said this before."""

from collections.abc import Sequence
from typing import Final

import numpy as np
from numpy.typing import NDArray

LONGEST: Final = 16
"""Tokens at the end that are looked for, at most: more of them tell nothing new."""
SHORTEST: Final = 2
"""And at least, as `History` has it: a single token is followed by anything."""
_ROOM: Final = 1024


class History:
    """One sequence's tokens, prompt and output.

    No index: comparing all of a long context with its last tokens takes microseconds,
    and to index a prompt in Python takes longer than a step.
    """

    def __init__(self) -> None:
        self._tokens = np.empty(_ROOM, np.int32)
        self._count = 0

    def update(self, tokens: Sequence[int]) -> None:
        """All tokens so far; those that are known already have not changed."""
        count = len(tokens)
        if count > len(self._tokens):
            larger = np.empty(2 * count, np.int32)
            larger[: self._count] = self._tokens[: self._count]
            self._tokens = larger
        self._tokens[self._count : count] = tokens[self._count :]
        self._count = count

    def continuation(self, count: int) -> list[int]:
        """`count` tokens that may come next, or none.

        Those that followed where as many of the last tokens as possible, of `SHORTEST`
        to `LONGEST`, were once before, the last time that they were. What was repeated
        up to the end is repeated further.
        """
        text = self._tokens[: self._count]
        start = self._after_the_longest_match(text)
        if start is None:
            return []
        followed = text[start : start + count].tolist()
        period = len(text) - start
        return [followed[number % period] for number in range(count)]

    def _after_the_longest_match(self, text: NDArray[np.int32]) -> int | None:
        last = len(text) - 1
        if last < SHORTEST:
            return None
        pairs = (text[1:last] == text[last]) & (text[: last - 1] == text[last - 1])
        ends = np.flatnonzero(pairs) + 1
        if not len(ends):
            return None
        back = np.arange(SHORTEST, min(LONGEST, len(text)))
        places = ends[:, None] - back
        same = (text[places] == text[last - back]) & (places >= 0)
        lengths = np.logical_and.accumulate(same, axis=1).sum(axis=1)
        return int(ends[lengths == lengths.max()][-1]) + 1
