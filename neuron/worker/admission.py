"""Who may use the engine now, who waits, and who is told to come back."""

import asyncio
import dataclasses
import time
from collections import Counter, deque
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any, Final, TypeVar

from neuron.ipc import QUEUE_WAIT_BOUNDS_S
from neuron.protocol.errors import ApiError, overloaded, unavailable
from neuron.worker.fair_line import FairLine, LineFullError, Place

T = TypeVar("T")

_REMEMBERED: Final = 32
_MIN_RETRY_S: Final = 1.0
_MAX_RETRY_S: Final = 60.0
"""Clients of OpenAI's take no longer one seriously."""


class Ticket(Place):
    """A place in line at first, then, for who waits, a slot, until `release`."""

    def __init__(self, admission: "Admission", caller: str, priority: int) -> None:
        super().__init__(caller, priority)
        self._admission = admission
        self.arrived = self.granted = admission.clock()
        self.answer: asyncio.Future[None] = asyncio.get_running_loop().create_future()

    async def wait(self, timeout: float | None = None) -> bool:
        """Wait for the slot, at most `timeout` seconds; whether it is there.

        Raises:
            ApiError: 503, the line's own deadline passed or it was closed; 429, it
                had to make room.
        """
        self._admission.make_ready(self)
        left = self._left()
        waiting = left if timeout is None else min(timeout, left)
        await asyncio.wait({self.answer}, timeout=waiting)
        if self.answer.done():
            self.answer.result()
            return True
        if waiting < left:
            return False
        raise self._admission.timed_out(self)

    async def meanwhile(self, work: "asyncio.Future[T]") -> T:
        """What comes of `work`, as long as the place in line is not lost before.

        Raises:
            ApiError: as `wait`.
        """
        either: set[asyncio.Future[Any]] = {work, self.answer}
        await asyncio.wait(
            either, timeout=self._left(), return_when=asyncio.FIRST_COMPLETED
        )
        if self.answer.done():
            self.answer.result()
        if not work.done():
            raise self._admission.timed_out(self)
        return work.result()

    def _left(self) -> float:
        admission = self._admission
        return max(0.0, self.arrived + admission.wait_s - admission.clock())

    def release(self) -> None:
        """Give the slot, or the place in line, to the next one. Any further is fine."""
        self._admission.leave(self)


class Admission:
    """A `FairLine` that can be awaited, with deadlines, and that can be closed.

    `rejections` counts by reason: `queue_full`, `made_room`, `queue_timeout`, or the
    code with which it was closed. `waits` counts the granted by how long they waited
    (`neuron.ipc.QUEUE_WAIT_BOUNDS_S`, and beyond), `waited_s` is the sum.
    """

    def __init__(
        self,
        slots: int,
        max_queue: int,
        wait_s: float,
        max_per_caller: int | None = None,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self.wait_s = wait_s
        self.clock = clock
        self.rejections: Counter[str] = Counter()
        self.waits = [0] * (len(QUEUE_WAIT_BOUNDS_S) + 1)
        self.waited_s = 0.0
        self._line: FairLine[Ticket] = FairLine(slots, max_queue, max_per_caller)
        self._holders: set[Ticket] = set()
        self._holds: deque[float] = deque(maxlen=_REMEMBERED)
        self._closed: ApiError | None = None

    @property
    def running(self) -> int:
        return self._line.running

    @property
    def queued(self) -> int:
        return self._line.queued

    @property
    def preparing(self) -> int:
        """How many of those in line do not wait for a slot yet."""
        return self._line.preparing

    @property
    def capacity(self) -> int:
        """How many tickets there can be at once."""
        return self._line.capacity

    def retry_after(self, priority: int = 0) -> float:
        """Seconds in which a newcomer of this class would have a slot.

        Slots become free as often as they did lately: each was held for the mean of
        the last ones, or longer where those running now have it for longer already.
        """
        now = self.clock()
        running = [now - ticket.granted for ticket in self._holders]
        hold = max(_mean(self._holds), _mean(running))
        estimate = hold * (self._line.ahead_of(priority) + 1) / self._line.slots
        return min(_MAX_RETRY_S, max(_MIN_RETRY_S, estimate))

    @contextmanager
    def enter(self, *, caller: str = "", priority: int = 0) -> Iterator[Ticket]:
        """Take a place in line; whatever became of it is given back at the end.

        Requests without a `caller` count as those of one. A higher `priority` goes
        first.

        Raises:
            ApiError: 429, the queue is full; 503, it is closed.
        """
        if self._closed is not None:
            self.rejections[self._closed.code] += 1
            raise dataclasses.replace(self._closed)
        ticket = Ticket(self, caller, priority)
        try:
            victim = self._line.enter(ticket)
        except LineFullError:
            raise self._full(ticket, "queue_full") from None
        if victim is not None:
            victim.answer.set_exception(self._full(victim, "made_room"))
        try:
            yield ticket
        finally:
            ticket.release()

    def close(self, reason: ApiError) -> None:
        """Refuse who comes and wake everybody in line with `reason`."""
        self._closed = reason
        for ticket in self._line.clear():
            self.rejections[reason.code] += 1
            ticket.answer.set_exception(dataclasses.replace(reason))

    def make_ready(self, ticket: Ticket) -> None:
        if not ticket.ready:
            for next_one in self._line.make_ready(ticket):
                self._granted(next_one)

    def leave(self, ticket: Ticket) -> None:
        if ticket in self._holders:
            self._holders.remove(ticket)
            self._holds.append(self.clock() - ticket.granted)
        for next_one in self._line.leave(ticket):
            self._granted(next_one)
        if ticket.answer.done():
            ticket.answer.exception()  # Seen, or nobody is left to see it.

    def timed_out(self, ticket: Ticket) -> ApiError:
        """503 for one that waited in vain; it is in line until it leaves."""
        self.rejections["queue_timeout"] += 1
        return unavailable(
            f"no slot became free within {self.wait_s:g} s",
            code="queue_timeout",
            retry_after=self.retry_after(ticket.priority),
        )

    def _full(self, ticket: Ticket, reason: str) -> ApiError:
        self.rejections[reason] += 1
        left_for = (
            "" if reason == "queue_full" else "; the place went to another caller"
        )
        return overloaded(
            f"all {self._line.slots} slots are busy and {self.queued} requests wait"
            f"{left_for}",
            self.retry_after(ticket.priority),
        )

    def _granted(self, ticket: Ticket) -> None:
        ticket.granted = self.clock()
        waited = ticket.granted - ticket.arrived
        self.waited_s += waited
        self.waits[sum(waited > bound for bound in QUEUE_WAIT_BOUNDS_S)] += 1
        self._holders.add(ticket)
        ticket.answer.set_result(None)


def _mean(values: "deque[float] | list[float]") -> float:
    return sum(values) / len(values) if values else 0.0
