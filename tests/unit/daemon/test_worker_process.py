"""The pipes to a worker, with a worker that cannot even start."""

import asyncio
from pathlib import Path

from neuron.daemon.worker_process import WorkerProcess
from neuron.ipc import LoadFailed, Report, WorkerSpec


async def test_a_load_that_fails_is_reported_and_its_log_kept(tmp_path: Path) -> None:
    spec = WorkerSpec(
        model="none",
        path=tmp_path,
        engine="reference",
        max_seq_len=16,
        slots=1,
        cache_mode="fp32",
        cache_tokens=16,
        socket=tmp_path / "s",
    )
    reports: list[Report] = []
    worker = await WorkerProcess.start(spec, reports.append)
    async with asyncio.timeout(30):
        assert await worker.wait() == "exited with code 1"
    await worker.stop()
    (failure,) = [report for report in reports if isinstance(report, LoadFailed)]
    assert "tokenizer.json" in failure.message
    assert any("tokenizer.json" in line for line in worker.log_tail)
