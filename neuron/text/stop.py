"""Stop strings in a stream of text."""

from collections.abc import Sequence


class StopMatcher:
    """Passes text on up to the first stop string to be completed.

    Text that may turn out to begin a stop string is held back, so that no part of one
    is ever passed on. How the text is split does not matter.
    """

    def __init__(self, stops: Sequence[str]) -> None:
        self._stops = tuple(stop for stop in stops if stop)
        self._held = ""
        self.matched: str | None = None

    def feed(self, text: str) -> str:
        """The text that is certain now; nothing after a match."""
        if self.matched is not None:
            return ""
        if not self._stops:
            return text
        held = self._held + text
        if (match := self._first(held)) is not None:
            self.matched = match[1]
            self._held = ""
            return held[: match[0]]
        keep = self._keep(held)
        self._held = held[len(held) - keep :]
        return held[: len(held) - keep]

    def flush(self) -> str:
        """What was held back, at an end without a match."""
        held, self._held = self._held, ""
        return held

    def _first(self, text: str) -> tuple[int, str] | None:
        """(start, stop) of the one that ends first; of those, the longest."""
        found = [
            (start + len(stop), start, stop)
            for stop in self._stops
            if (start := text.find(stop)) >= 0
        ]
        if not found:
            return None
        _, start, stop = min(found)
        return start, stop

    def _keep(self, text: str) -> int:
        """Length of the longest end of `text` that begins a stop string."""
        longest = min(len(text), max(map(len, self._stops)) - 1)
        for length in range(longest, 0, -1):
            end = text[len(text) - length :]
            if any(stop.startswith(end) for stop in self._stops):
                return length
        return 0
