"""Slots, the line, and nobody forgotten in it."""

import asyncio
import contextlib

import pytest

from neuron.protocol.errors import ApiError, shutting_down
from neuron.worker.admission import Admission


async def hold(
    admission: Admission, release: asyncio.Event, order: list[int], i: int
) -> None:
    with admission.enter() as ticket:
        await ticket.wait()
        order.append(i)
        await release.wait()


async def spin() -> None:
    for _ in range(5):
        await asyncio.sleep(0)


async def test_first_come_first_served() -> None:
    admission = Admission(slots=1, max_queue=8, wait_s=60)
    releases = [asyncio.Event() for _ in range(4)]
    order: list[int] = []
    tasks = [
        asyncio.create_task(hold(admission, release, order, i))
        for i, release in enumerate(releases)
    ]
    for done, release in enumerate(releases):
        await spin()
        assert order == list(range(done + 1))
        assert (admission.running, admission.queued) == (1, 3 - done)
        release.set()
    await asyncio.gather(*tasks)
    assert (admission.running, admission.queued) == (0, 0)


async def test_a_full_line_is_refused_with_a_time_to_return() -> None:
    admission = Admission(slots=1, max_queue=1, wait_s=60)
    with admission.enter(), admission.enter():
        with pytest.raises(ApiError) as refusal, admission.enter():
            pass
        assert refusal.value.status == 429
        assert int(refusal.value.headers()["Retry-After"]) >= 1
    with admission.enter() as ticket:
        assert await ticket.wait(0)


async def test_waiting_has_a_deadline() -> None:
    admission = Admission(slots=1, max_queue=1, wait_s=0.01)
    with admission.enter() as first, admission.enter() as ticket:
        assert await first.wait()
        with pytest.raises(ApiError) as refusal:
            await ticket.wait()
        assert (refusal.value.status, refusal.value.code) == (503, "queue_timeout")
        assert refusal.value.retry_after
    assert (admission.running, admission.queued) == (0, 0)


async def test_an_impatient_wait_keeps_the_place() -> None:
    admission = Admission(slots=1, max_queue=2, wait_s=60)
    with admission.enter() as first, admission.enter() as second:
        assert await first.wait()
        assert not await second.wait(0.001)
        first.release()
        assert await second.wait(0.001)


@pytest.mark.parametrize("granted_first", [False, True])
async def test_a_cancelled_waiter_leaks_nothing(granted_first: bool) -> None:
    admission = Admission(slots=1, max_queue=2, wait_s=60)
    stack = contextlib.ExitStack()
    await stack.enter_context(admission.enter()).wait()
    waiter = asyncio.create_task(hold(admission, asyncio.Event(), [], 0))
    await spin()
    assert admission.queued == 1
    if granted_first:
        # The slot is handed over in the very moment in which the waiter goes.
        stack.close()
        assert admission.running == 1
    waiter.cancel()
    await asyncio.gather(waiter, return_exceptions=True)
    stack.close()
    assert (admission.running, admission.queued) == (0, 0)
    with admission.enter() as ticket:
        assert await ticket.wait(0)


async def test_closing_wakes_everybody() -> None:
    admission = Admission(slots=1, max_queue=8, wait_s=60)
    with admission.enter() as running:
        assert await running.wait(0)
        waiters = [
            asyncio.create_task(hold(admission, asyncio.Event(), [], i))
            for i in range(3)
        ]
        await spin()
        admission.close(shutting_down())
        outcomes = await asyncio.gather(*waiters, return_exceptions=True)
        for outcome in outcomes:
            assert isinstance(outcome, ApiError)
            assert (outcome.status, outcome.code) == (503, "shutting_down")
            assert outcome.headers()["Retry-After"]
        assert admission.running == 1
        with pytest.raises(ApiError, match="shutting down"), admission.enter():
            pass
    assert admission.running == 0


async def test_a_slot_given_back_early_is_given_back_once() -> None:
    admission = Admission(slots=2, max_queue=0, wait_s=60)
    with admission.enter() as ticket:
        ticket.release()
        ticket.release()
        assert admission.running == 0
    assert admission.running == 0


async def test_work_goes_on_while_the_place_in_line_is_kept() -> None:
    admission = Admission(slots=1, max_queue=1, wait_s=60)
    with admission.enter() as ticket:
        work = asyncio.create_task(asyncio.sleep(0.001, "done"))
        assert await ticket.meanwhile(work) == "done"
        assert (admission.running, admission.queued) == (0, 1)
        admission.close(shutting_down())
        with pytest.raises(ApiError, match="shutting down"):
            await ticket.meanwhile(work)


async def test_work_for_which_the_line_does_not_wait() -> None:
    admission = Admission(slots=1, max_queue=1, wait_s=0.01)
    with admission.enter() as ticket:
        work = asyncio.create_task(asyncio.sleep(60))
        with pytest.raises(ApiError) as refusal:
            await ticket.meanwhile(work)
        assert (refusal.value.status, refusal.value.code) == (503, "queue_timeout")
        work.cancel()
    assert admission.queued == 0


class Clock:
    """Time as the test says."""

    def __init__(self) -> None:
        self.now = 100.0

    def __call__(self) -> float:
        return self.now


async def test_the_time_to_return_is_what_slots_took_lately() -> None:
    clock = Clock()
    admission = Admission(slots=2, max_queue=8, wait_s=60, clock=clock)
    assert admission.retry_after() == 1
    for _ in range(2):
        with admission.enter() as ticket:
            await ticket.wait()
            clock.now += 4
    with contextlib.ExitStack() as stack:
        for _ in range(4):
            await stack.enter_context(admission.enter()).wait(0)
        # Two in front, two slots, 4 s each: three times 4 s / 2.
        assert admission.retry_after() == pytest.approx(6)
        stack.enter_context(admission.enter(priority=1))
        assert admission.retry_after(priority=1) == pytest.approx(4)
        clock.now += 10  # Those running take longer than the ones before.
        assert admission.retry_after() == pytest.approx(10 * 4 / 2)
        clock.now += 1000
        assert admission.retry_after() == 60


async def test_who_makes_room_is_told_to_come_back() -> None:
    admission = Admission(slots=1, max_queue=2, wait_s=60)
    with contextlib.ExitStack() as stack:
        for _ in range(2):
            await stack.enter_context(admission.enter(caller="greedy")).wait(0)
        last = stack.enter_context(admission.enter(caller="greedy"))
        with admission.enter(caller="modest") as ticket:
            with pytest.raises(ApiError, match="another caller") as refusal:
                await last.wait()
            assert refusal.value.status == 429
            assert refusal.value.headers()["Retry-After"]
            assert not await ticket.wait(0)
            assert admission.queued == 2
    assert (admission.running, admission.queued) == (0, 0)
    assert admission.rejections == {"made_room": 1}


async def test_rejections_are_counted_by_reason_and_waits_by_length() -> None:
    clock = Clock()
    admission = Admission(slots=1, max_queue=1, wait_s=3, clock=clock)
    with admission.enter() as first, admission.enter() as second:
        assert await first.wait()
        assert not await second.wait(0)
        with pytest.raises(ApiError), admission.enter():
            pass
        clock.now += 2
        first.release()
        assert await second.wait()
        with admission.enter() as late:
            clock.now += 3
            with pytest.raises(ApiError):
                await late.wait()
        admission.close(shutting_down())
        with pytest.raises(ApiError), admission.enter():
            pass
    assert admission.rejections == {
        "queue_full": 1,
        "queue_timeout": 1,
        "shutting_down": 1,
    }
    assert admission.waits == [1, 0, 0, 0, 1, 0, 0, 0, 0, 0]
    assert admission.waited_s == 2
