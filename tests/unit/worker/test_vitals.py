"""Heartbeats of a worker that is busy with something else."""

import asyncio
import threading
from concurrent.futures import ThreadPoolExecutor

from neuron.engines.base import EngineStats
from neuron.ipc import Stats
from neuron.worker.admission import Admission
from neuron.worker.engine_host import EngineHost
from neuron.worker.vitals import Tally, Vitals


async def test_heartbeats_go_on_while_prompts_take_every_thread() -> None:
    loop = asyncio.get_running_loop()
    release = threading.Event()
    threads = ThreadPoolExecutor(1)
    loop.set_default_executor(threads)
    taken = loop.run_in_executor(None, release.wait, 30)
    beats = asyncio.Queue[Stats]()
    vitals = Vitals(EngineHost(lambda _: None), Admission(1, 1, 1), Tally())
    beat = asyncio.create_task(vitals.beat(beats.put_nowait))
    try:
        async with asyncio.timeout(10):
            first, second = await beats.get(), await beats.get()
        assert first.rss_bytes
        assert second.rss_bytes
        assert not taken.done()
    finally:
        release.set()
        beat.cancel()
        await asyncio.gather(taken, beat, return_exceptions=True)


async def test_guesses_are_told_with_the_tokens() -> None:
    host = EngineHost(lambda _: None)
    vitals = Vitals(host, Admission(1, 1, 1), Tally())
    assert vitals.stats(None).accepted_draft_tokens is None
    host.stats = EngineStats(
        generated_tokens=9, accepted_draft_tokens=6, rejected_draft_tokens=2
    )
    told = vitals.stats(None)
    assert told.generated_tokens == 9
    assert (told.accepted_draft_tokens, told.rejected_draft_tokens) == (6, 2)
