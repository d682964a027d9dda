"""The event log and its followers."""

import asyncio

import pytest

from neuron.daemon.events import KEPT, SUBSCRIBER_BACKLOG, EventLog, LaggedError


async def test_numbers_grow_by_one_and_reach_every_follower() -> None:
    log = EventLog()
    with log.subscribe() as first, log.subscribe() as second:
        before = log.seq
        log.publish("a")
        log.publish("b")
        for follower in (first, second):
            events = [await follower.next(1) for _ in range(2)]
            assert [(e.seq, e.message) for e in events if e] == [
                (before + 1, "a"),
                (before + 2, "b"),
            ]
        assert await first.next(0.001) is None


def test_what_was_missed_is_known_as_far_as_it_is_kept() -> None:
    log = EventLog()
    start = log.seq
    assert log.since(start) == []
    for number in range(KEPT + 5):
        log.publish(str(number))
    missed = log.since(log.seq - 3)
    assert missed is not None
    assert [event.message for event in missed] == [str(KEPT + n) for n in (2, 3, 4)]
    assert log.since(start) is None
    assert log.since(log.seq + 1) is None
    assert log.since(7) is None


async def test_the_end_wakes_every_follower() -> None:
    log = EventLog()
    with log.subscribe() as follower:
        waiting = asyncio.create_task(follower.next(60))
        await asyncio.sleep(0)
        log.close()
        assert await waiting is None
    assert log.closed


async def test_a_slow_follower_is_let_go_and_costs_a_bounded_memory() -> None:
    log = EventLog()
    with log.subscribe() as follower:
        for _ in range(SUBSCRIBER_BACKLOG + 10):
            log.publish("x")
        seen = [await follower.next(1) for _ in range(SUBSCRIBER_BACKLOG)]
        assert all(seen)
        with pytest.raises(LaggedError):
            await follower.next(1)
