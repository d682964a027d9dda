"""What happened: a ring of events for people, and a signal that something changed."""

import asyncio
import logging
import time
from collections import deque
from typing import Literal

from services.schema import FleetEvent

log = logging.getLogger(__name__)

Level = Literal["info", "warning", "error"]

KEPT_EVENTS = 1000
_LEVELS = {"info": logging.INFO, "warning": logging.WARNING, "error": logging.ERROR}


class ChangeSignal:
    """A version that grows with every change, and a way to wait for the next one."""

    def __init__(self) -> None:
        self.version = 0
        self._event = asyncio.Event()

    def touch(self) -> None:
        self.version += 1
        self._event.set()
        self._event = asyncio.Event()

    async def wait_beyond(self, version: int, timeout: float) -> None:
        """Until the version is greater than `version`, or `timeout` seconds passed."""
        if self.version > version:
            return
        try:
            async with asyncio.timeout(timeout):
                await self._event.wait()
        except TimeoutError:
            return


class EventLog:
    """The last events; each also goes to the process's log.

    Numbers start at the wall clock's milliseconds, so that one from before a restart
    is older than any of this run.
    """

    def __init__(self, signal: ChangeSignal) -> None:
        self._signal = signal
        self._ring: deque[FleetEvent] = deque(maxlen=KEPT_EVENTS)
        self.seq = int(time.time() * 1000)

    def add(
        self,
        level: Level,
        kind: str,
        text: str,
        *,
        model: str | None = None,
        node: str | None = None,
    ) -> None:
        self.seq += 1
        self._ring.append(
            FleetEvent(
                seq=self.seq,
                time=time.time(),
                level=level,
                kind=kind,
                text=text,
                model=model,
                node=node,
            )
        )
        # One line each: parts of it are others' words.
        log.log(_LEVELS[level], "%s", " | ".join(text.splitlines()))
        self._signal.touch()

    def last(self, count: int) -> list[FleetEvent]:
        """Oldest first."""
        return list(self._ring)[-count:]

    def after(self, seq: int) -> list[FleetEvent]:
        """Events newer than `seq`, oldest first, as far as they are kept."""
        if seq >= self.seq:
            return []
        return [event for event in self._ring if event.seq > seq]
