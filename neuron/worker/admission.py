"""Who may use the engine now, who waits, and who is told to come back."""

import asyncio
import dataclasses
from collections import deque
from collections.abc import Iterator
from contextlib import contextmanager

from neuron.protocol.errors import ApiError, overloaded, unavailable


class Ticket:
    """A place in line at first, then a slot, until `release`."""

    def __init__(self, admission: "Admission") -> None:
        loop = asyncio.get_running_loop()
        self._admission = admission
        self._deadline = loop.time() + admission.wait_s
        self.answer: asyncio.Future[None] = loop.create_future()
        self.holds_slot = False

    async def wait(self, timeout: float | None = None) -> bool:
        """Wait for the slot, at most `timeout` seconds; whether it is there.

        Raises:
            ApiError: 503, the line's own deadline passed or it was closed.
        """
        left = max(0.0, self._deadline - asyncio.get_running_loop().time())
        waiting = left if timeout is None else min(timeout, left)
        await asyncio.wait({self.answer}, timeout=waiting)
        if self.answer.done():
            self.answer.result()
            return True
        if waiting < left:
            return False
        raise unavailable(
            f"no slot became free within {self._admission.wait_s:g} s",
            code="queue_timeout",
            retry_after=self._admission.retry_after,
        )

    def release(self) -> None:
        """Give the slot, or the place in line, to the next one. Any further is fine."""
        self._admission.leave(self)


class Admission:
    """`slots` requests at once; up to `max_queue` wait, first come first served."""

    def __init__(self, slots: int, max_queue: int, wait_s: float) -> None:
        self.wait_s = wait_s
        self._slots = slots
        self._free = slots
        self._max_queue = max_queue
        self._queue: deque[Ticket] = deque()
        self._closed: ApiError | None = None

    @property
    def running(self) -> int:
        return self._slots - self._free

    @property
    def queued(self) -> int:
        return len(self._queue)

    @property
    def retry_after(self) -> float:
        """Seconds after which it may look better; grows with the line."""
        return min(30.0, 1 + self.queued / self._slots)

    @contextmanager
    def enter(self) -> Iterator[Ticket]:
        """Take a slot or a place in line; it is given back at the end, come what may.

        Raises:
            ApiError: 429, the queue is full; 503, it is closed.
        """
        if self._closed is not None:
            raise dataclasses.replace(self._closed)
        if not self._free and self.queued >= self._max_queue:
            raise overloaded(
                f"all {self._slots} slots are busy and {self.queued} requests wait",
                self.retry_after,
            )
        ticket = Ticket(self)
        self._queue.append(ticket)
        self._grant()
        try:
            yield ticket
        finally:
            ticket.release()

    def close(self, reason: ApiError) -> None:
        """Refuse who comes and wake everybody in line with `reason`."""
        self._closed = reason
        while self._queue:
            self._queue.popleft().answer.set_exception(dataclasses.replace(reason))

    def leave(self, ticket: Ticket) -> None:
        if ticket.holds_slot:
            ticket.holds_slot = False
            self._free += 1
            self._grant()
        elif ticket in self._queue:
            self._queue.remove(ticket)
        if ticket.answer.done():
            ticket.answer.exception()  # Seen, or nobody is left to see it.

    def _grant(self) -> None:
        while self._free and self._queue:
            ticket = self._queue.popleft()
            self._free -= 1
            ticket.holds_slot = True
            ticket.answer.set_result(None)
