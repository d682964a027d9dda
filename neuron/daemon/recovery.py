"""When a dead worker is started again, and when a silent one is given up."""

import time
from collections import deque
from collections.abc import Callable
from typing import Final

MAX_RESTARTS: Final = 3
WINDOW_S: Final = 600.0
_FIRST_DELAY_S: Final = 0.25


class RestartPolicy:
    """At most `MAX_RESTARTS` within `WINDOW_S`, each waiting longer than the last."""

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._restarts: deque[float] = deque()

    def next_delay(self) -> float | None:
        """Seconds to wait before this restart; None where there were too many."""
        now = self._clock()
        while self._restarts and now - self._restarts[0] > WINDOW_S:
            self._restarts.popleft()
        if len(self._restarts) >= MAX_RESTARTS:
            return None
        delay = _FIRST_DELAY_S * (1 << 2 * len(self._restarts))
        self._restarts.append(now)
        return delay


class LifeSigns:
    """Whether a worker that has work still gets on with it.

    An idle worker lives by its heartbeats. A busy one must also finish engine steps:
    its loop can be well while its engine hangs. Before its first heartbeat it is still
    being started, which has a deadline of its own.
    """

    def __init__(
        self, stall_s: float, clock: Callable[[], float] = time.monotonic
    ) -> None:
        self._stall_s = stall_s
        self._clock = clock
        self._steps: int | None = None
        self._alive_at: float | None = None
        self._beat_at = clock()

    def beat(self, *, busy: bool = False, steps: int | None = None) -> None:
        """A report came."""
        self._beat_at = self._clock()
        if not busy or steps is None or steps != self._steps:
            self._alive_at = self._beat_at
        self._steps = steps

    @property
    def heartbeat_age(self) -> float:
        return self._clock() - self._beat_at

    def stalled(self, *, has_work: bool) -> bool:
        if self._alive_at is None or not has_work:
            return False
        return self._clock() - self._alive_at > self._stall_s
