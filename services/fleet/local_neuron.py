"""The neuron of this very host: used where one runs, else started and kept up."""

import asyncio
import contextlib
import logging
import os
import signal
import sys
import time
from collections.abc import Callable
from pathlib import Path

from neuron.protocol import bearer, paths
from neuron.protocol.address import Address
from neuron.protocol.announce import Announcement
from neuron.protocol.errors import ApiError
from services.fleet.client import NodeClient, NodeError

log = logging.getLogger(__name__)

START_DEADLINE_S = 60.0
STOP_DEADLINE_S = 45.0
LOOK_S = 0.05
CHECK_S = 2.0
MISSES = 3
"""Checks in a row after which somebody else's neuron counts as gone."""
BACKOFF_S = (1.0, 2.0, 5.0, 10.0, 30.0)
STEADY_S = 60.0
"""A neuron that ran this long starts the back-off anew when it dies."""
LOG_TAIL_LINES = 5
LOG_TAIL_BYTES = 8192


class LocalNeuron:
    """Supervises one `python -m neuron`; `client` follows where it listens, and which
    token it asks for.

    One that an earlier gateway of this user started, and left when it crashed, is
    taken over. One that somebody else runs is used, and left running. What is started
    or taken over says itself which token it asks for; `token` is what it is given at
    its start, and what somebody else's is shown.
    """

    def __init__(
        self,
        listen: Address,
        token: str | None,
        client: NodeClient,
        on_endpoint: Callable[[str], None],
        on_trouble: Callable[[str], None],
    ) -> None:
        self._listen = listen
        self._token = token
        self._client = client
        self._on_endpoint = on_endpoint
        self._on_trouble = on_trouble
        self._process: asyncio.subprocess.Process | None = None
        self._pid: int | None = None
        """Of the neuron that is this gateway's to stop."""
        self._announce = self._log = Path()

    async def run(self) -> None:
        """Until cancelled: take over, use or start one, and again when it is gone."""
        self._announce, self._log = await asyncio.to_thread(_files)
        failures = 0
        while True:
            began = time.monotonic()
            self._on_trouble(await self._run_once())
            self._pid = None
            self._set_endpoint("", None)
            if time.monotonic() - began > STEADY_S:
                failures = 0
            await asyncio.sleep(BACKOFF_S[min(failures, len(BACKOFF_S) - 1)])
            failures += 1

    async def _run_once(self) -> str:
        """Why the neuron that was taken over, used or started is gone."""
        left = await asyncio.to_thread(Announcement.read, self._announce)
        if left is not None and await self._pid_at(left.url) == left.pid:
            log.info("taking over the neuron that runs at %s", left.url)
            self._pid = left.pid
            self._set_endpoint(left.url, left.token)
            await _gone(left.pid)
            return "the local neuron ended"
        url = self._listen.url()
        if self._listen.port and await self._pid_at(url):
            log.info("using the neuron that runs at %s", url)
            self._set_endpoint(url, self._token)
            await self._while_answers(url)
            return "the neuron of this host no longer answers"
        return await self._run_own()

    async def stop(self) -> None:
        """Stop what this started or took over."""
        if self._pid is None:
            return
        _signal(self._pid, signal.SIGTERM)
        try:
            async with asyncio.timeout(STOP_DEADLINE_S):
                await _gone(self._pid)
        except TimeoutError:
            log.error("the local neuron did not stop in %g s; killing", STOP_DEADLINE_S)
            with contextlib.suppress(ProcessLookupError):
                os.killpg(self._pid, signal.SIGKILL)
        if self._process is not None:
            await self._process.wait()

    def abandon(self) -> None:
        """Ask it to stop and do not wait: for a gateway that exits at once."""
        if self._pid is not None:
            _signal(self._pid, signal.SIGTERM)

    async def _pid_at(self, url: str) -> int | None:
        """Of the neuron that answers at `url`; only neurons tell theirs."""
        try:
            return (await NodeClient(self._client.session, url).version()).pid
        except (NodeError, ApiError):
            return None

    async def _while_answers(self, url: str) -> None:
        misses = 0
        while misses < MISSES:
            await asyncio.sleep(CHECK_S)
            misses = 0 if await self._pid_at(url) else misses + 1

    async def _run_own(self) -> str:
        """Start one and wait for its end; returns why it ended."""
        process = self._process = await self._start()
        self._pid = process.pid
        ended = asyncio.create_task(process.wait())
        try:
            announced = await self._announcement_of(process, ended)
            if announced is not None:
                self._set_endpoint(announced.url, announced.token)
            elif not ended.done():
                process.kill()
            code = await ended
        finally:
            ended.cancel()
        what = "ended" if announced else "did not start"
        last_words = await asyncio.to_thread(_tail, self._log)
        return f"the local neuron {what} (exit {code}){last_words}"

    async def _start(self) -> asyncio.subprocess.Process:
        listen = self._listen
        host = f"[{listen.host}]" if ":" in listen.host else listen.host
        token = {bearer.VARIABLE: self._token} if self._token else {}
        output = await asyncio.to_thread(_open_log, self._log)
        try:
            return await asyncio.create_subprocess_exec(
                sys.executable,
                "-m",
                "neuron",
                "--listen",
                f"{host}:{listen.port}",
                "--announce",
                str(self._announce),
                env=os.environ | token,
                stdin=asyncio.subprocess.DEVNULL,
                stdout=output,
                stderr=output,
                start_new_session=True,
            )
        finally:
            os.close(output)

    async def _announcement_of(
        self, process: asyncio.subprocess.Process, ended: "asyncio.Task[int]"
    ) -> Announcement | None:
        deadline = time.monotonic() + START_DEADLINE_S
        while time.monotonic() < deadline and not ended.done():
            announcement = await asyncio.to_thread(Announcement.read, self._announce)
            if announcement and announcement.pid == process.pid:
                return announcement
            await asyncio.sleep(LOOK_S)
        return None

    def _set_endpoint(self, url: str, token: str | None) -> None:
        self._client.endpoint, self._client.token = url, token
        self._on_endpoint(url)


def _signal(pid: int, number: int) -> None:
    with contextlib.suppress(ProcessLookupError):
        os.kill(pid, number)


async def _gone(pid: int) -> None:
    """Until there is no such process."""
    announcement = Announcement(pid=pid)
    while announcement.process_is_alive():  # noqa: ASYNC110
        await asyncio.sleep(LOOK_S)


def _files() -> tuple[Path, Path]:
    """(announcement, log) of the local neuron; their folders are made."""
    return paths.runtime_dir() / "neuron.json", paths.log_dir() / "neuron.log"


def _open_log(path: Path) -> int:
    return os.open(path, os.O_WRONLY | os.O_CREAT | os.O_APPEND, mode=0o600)


def _tail(path: Path) -> str:
    """`: ` and the last lines of a log; nothing where there are none."""
    try:
        with path.open("rb") as file:
            file.seek(max(0, path.stat().st_size - LOG_TAIL_BYTES))
            text = file.read().decode("utf-8", errors="replace")
    except OSError:
        return ""
    lines = [line.strip() for line in text.splitlines() if line.strip()]
    last = " | ".join(lines[-LOG_TAIL_LINES:])
    return f": {last}" if last else ""
