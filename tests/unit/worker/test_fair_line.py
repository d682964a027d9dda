"""The rules by which slots and places in line are given away."""

from collections import Counter
from typing import Any

import pytest
from hypothesis import given, settings, strategies as st
from hypothesis.stateful import (
    RuleBasedStateMachine,
    initialize,
    invariant,
    precondition,
    rule,
)

from neuron.worker.fair_line import FairLine, LineFullError, Place

CALLERS = "abc"


def _is_used(machine: Any) -> bool:
    return bool(machine.inside)


class Interleavings(RuleBasedStateMachine):
    """Any order of entering, leaving and clearing, beside a plain account of it."""

    @initialize(
        slots=st.integers(1, 3),
        max_queue=st.integers(0, 5),
        max_per_caller=st.none() | st.integers(1, 2),
    )
    def start(self, slots: int, max_queue: int, max_per_caller: int | None) -> None:
        self.slots, self.max_queue = slots, max_queue
        self.cap = max_per_caller or slots
        self.line: FairLine[Place] = FairLine(slots, max_queue, max_per_caller)
        self.inside: list[Place] = []

    def waiting(self) -> list[Place]:
        return [place for place in self.inside if not place.running]

    def running_of(self, caller: str) -> int:
        return sum(place.running and place.caller == caller for place in self.inside)

    @rule(caller=st.sampled_from(CALLERS), priority=st.integers(0, 2))
    def enter(self, caller: str, priority: int) -> None:
        place = Place(caller, priority)
        before = self.waiting()
        try:
            victim = self.line.enter(place)
        except LineFullError:
            assert len(before) >= self.max_queue
            assert all(place.priority >= priority for place in before)
            return
        assert not place.running
        self.inside.append(place)
        if victim is not None:
            assert len(before) >= self.max_queue
            assert victim in before
            assert victim.priority <= priority
            self.inside.remove(victim)

    @precondition(_is_used)
    @rule(data=st.data())
    def make_ready(self, data: st.DataObject) -> None:
        place = data.draw(st.sampled_from(self.inside))
        granted = self.line.make_ready(place)
        assert granted == [place] * len(granted)

    @precondition(_is_used)
    @rule(data=st.data())
    def leave(self, data: st.DataObject) -> None:
        place = data.draw(st.sampled_from(self.inside))
        self.inside.remove(place)
        before = [
            p
            for p in self.waiting()
            if p.ready and self.running_of(p.caller) < self.cap
        ]
        granted = self.line.leave(place)
        assert len(granted) <= 1
        for winner in granted:
            assert winner.running
            assert winner.priority == max(p.priority for p in before)
        assert self.line.leave(place) == []

    @rule()
    def clear(self) -> None:
        assert self.line.clear() == self.waiting()
        self.inside = [place for place in self.inside if place.running]

    @invariant()
    def counters_agree(self) -> None:
        waiting = self.waiting()
        assert self.line.running == len(self.inside) - len(waiting) <= self.slots
        assert self.line.queued == len(waiting)
        assert len(self.inside) <= self.line.capacity == self.slots + self.max_queue
        assert all(place.ready for place in self.inside if place.running)
        assert all(self.running_of(caller) <= self.cap for caller in CALLERS)

    @invariant()
    def no_slot_idles(self) -> None:
        if self.line.running < self.slots:
            able = [p for p in self.waiting() if p.ready]
            assert all(self.running_of(p.caller) == self.cap for p in able)

    def teardown(self) -> None:
        if not hasattr(self, "line"):
            return
        while self.inside:
            self.line.leave(self.inside.pop())
        assert (self.line.running, self.line.queued) == (0, 0)


TestInterleavings = Interleavings.TestCase
TestInterleavings.settings = settings(max_examples=100, stateful_step_count=30)


def enter(line: FairLine[Place], place: Place) -> Place | None:
    """Let one in that is ready at once; returns who made room for it."""
    victim = line.enter(place)
    line.make_ready(place)
    return victim


@given(
    slots=st.integers(1, 4),
    arrivals=st.lists(st.sampled_from("abcdefgh"), min_size=1, max_size=80),
    caller=st.sampled_from("abz"),
    before=st.lists(st.sampled_from(CALLERS), max_size=8),
)
def test_nobody_starves_within_a_class(
    slots: int, arrivals: list[str], caller: str, before: list[str]
) -> None:
    line: FairLine[Place] = FairLine(slots, 1000)
    running = []
    for name in before:
        enter(line, place := Place(name))
        running += [place] * place.running
    ours = Place(caller)
    enter(line, ours)
    running += [ours] * ours.running
    in_front = len(before)
    ended = 0
    # However many come after: once the oldest requests end, one after the other, …
    bound = (before.count(caller) + 1) * (in_front + slots + 1)
    while not ours.running:
        for name in (arrivals * bound)[ended * 3 : ended * 3 + 3]:
            enter(line, Place(name))
        running += line.leave(running.pop(0))
        ended += 1
        assert ended <= bound


def run_all(line: FairLine[Place], first: list[Place]) -> str:
    """Callers in the order in which they get a slot, the oldest request ending."""
    order = ""
    running = list(first)
    while running:
        granted = line.leave(running.pop(0))
        order += "".join(place.caller for place in granted)
        running += granted
    return order


def test_callers_share_the_slots_whoever_sends_more() -> None:
    line: FairLine[Place] = FairLine(2, 16)
    first = [Place("a"), Place("a")]
    for place in [*first, *(Place(caller) for caller in "aaaabb")]:
        enter(line, place)
    # Each time one ends, its caller has one running less than the other.
    assert run_all(line, first) == "babaaa"


def test_a_higher_class_goes_first() -> None:
    line: FairLine[Place] = FairLine(1, 16)
    first = Place("x")
    enter(line, first)
    for caller, priority in (("low", 0), ("high", 2), ("mid", 1)):
        enter(line, Place(caller, priority))
    assert line.ahead_of(1) == 2
    assert run_all(line, [first]) == "highmidlow"


def test_a_caller_at_its_cap_is_passed_and_a_slot_stays_free() -> None:
    line: FairLine[Place] = FairLine(3, 16, max_per_caller=1)
    first, second = Place("a"), Place("a")
    enter(line, first)
    enter(line, second)
    assert (first.running, second.running, line.running) == (True, False, 1)
    other = Place("b")
    enter(line, other)
    assert other.running
    assert line.leave(first) == [second]


def test_who_is_not_ready_holds_no_slot_and_nobody_up() -> None:
    line: FairLine[Place] = FairLine(1, 1)
    slow, quick = Place("a", priority=1), Place("b")
    assert line.enter(slow) is line.enter(quick) is None
    assert (line.running, line.queued) == (0, 2)
    assert line.make_ready(quick) == [quick]
    assert line.make_ready(slow) == []
    with pytest.raises(LineFullError):
        line.enter(Place("c"))
    assert line.leave(quick) == [slow]


def test_those_being_prepared_fill_the_line_too() -> None:
    line: FairLine[Place] = FairLine(2, 1, max_per_caller=1)
    assert line.enter(Place("a")) is line.enter(Place("a")) is None
    # One slot is not for this caller.
    with pytest.raises(LineFullError):
        line.enter(Place("a"))
    assert line.enter(Place("b")) is None
    with pytest.raises(LineFullError):
        line.enter(Place("b"))


def fill(line: FairLine[Place], callers: str, priority: int = 0) -> list[Place]:
    places = [Place(caller, priority) for caller in callers]
    for place in places:
        assert enter(line, place) is None
    return places


def test_one_caller_may_fill_an_idle_line_but_keeps_nobody_out() -> None:
    line: FairLine[Place] = FairLine(1, 4)
    fill(line, "x")
    greedy = fill(line, "aaaa")
    with pytest.raises(LineFullError):
        enter(line, Place("a"))
    assert enter(line, Place("b")) is greedy[3]
    assert enter(line, Place("b")) is greedy[2]
    with pytest.raises(LineFullError):
        enter(line, Place("b"))  # Two each: a third one would be no fairer.
    assert enter(line, Place("c")) is not None
    assert line.queued == 4


def test_a_higher_class_takes_the_place_of_a_lower_one() -> None:
    line: FairLine[Place] = FairLine(1, 2)
    fill(line, "x")
    low = fill(line, "ab")
    assert enter(line, Place("a", 1)) is low[1]
    assert enter(line, Place("a", 1)) is low[0]
    with pytest.raises(LineFullError):
        enter(line, Place("c", 0))


@given(st.lists(st.sampled_from(CALLERS), max_size=60))
def test_a_full_line_ends_up_shared_evenly(arrivals: list[str]) -> None:
    line: FairLine[Place] = FairLine(1, 6)
    fill(line, "x")
    held: Counter[str] = Counter()
    refused = set()
    for caller in arrivals:
        try:
            victim = enter(line, Place(caller))
        except LineFullError:
            refused.add(caller)
            # Nobody has two places more than whoever is refused.
            assert max(held.values()) <= held[caller] + 1
            continue
        held[caller] += 1
        if victim is not None:
            held[victim.caller] -= 1
    assert held.total() == min(6, len(arrivals))
