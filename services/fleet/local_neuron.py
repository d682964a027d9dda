"""The neuron of this very host: adopted where one runs, else started and kept up."""

import asyncio
import contextlib
import logging
import os
import signal
import sys
import time
from collections.abc import Callable
from pathlib import Path

from neuron.protocol import paths
from neuron.protocol.announce import Announcement
from neuron.protocol.errors import ApiError
from services.config import Address
from services.fleet.client import NodeClient, NodeError

log = logging.getLogger(__name__)

START_DEADLINE_S = 60.0
STOP_DEADLINE_S = 45.0
LOOK_S = 0.05
ADOPTED_CHECK_S = 2.0
ADOPTED_MISSES = 3
BACKOFF_S = (1.0, 2.0, 5.0, 10.0, 30.0)
STEADY_S = 60.0
"""A neuron that ran this long starts the back-off anew when it dies."""
LOG_TAIL_LINES = 5
LOG_TAIL_BYTES = 8192


class LocalNeuron:
    """Supervises one `python -m neuron`; `client.endpoint` follows where it listens."""

    def __init__(
        self,
        listen: Address,
        client: NodeClient,
        on_endpoint: Callable[[str], None],
        on_trouble: Callable[[str], None],
    ) -> None:
        self._listen = listen
        self._client = client
        self._on_endpoint = on_endpoint
        self._on_trouble = on_trouble
        self._process: asyncio.subprocess.Process | None = None
        self._announce = self._log = Path()

    async def run(self) -> None:
        """Until cancelled: adopt or start, and start again when it is gone."""
        self._announce, self._log = await asyncio.to_thread(_files)
        failures = 0
        while True:
            began = time.monotonic()
            if await self._adopt():
                await self._while_adopted_answers()
                self._on_trouble("the adopted neuron no longer answers")
            else:
                self._on_trouble(await self._run_own())
            if time.monotonic() - began > STEADY_S:
                failures = 0
            await asyncio.sleep(BACKOFF_S[min(failures, len(BACKOFF_S) - 1)])
            failures += 1

    async def stop(self) -> None:
        """Stop what this started; an adopted one goes on."""
        process = self._process
        if process is None or process.returncode is not None:
            return
        with contextlib.suppress(ProcessLookupError):
            process.terminate()
        try:
            async with asyncio.timeout(STOP_DEADLINE_S):
                await process.wait()
        except TimeoutError:
            log.error("the local neuron did not stop in %g s; killing", STOP_DEADLINE_S)
            with contextlib.suppress(ProcessLookupError):
                os.killpg(process.pid, signal.SIGKILL)
            await process.wait()

    def abandon(self) -> None:
        """Ask it to stop and do not wait: for a gateway that exits at once."""
        if self._process is not None and self._process.returncode is None:
            with contextlib.suppress(ProcessLookupError):
                self._process.terminate()

    async def _adopt(self) -> bool:
        """Whether a neuron answers where one announced itself, or where it should."""
        urls = [self._listen.url()] if self._listen.port else []
        announcement = await asyncio.to_thread(Announcement.read, self._announce)
        if announcement and announcement.process_is_alive():
            urls.insert(0, announcement.url)
        for url in urls:
            if await self._answers(url):
                log.info("using the neuron that runs at %s", url)
                self._set_endpoint(url)
                return True
        return False

    async def _answers(self, url: str) -> bool:
        """Whether it is a neuron that answers there: only those tell their pid."""
        try:
            version = await NodeClient(self._client.session, url).version()
        except (NodeError, ApiError):
            return False
        return version.pid is not None

    async def _while_adopted_answers(self) -> None:
        misses = 0
        while misses < ADOPTED_MISSES:
            await asyncio.sleep(ADOPTED_CHECK_S)
            misses = 0 if await self._answers(self._client.endpoint) else misses + 1

    async def _run_own(self) -> str:
        """Start one and wait for its end; returns why it ended."""
        self._set_endpoint("")
        process = self._process = await self._start()
        ended = asyncio.create_task(process.wait())
        try:
            announced = await self._announcement_of(process, ended)
            if announced is not None:
                self._set_endpoint(announced.url)
            elif not ended.done():
                process.kill()
            code = await ended
        finally:
            ended.cancel()
        self._set_endpoint("")
        what = "ended" if announced else "did not start"
        last_words = await asyncio.to_thread(_tail, self._log)
        return f"the local neuron {what} (exit {code}){last_words}"

    async def _start(self) -> asyncio.subprocess.Process:
        listen = self._listen
        host = f"[{listen.host}]" if ":" in listen.host else listen.host
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

    def _set_endpoint(self, url: str) -> None:
        self._client.endpoint = url
        self._on_endpoint(url)


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
