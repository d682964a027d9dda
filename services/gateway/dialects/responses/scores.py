"""Log-probabilities of the answer's text, out of those of all tokens.

The neuron scores every token, those of thoughts, calls and markers too, and may tell a
token before its text or after it: what belongs together is found by their bytes.
"""

from collections import deque

from services.gateway.dialects.base import Json


class TextScores:
    """Tokens that were told and whose text was not."""

    def __init__(self) -> None:
        self._tokens: deque[tuple[bytes, Json]] = deque()
        self._over = b""
        """Of the last token taken, what goes beyond the text so far."""

    def add(self, tokens: list[Json]) -> None:
        self._tokens.extend((bytes(each.get("bytes") or ()), each) for each in tokens)

    def take(self, text: str) -> list[Json]:
        """The tokens that this text, which comes next, is spelt with."""
        wanted = text.encode()
        shared = min(len(self._over), len(wanted))
        if self._over[:shared] == wanted[:shared]:
            self._over, wanted = self._over[shared:], wanted[shared:]
        if not wanted:
            return []
        spelt = b"".join(spelling for spelling, _ in self._tokens)
        begin = spelt.find(wanted)
        if begin < 0:
            # Told late, or damaged on the way: better with the wrong text than lost.
            begin, wanted = 0, spelt
        return self._between(begin, begin + len(wanted))

    def _between(self, begin: int, end: int) -> list[Json]:
        """Those that spell this range, which are forgotten with all before them."""
        taken, at, spelling = [], 0, b""
        while self._tokens and at < end:
            spelling, token = self._tokens.popleft()
            at += len(spelling)
            if at > begin:
                taken.append(token)
        self._over = spelling[len(spelling) - (at - end) :] if at > end else b""
        return taken
