"""The bytes of a model's tokens, and which tokens go with a piece of text."""

from bisect import bisect_left
from collections.abc import Iterable, Mapping


class Vocabulary:
    """Finds tokens by what they spell; safe to share between threads."""

    def __init__(self, spellings: Mapping[int, bytes]) -> None:
        """`spellings` by token id; special tokens and others without text are none."""
        self._spellings = {i: text for i, text in spellings.items() if text}
        self._sorted = sorted((text, i) for i, text in self._spellings.items())

    def spelling(self, token_id: int) -> bytes:
        """What the token spells; nothing where it has no text."""
        return self._spellings.get(token_id, b"")

    def beginnings_of(self, text: bytes) -> list[int]:
        """Tokens that spell the beginning of `text`, or all of it and no more."""
        ends = range(1, len(text) + 1)
        return [i for end in ends for i in self._spelt(text[:end])]

    def that_begin_with(self, text: bytes) -> list[int]:
        """Tokens that spell `text`, and whatever more."""
        first = bisect_left(self._sorted, (text, -1))
        last = first
        while last < len(self._sorted) and self._sorted[last][0].startswith(text):
            last += 1
        return [i for _, i in self._sorted[first:last]]

    def _spelt(self, text: bytes) -> Iterable[int]:
        at = bisect_left(self._sorted, (text, -1))
        while at < len(self._sorted) and self._sorted[at][0] == text:
            yield self._sorted[at][1]
            at += 1
