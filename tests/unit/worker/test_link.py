"""The worker's pipes to the daemon."""

import io
import os
import threading
from collections.abc import Iterator
from contextlib import contextmanager

import pytest

from neuron.ipc import REPORT, Command, LoadFailed, Progress, Report, Stats
from neuron.worker.link import Reporter, follow
from neuron.worker.vitals import Rate, rss_bytes

DEADLINE_S = 10


@contextmanager
def reporting() -> Iterator[tuple[Reporter, int]]:
    read_end, write_end = os.pipe()
    try:
        yield Reporter(write_end), read_end
    finally:
        os.close(read_end)
        os.close(write_end)


def read(descriptor: int) -> list[Report]:
    lines = os.read(descriptor, 1 << 20).splitlines()
    return [REPORT.validate_json(line) for line in lines]


def test_of_much_progress_only_some_is_sent_but_always_the_end() -> None:
    with reporting() as (reporter, read_end):
        for stage in ("weights", "warm-up"):
            for done in range(1001):
                reporter.progress(stage, done, 1000)
        reports = [r for r in read(read_end) if isinstance(r, Progress)]
    assert len(reports) < 100
    for stage in ("weights", "warm-up"):
        dones = [report.done for report in reports if report.stage == stage]
        assert (dones[0], dones[-1]) == (0, 1000)


def test_a_daemon_that_does_not_read_holds_nothing_up(
    caplog: pytest.LogCaptureFixture,
) -> None:
    with reporting() as (reporter, read_end):
        for _ in range(5000):
            reporter.send(Stats())
        assert all(isinstance(report, Stats) for report in read(read_end))
    assert "does not read" in caplog.text


def test_a_daemon_that_is_gone_is_no_error(caplog: pytest.LogCaptureFixture) -> None:
    read_end, write_end = os.pipe()
    os.close(read_end)
    try:
        Reporter(write_end).send(LoadFailed(message="x"))
    finally:
        os.close(write_end)
    assert "is gone" in caplog.text


def test_commands_are_obeyed_and_the_end_of_input_is_the_end(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    exited = threading.Event()
    monkeypatch.setattr(os, "_exit", lambda code: exited.set())
    obeyed: list[Command] = []
    lines = '{"kind": "close", "reason": "shutting_down"}\nnonsense\n{"kind": "stop"}\n'
    follow(io.StringIO(lines), obeyed.append)
    assert exited.wait(DEADLINE_S)
    assert obeyed == [
        Command(kind="close", reason="shutting_down"),
        Command(kind="stop"),
    ]
    assert "nonsense" in caplog.text


def test_a_rate_is_over_the_last_seconds() -> None:
    now = 0.0
    rate = Rate(lambda: now)
    assert rate(100) is None
    for _ in range(20):
        now += 0.5
        assert rate(100 + int(now * 10)) == pytest.approx(10)
    rates = []
    for _ in range(6):
        now += 0.5
        rates.append(rate(300))
    assert rates[-1] == 0


def test_resident_memory_is_measured() -> None:
    measured = rss_bytes()
    assert measured is not None
    assert measured > 10_000_000
