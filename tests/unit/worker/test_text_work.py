"""Turns for text work: shared, bounded, and given back when they are really over."""

import asyncio
import threading
from collections.abc import Iterator
from contextlib import contextmanager

import pytest

from neuron.protocol.errors import ApiError
from neuron.text.abandonment import AbandonedError, stop_if_abandoned
from neuron.worker.admission import Admission
from neuron.worker.text_work import TextWork
from tests.unit.worker.waiting import until


class Slow:
    """Work in a thread that goes on until it is let go, or notices."""

    def __init__(self) -> None:
        self.begun = self.abandoned = 0
        self.go_on = threading.Event()
        self.deaf = False

    async def __call__(self) -> str:
        return await asyncio.to_thread(self._run)

    def _run(self) -> str:
        self.begun += 1
        while not self.go_on.wait(0.001):
            if self.deaf:
                continue
            try:
                stop_if_abandoned()
            except AbandonedError:
                self.abandoned += 1
                raise
        return "done"


@contextmanager
def slow() -> Iterator[Slow]:
    """Threads end with the test, whatever comes of it."""
    work = Slow()
    try:
        yield work
    finally:
        work.go_on.set()


async def quick() -> str:
    return "quick"


async def test_one_caller_leaves_the_others_a_turn() -> None:
    work = TextWork(Admission(slots=8, max_queue=8, wait_s=60))
    with slow() as long:
        greedy = [
            asyncio.create_task(work.run(long, caller="greedy")) for _ in range(8)
        ]
        await until(lambda: long.begun == 2)
        assert await work.run(quick, caller="modest") == "quick"
        assert long.begun == 2
        long.go_on.set()
        assert await asyncio.gather(*greedy) == ["done"] * 8


async def test_who_leaves_ends_its_work() -> None:
    work = TextWork(Admission(slots=2, max_queue=2, wait_s=60))
    with slow() as long:
        leaving = asyncio.create_task(work.run(long))
        await until(lambda: long.begun == 1)
        leaving.cancel()
        with pytest.raises(asyncio.CancelledError):
            await leaving
        await until(lambda: long.abandoned == 1)
        assert await work.run(quick) == "quick"


async def test_leaving_again_and_again_is_no_way_to_more_turns() -> None:
    work = TextWork(Admission(slots=2, max_queue=2, wait_s=0.05))
    with slow() as long:
        long.deaf = True
        leaving = [asyncio.create_task(work.run(long)) for _ in range(2)]
        await until(lambda: long.begun == 2)
        for task in leaving:
            task.cancel()
        await asyncio.gather(*leaving, return_exceptions=True)
        with pytest.raises(ApiError) as refusal:
            await work.run(quick)
        assert refusal.value.code == "queue_timeout"
        long.go_on.set()
        await until(lambda: not work.running)
        assert await work.run(quick) == "quick"


async def test_what_fails_fails_for_who_waits() -> None:
    work = TextWork(Admission(slots=2, max_queue=2, wait_s=60))

    async def fail() -> None:
        raise ApiError(400, "no", code="invalid_request_body")

    for _ in range(8):
        with pytest.raises(ApiError, match="no"):
            await work.run(fail)
    assert not work.running


async def test_closing_ends_what_runs() -> None:
    work = TextWork(Admission(slots=2, max_queue=2, wait_s=60))
    with slow() as long:
        running = asyncio.create_task(work.run(long))
        await until(lambda: long.begun == 1)
        await work.close()
        with pytest.raises(asyncio.CancelledError):
            await running
        await until(lambda: long.abandoned == 1)
