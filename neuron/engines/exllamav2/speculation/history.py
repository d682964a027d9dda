"""What a request has said so far, and how it went on when it said this before."""

from collections.abc import Sequence
from typing import Final

import numpy as np
from numpy.typing import NDArray

LONGEST: Final = 16
"""Tokens at the end that are looked for, at most: more of them tell nothing new."""
SHORTEST: Final = 2
"""And at least: a single token is followed by anything."""
_ROOM: Final = 1024


class History:
    """One sequence's tokens, prompt and output.

    No index: comparing all of a long context with one token takes microseconds, and
    what would index a prompt in Python takes longer than a step.
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
        if len(text) <= SHORTEST:
            return None
        last, length = len(text) - 1, 1
        ends = np.flatnonzero(text[:last] == text[last])
        while length < LONGEST:
            longer = ends[ends >= length]
            longer = longer[text[longer - length] == text[last - length]]
            if not len(longer):
                break
            ends, length = longer, length + 1
        return int(ends[-1]) + 1 if length >= SHORTEST else None
