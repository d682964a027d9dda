"""The supervisor with real children that crash, hang or end."""

import asyncio
import os
import signal
import sys
from pathlib import Path

import pytest

from cortex_tui import local_gateway, supervisor
from cortex_tui.local_gateway import LocalGatewayError
from cortex_tui.supervisor import Supervisor
from neuron.protocol.announce import Announcement
from tests.support.processes import Home

NEVER_READY = "import time; time.sleep(60)"


@pytest.fixture(autouse=True)
def _own_home(home: Home, monkeypatch: pytest.MonkeyPatch) -> None:
    for name, value in home.environ.items():
        monkeypatch.setenv(name, value)
    monkeypatch.setattr(supervisor, "BACKOFF_S", (0.0, 0.0))


class Clock:
    now = 0.0

    def __call__(self) -> float:
        return self.now


async def child(code: str, clock: Clock | None = None) -> Supervisor:
    command = [sys.executable, "-c", code]
    return await asyncio.to_thread(Supervisor, command, clock=clock or Clock())


async def log_text() -> str:
    return await asyncio.to_thread(lambda: local_gateway.log_path().read_text())


def kill(pid: int | None) -> None:
    assert pid is not None
    os.kill(pid, signal.SIGKILL)
    os.waitpid(pid, 0)


async def refusal(supervised: Supervisor) -> str:
    with pytest.raises(LocalGatewayError) as caught:
        await supervised.locate()
    return str(caught.value)


async def test_one_that_crashes_is_started_again_but_not_for_ever() -> None:
    clock = Clock()
    crashing = await child("import sys; print('out of luck'); sys.exit(3)", clock)
    for _ in range(supervisor.RESTARTS + 1):
        assert await refusal(crashing) == (
            "the gateway did not start (exit 3): out of luck"
        )
    gave_up = await refusal(crashing)
    assert gave_up.startswith("the gateway crashed 5 times in 10 min (exit 3)")
    assert (await log_text()).count("out of luck") == 6

    clock.now = supervisor.RESTART_WINDOW_S + 1
    assert "did not start" in await refusal(crashing), "an old crash is forgiven"


async def test_pauses_grow_up_to_the_longest(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(supervisor, "BACKOFF_S", (0.5, 30.0))
    crashing = await child("")
    pauses = []
    for _ in range(supervisor.RESTARTS + 1):
        pauses.append(crashing._pause())
        crashing._starts.append(0.0)
    assert pauses == [0.0, 0.5, 2.0, 8.0, 30.0, 30.0]


async def test_a_wrong_configuration_is_not_tried_again() -> None:
    wrong = await child("import sys; print('cortex.toml:2: no'); sys.exit(2)")
    assert "cortex.toml:2: no" in await refusal(wrong)
    assert await refusal(wrong) == "the gateway cannot start: cortex.toml:2: no"
    assert (await log_text()).count("no") == 1


async def test_one_that_ended_well_stays_ended() -> None:
    ended = await child("print('bye')")
    assert "exit 0" in await refusal(ended)
    assert "was stopped" in await refusal(ended)


async def test_one_that_never_gets_ready_is_not_started_twice(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(supervisor, "READY_DEADLINE_S", 0.2)
    hanging = await child(NEVER_READY)
    try:
        assert "not ready" in await refusal(hanging)
        first = hanging._child
        assert "not ready" in await refusal(hanging)
        assert hanging._child == first
        assert hanging.owns
    finally:
        kill(hanging._child)


async def test_what_is_started_has_a_session_and_a_log_of_its_own(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(supervisor, "READY_DEADLINE_S", 0.5)
    code = "import os, time; print(os.getsid(0), os.getpid(), flush=True)"
    hanging = await child(f"{code}; time.sleep(60)")
    await refusal(hanging)
    pid = hanging._child
    kill(pid)
    session, itself = (await log_text()).split()
    assert session == itself == str(pid)


def test_an_announcement_of_a_dead_process_counts_for_nothing(tmp_path: Path) -> None:
    path = tmp_path / "gateway.json"
    assert local_gateway.running(path) is None
    pid = os.posix_spawn(sys.executable, [sys.executable, "-c", ""], os.environ)
    Announcement(pid=pid, url="http://127.0.0.1:1").write(path)
    os.waitid(os.P_PID, pid, os.WEXITED | os.WNOWAIT)
    assert local_gateway.running(path) is None, "ended, though nobody has reaped it"
    os.waitpid(pid, 0)
    assert local_gateway.running(path) is None


def test_one_that_lives_and_does_not_answer_is_an_error(tmp_path: Path) -> None:
    path = tmp_path / "gateway.json"
    Announcement(pid=os.getpid(), url="http://127.0.0.1:1").write(path)
    with pytest.raises(LocalGatewayError, match=rf"pid {os.getpid()}.*refused"):
        local_gateway.running(path)


def started(handler: str) -> int:
    """Pid of a process that handles SIGTERM so, once it does."""
    code = (
        f"import signal, time; signal.signal(signal.SIGTERM, {handler})\n"
        'print(1, end="", flush=True); time.sleep(60)'
    )
    reader, writer = os.pipe()
    pid = os.posix_spawn(
        sys.executable,
        [sys.executable, "-c", code],
        os.environ,
        file_actions=[(os.POSIX_SPAWN_DUP2, writer, 1)],
    )
    assert os.read(reader, 1) == b"1"
    os.close(reader)
    os.close(writer)
    return pid


def test_stop_waits_for_the_end() -> None:
    pid = started("lambda *_: exit(0)")
    local_gateway.stop(Announcement(pid=pid), deadline_s=10)
    with pytest.raises(ProcessLookupError):
        os.kill(pid, 0)
    local_gateway.stop(Announcement(pid=pid))


def test_stop_gives_up_in_words() -> None:
    pid = started("signal.SIG_IGN")
    with pytest.raises(LocalGatewayError, match="still drains after"):
        local_gateway.stop(Announcement(pid=pid), deadline_s=0.1)
    kill(pid)
