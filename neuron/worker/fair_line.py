"""Who has a slot and who waits for one: priorities, fair shares, a bounded line.

Pure bookkeeping: no clock, no event loop. The rules:

- Everybody comes into the line first, where those wait for nothing yet that are still
  being prepared. Who is ready waits for a slot.
- A free slot goes to the ready request of the highest priority; among those to the
  caller with the fewest running requests; then to whoever came first. So callers share
  the slots evenly, whoever sends more, and within a class nobody is passed for ever:
  a caller without a running request waits only for those who came before it.
- A caller with `max_per_caller` running requests is passed over until one ends.
- The line is full with `max_queue` requests beside those for whom there are slots.
- A full line makes room for a newcomer only where that is fairer: it loses its lowest
  class's newest request of the caller with the most places there, if the newcomer is of
  a higher class, or of the same one and its caller still has fewer places afterwards.
  So one caller may fill an idle line, but cannot keep others out of it.
"""

from collections import Counter
from dataclasses import dataclass, field
from typing import Generic, TypeVar


@dataclass(eq=False)
class Place:
    """One request: in line, then `running`, then neither."""

    caller: str = ""
    priority: int = 0
    ready: bool = field(default=False, init=False)
    running: bool = field(default=False, init=False)
    arrival: int = field(default=0, init=False)


P = TypeVar("P", bound=Place)


class LineFullError(Exception):
    """There is neither a slot nor a place in line."""


class FairLine(Generic[P]):
    """`slots` requests run; up to `max_queue` wait."""

    def __init__(
        self, slots: int, max_queue: int, max_per_caller: int | None = None
    ) -> None:
        self.slots = slots
        self._max_queue = max_queue
        self._max_per_caller = slots if max_per_caller is None else max_per_caller
        self._arrivals = 0
        self._waiting: list[P] = []
        self._running: Counter[str] = Counter()

    @property
    def running(self) -> int:
        return self._running.total()

    @property
    def queued(self) -> int:
        return len(self._waiting)

    @property
    def preparing(self) -> int:
        """How many of those in line are not ready for a slot yet."""
        return sum(not place.ready for place in self._waiting)

    @property
    def capacity(self) -> int:
        """How many can be inside at once."""
        return self.slots + self._max_queue

    def ahead_of(self, priority: int) -> int:
        """How many wait that a newcomer of this class does not pass."""
        return sum(place.priority >= priority for place in self._waiting)

    def enter(self, place: P) -> P | None:
        """Take a place in line; returns who lost one for it, if anybody.

        Raises:
            LineFullError: there is none, and nothing was changed.
        """
        self._arrivals += 1
        place.arrival = self._arrivals
        inside = [*self._waiting, place]
        victim = None
        if len(inside) - self._slots_for(inside) > self._max_queue:
            victim = self._victim(place)
            inside.remove(victim)
        self._waiting = inside
        return victim

    def make_ready(self, place: P) -> list[P]:
        """Let it wait for a slot; returns who runs now."""
        place.ready = True
        return self._grant()

    def leave(self, place: P) -> list[P]:
        """Give up a slot or a place in line, if it has one; returns who runs now."""
        if place.running:
            place.running = False
            self._running[place.caller] -= 1
            if not self._running[place.caller]:
                del self._running[place.caller]
        elif place in self._waiting:
            self._waiting.remove(place)
        return self._grant()

    def clear(self) -> list[P]:
        """Send everybody home who waits; returns them."""
        waiting, self._waiting = self._waiting, []
        return waiting

    def _slots_for(self, waiting: list[P]) -> int:
        """How many of these could run now, were all of them ready."""
        of_caller = Counter(place.caller for place in waiting)
        able = (
            min(count, self._max_per_caller - self._running[caller])
            for caller, count in of_caller.items()
        )
        return min(self.slots - self.running, sum(able))

    def _may_run(self, place: P) -> bool:
        return place.ready and self._running[place.caller] < self._max_per_caller

    def _run(self, place: P) -> None:
        place.running = True
        self._running[place.caller] += 1

    def _grant(self) -> list[P]:
        granted = []
        while self.running < self.slots:
            able = [place for place in self._waiting if self._may_run(place)]
            if not able:
                break
            first = min(
                able, key=lambda p: (-p.priority, self._running[p.caller], p.arrival)
            )
            self._waiting.remove(first)
            self._run(first)
            granted.append(first)
        return granted

    def _victim(self, newcomer: P) -> P:
        lowest = min((place.priority for place in self._waiting), default=None)
        if lowest is None or newcomer.priority < lowest:
            raise LineFullError
        among = [place for place in self._waiting if place.priority == lowest]
        held = Counter(place.caller for place in among)
        victim = max(among, key=lambda p: (held[p.caller], p.arrival))
        fairer = held[newcomer.caller] + 1 < held[victim.caller]
        if newcomer.priority == lowest and not fairer:
            raise LineFullError
        return victim
