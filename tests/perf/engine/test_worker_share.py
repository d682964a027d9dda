"""What a worker leaves of its engine's speed: `pytest -m perf -n 0 -s tests/perf`.

The engine takes a GPU's time and computes nothing, so that what is above it shows: the
event loop, which words and sends every token, shares the interpreter with the thread
that launches the GPU's work.
"""

import asyncio
import sys
from pathlib import Path
from time import perf_counter
from typing import Any, Final

import pytest
from aiohttp import ClientSession, ClientTimeout, UnixConnector

from neuron.daemon.worker_process import WorkerProcess
from neuron.engines.base import GenerationRequest
from neuron.ipc import Ready, Report, Stats, WorkerSpec
from neuron.models.bundled import bundled_root
from tests.support.paced_worker import Pace, PacedEngine

MODEL: Final = bundled_root() / "tinystories-15m"
SECONDS: Final = 4.0
DEADLINE_S: Final = 60.0
PACES: Final = {1: (0.3, 1.2), 16: (0.5, 2.0), 64: (1.5, 5.0)}
"""Streams → milliseconds of host and device, of the order of an 8B model's on a large
GPU."""


@pytest.mark.perf
async def test_what_a_worker_leaves_of_its_engines_speed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    lines = ["", f"{'streams':>8}{'ahead':>7}{'steps/s':>9}{'in a worker':>13}"]
    for streams, (host_ms, device_ms) in PACES.items():
        for ahead in (False, True):
            pace = Pace(host_ms, device_ms, ahead)
            for name, value in pace.environ().items():
                monkeypatch.setenv(name, value)
            tokens = int(SECONDS * 1e3 / max(host_ms, device_ms))
            alone = await asyncio.to_thread(_alone, streams, tokens)
            served = await _served(tmp_path / f"{streams}{ahead}", streams, tokens)
            assert served > 0
            lines.append(
                f"{streams:8}{'yes' if ahead else 'no':>7}{alone:9.0f}"
                f"{served / alone:13.1%}"
            )
    sys.stdout.write("\n".join([*lines, ""]))


def _alone(streams: int, tokens: int) -> float:
    """Steps/s."""
    engine = PacedEngine()
    for index in range(streams):
        engine.submit(GenerationRequest(str(index), (1, 2, 3), tokens))
    start = perf_counter()
    while engine.has_work():
        engine.step()
    return engine.stats().steps / (perf_counter() - start)


async def _served(socket: Path, streams: int, tokens: int) -> float:
    """Steps/s while all streams are read by clients."""
    ready, beats = asyncio.Event(), list[tuple[float, int]]()

    def on_report(report: Report) -> None:
        if isinstance(report, Ready):
            ready.set()
        if isinstance(report, Stats) and report.in_flight == streams:
            beats.append((perf_counter(), report.steps or 0))

    async with asyncio.timeout(DEADLINE_S):
        process = await _start(socket, streams, on_report)
        try:
            await ready.wait()
            async with ClientSession(
                "http://worker",
                connector=UnixConnector(str(socket), limit=0),
                timeout=ClientTimeout(total=DEADLINE_S),
            ) as http:
                await asyncio.gather(*(_read(http, tokens) for _ in range(streams)))
        finally:
            await process.stop()
    (began, first), (ended, last) = beats[1], beats[-1]
    return (last - first) / (ended - began)


async def _start(socket: Path, slots: int, on_report: Any) -> WorkerProcess:
    spec = WorkerSpec(
        model="m", path=MODEL, engine="exllamav2", max_seq_len=100_000, slots=slots,
        cache_mode="fp16", cache_tokens=1_000_000, socket=socket,
    )  # fmt: skip
    real = asyncio.create_subprocess_exec

    async def start_paced(*command: str, **options: Any) -> asyncio.subprocess.Process:
        paced = ("tests.support.paced_worker" if part == "neuron.worker" else part
                 for part in command)  # fmt: skip
        return await real(*paced, **options)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(asyncio, "create_subprocess_exec", start_paced)
        return await WorkerProcess.start(spec, on_report)


async def _read(http: ClientSession, tokens: int) -> None:
    body = {
        "model": "m", "prompt": [1, 2, 3], "max_tokens": tokens, "ignore_eos": True,
        "stream": True,
    }  # fmt: skip
    async with http.post("/v1/completions", json=body) as answer:
        answer.raise_for_status()
        async for _ in answer.content.iter_any():
            pass
