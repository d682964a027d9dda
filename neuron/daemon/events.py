"""What happened on this neuron, numbered, for anybody who follows."""

import asyncio
import time
from collections import deque
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, Final, Literal

from neuron.protocol.types import Event, Model

KEPT: Final = 1024
SUBSCRIBER_BACKLOG: Final = 256


class LaggedError(Exception):
    """A follower was too slow; what it missed is in the log."""


class Subscription:
    """One follower; it ends when the follower falls too far behind."""

    def __init__(self) -> None:
        self.lagged = False
        self._queue: asyncio.Queue[Event | None] = asyncio.Queue(SUBSCRIBER_BACKLOG)

    def offer(self, event: Event | None) -> None:
        if self._queue.full():
            self.lagged = True
        else:
            self._queue.put_nowait(event)

    async def next(self, timeout: float) -> Event | None:
        """The next event, or None after `timeout` seconds or at the log's end.

        Raises:
            LaggedError: events were lost; resume from the last one seen.
        """
        if self.lagged and self._queue.empty():
            raise LaggedError
        try:
            async with asyncio.timeout(timeout):
                return await self._queue.get()
        except TimeoutError:
            return None


class EventLog:
    """The last events, and everybody who waits for the next one.

    Numbers start at the wall clock's milliseconds, so that a number from before a
    restart is recognised as too old to resume from.
    """

    def __init__(self) -> None:
        self._seq = int(time.time() * 1000)
        self._kept: deque[Event] = deque(maxlen=KEPT)
        self._subscriptions: set[Subscription] = set()
        self.closed = False

    @property
    def seq(self) -> int:
        """Number of the last event."""
        return self._seq

    def publish(
        self,
        message: str,
        *,
        kind: Literal["model", "node"] = "model",
        model: Model | None = None,
        data: dict[str, Any] | None = None,
    ) -> None:
        self._seq += 1
        event = Event(
            seq=self._seq, time=time.time(), kind=kind, message=message, model=model,
            data=data or {},
        )  # fmt: skip
        self._kept.append(event)
        for subscription in self._subscriptions:
            subscription.offer(event)

    def close(self) -> None:
        """No more will come: followers are let go."""
        self.closed = True
        for subscription in self._subscriptions:
            subscription.offer(None)

    def since(self, seq: int) -> list[Event] | None:
        """Events after `seq`, or None where not all of them are kept."""
        oldest = self._kept[0].seq if self._kept else self._seq + 1
        if not oldest - 1 <= seq <= self._seq:
            return None
        return [event for event in self._kept if event.seq > seq]

    @contextmanager
    def subscribe(self) -> Iterator[Subscription]:
        subscription = Subscription()
        self._subscriptions.add(subscription)
        try:
            yield subscription
        finally:
            self._subscriptions.discard(subscription)
