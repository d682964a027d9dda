"""What was counted in the last minute, by the second: bounded however much it is."""

from collections import deque
from typing import Final

SPAN_S: Final = 60


class Minute:
    """Counts; times are on the monotonic clock."""

    def __init__(self) -> None:
        self._seconds: deque[tuple[int, int]] = deque()
        """(second, count), oldest first; one a second at most."""
        self._total = 0

    def add(self, count: int, now: float) -> None:
        second = int(now)
        self._total += count
        if self._seconds and self._seconds[-1][0] >= second:
            second, before = self._seconds.pop()
            count += before
        self._seconds.append((second, count))
        self._forget(now)

    def total(self, now: float) -> int:
        """Of the last minute."""
        self._forget(now)
        return self._total

    def wait_below(self, limit: int, now: float) -> float:
        """Seconds until the total is below `limit`; 0 where it is now."""
        left, wait = self.total(now), 0.0
        for second, count in self._seconds:
            if left < limit:
                break
            left -= count
            wait = second + SPAN_S + 1 - now
        return wait

    def _forget(self, now: float) -> None:
        while self._seconds and self._seconds[0][0] + SPAN_S < int(now):
            self._total -= self._seconds.popleft()[1]
