"""What a worker's heartbeat says."""

import asyncio
import os
import time
from collections import deque
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from neuron.ipc import HEARTBEAT_INTERVAL_S, Stats
from neuron.worker.admission import Admission
from neuron.worker.engine_host import EngineHost

_WINDOW_S: Final = 2.0


def rss_bytes() -> int | None:
    """Resident memory of this process; None where /proc does not tell."""
    try:
        pages = Path("/proc/self/statm").read_text(encoding="ascii").split()[1]
    except (OSError, IndexError):
        return None
    return int(pages) * os.sysconf("SC_PAGE_SIZE")


class Rate:
    """A counter's growth per second over the last seconds; None before it is known."""

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._samples: deque[tuple[float, int]] = deque()

    def __call__(self, count: int) -> float | None:
        now = self._clock()
        self._samples.append((now, count))
        while len(self._samples) > 2 and now - self._samples[1][0] >= _WINDOW_S:
            self._samples.popleft()
        start, before = self._samples[0]
        return (count - before) / (now - start) if now > start else None


@dataclass(slots=True)
class Tally:
    """What is counted over all requests and is nobody else's to know."""

    unparsed_calls: int = 0
    """Calls of tools that were none."""


class Vitals:
    """Heartbeats of one loaded model."""

    def __init__(self, host: EngineHost, admission: Admission, tally: Tally) -> None:
        self._host = host
        self._admission = admission
        self._tally = tally
        self._decode = Rate()
        self._prefill = Rate()

    async def beat(self, send: Callable[[Stats], None]) -> None:
        """Send heartbeats until cancelled."""
        loop = asyncio.get_running_loop()
        # Of its own: long prompts take all of the loop's threads, and a worker that
        # falls silent at work is killed.
        thread = ThreadPoolExecutor(1, thread_name_prefix="vitals")
        try:
            while True:
                send(self.stats(await loop.run_in_executor(thread, rss_bytes)))
                await asyncio.sleep(HEARTBEAT_INTERVAL_S)
        finally:
            thread.shutdown(wait=False)

    def stats(self, rss: int | None) -> Stats:
        stats = Stats(
            in_flight=self._admission.running,
            queued=self._admission.queued,
            rejections=dict(self._admission.rejections),
            queue_waits=list(self._admission.waits),
            queue_waited_s=self._admission.waited_s,
            unparsed_calls=self._tally.unparsed_calls,
            busy=self._host.busy,
            rss_bytes=rss,
        )
        if (engine := self._host.stats) is not None:
            stats.steps = engine.steps
            stats.kv_pages_used = engine.kv_pages_used
            stats.kv_pages_total = engine.kv_pages_total
            stats.prompt_tokens = engine.prompt_tokens
            stats.cached_tokens = engine.cached_tokens
            stats.generated_tokens = engine.generated_tokens
            stats.accepted_draft_tokens = engine.accepted_draft_tokens
            stats.rejected_draft_tokens = engine.rejected_draft_tokens
            stats.decode_tok_s = self._decode(engine.generated_tokens)
            stats.prefill_tok_s = self._prefill(
                engine.prompt_tokens - engine.cached_tokens
            )
        return stats
