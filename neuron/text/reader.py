"""Text that arrives in pieces, for parsers that are written as if it were whole.

A parser is a generator: it yields where it needs more text, so that how the text was
split cannot change what is parsed. Every decision waits until the text settles it.
"""

from collections.abc import Callable, Generator, Sequence
from re import Pattern
from typing import TypeVar

T = TypeVar("T")

Waiting = Generator[None, None, T]
"""A computation that yields whenever it has to wait for more text."""


class Reader:
    """The text read so far, and what is not read yet.

    What was read since the last `mark` can be had again, exactly as written.
    """

    def __init__(self) -> None:
        self._text = ""
        self._before = 0
        self._start = 0
        self._at = 0
        self._closed = False

    def push(self, text: str) -> None:
        """More text arrived."""
        self._text = self._text[self._start :] + text
        self._before += self._start
        self._at -= self._start
        self._start = 0

    def close(self) -> None:
        """No more text will arrive."""
        self._closed = True

    @property
    def position(self) -> int:
        """Characters read so far."""
        return self._before + self._at

    def mark(self) -> None:
        """Forget what was read before."""
        self._start = self._at

    def since_mark(self) -> str:
        """What was read since the mark, which moves here."""
        text = self._text[self._start : self._at]
        self.mark()
        return text

    def ended(self) -> Waiting[bool]:
        """Whether the text ends here."""
        return (yield from self.peek()) == ""

    def peek(self, offset: int = 0) -> Waiting[str]:
        """The character `offset` further on, not read; empty beyond the end."""
        while self._at + offset >= len(self._text):
            if self._closed:
                return ""
            yield
        return self._text[self._at + offset]

    def take(self, count: int) -> str:
        """Read characters that a peek has seen."""
        self._at += count
        return self._text[self._at - count : self._at]

    def run(self, pattern: Pattern[str]) -> str:
        """Read what matches of the text that is here; may be less than will come."""
        match = pattern.match(self._text, self._at)
        return "" if match is None else self.take(match.end() - self._at)

    def sees(self, literal: str, offset: int = 0) -> Waiting[bool]:
        """Whether `literal` comes next, or `offset` further on; reads nothing."""
        while True:
            start = self._at + offset
            here = self._text[start : start + len(literal)]
            if len(here) == len(literal) or not literal.startswith(here):
                return here == literal
            if self._closed:
                return False
            yield

    def after_space(self, offset: int = 0) -> Waiting[int]:
        """The offset of the first character that is no whitespace, from `offset`."""
        while (yield from self.peek(offset)).isspace():
            offset += 1
        return offset

    def skip_space(self) -> Waiting[None]:
        """Read whitespace."""
        self.take((yield from self.after_space()))

    def skip(self, literal: str) -> Waiting[bool]:
        """Read whitespace and `literal`, or nothing where it is not next."""
        offset = yield from self.after_space()
        if not (yield from self.sees(literal, offset)):
            return False
        self.take(offset + len(literal))
        return True

    def text_until(
        self, ends: Sequence[str], out: Callable[[str], None]
    ) -> Waiting[str]:
        """Pass text to `out` as far as it is certain, up to the first of `ends`.

        The mark moves along.

        Returns:
            The one found, which is not read; empty where the text ended without.
        """
        while True:
            rest = self._text[self._at :]
            if found := _first(rest, ends):
                out(self.take(found[0]))
                self.mark()
                return found[1]
            held = 0 if self._closed else _held(rest, ends)
            out(self.take(len(rest) - held))
            self.mark()
            if self._closed:
                return ""
            yield


def _first(text: str, ends: Sequence[str]) -> tuple[int, str] | None:
    """(start, end) of the one that begins first."""
    found = [(start, end) for end in ends if (start := text.find(end)) >= 0]
    return min(found, default=None)


def _held(text: str, ends: Sequence[str]) -> int:
    """Length of the longest end of `text` that may become one of `ends`."""
    longest = max((len(end) - 1 for end in ends), default=0)
    for length in range(min(len(text), longest), 0, -1):
        if any(end.startswith(text[len(text) - length :]) for end in ends):
            return length
    return 0
