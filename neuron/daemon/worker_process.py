"""One worker process: its pipes, its log, its end."""

import asyncio
import contextlib
import logging
import os
import signal
import sys
from collections import deque
from collections.abc import Callable
from typing import Final, Self

from pydantic import ValidationError

from neuron.ipc import REPORT, REPORT_FD_ENV, Command, Report, WorkerSpec

log = logging.getLogger(__name__)

LOG_LINES_KEPT: Final = 40
_STOP_GRACE_S: Final = 10.0
_LAST_WORDS_S: Final = 1.0
_MAX_LINE: Final = 8192

OnReport = Callable[[Report], None]


class WorkerProcess:
    """A started worker; whoever started it awaits `stop` in the end."""

    def __init__(self, spec: WorkerSpec, on_report: OnReport) -> None:
        self.spec = spec
        self._on_report = on_report
        self._log: deque[str] = deque(maxlen=LOG_LINES_KEPT)
        self._readers: list[asyncio.Task[None]] = []
        self._process: asyncio.subprocess.Process | None = None

    @classmethod
    async def start(cls, spec: WorkerSpec, on_report: OnReport) -> Self:
        """Start `python -m neuron.worker` in a session of its own.

        Raises:
            OSError: the process cannot be started.
        """
        self = cls(spec, on_report)
        read_end, write_end = os.pipe()
        try:
            process = await asyncio.create_subprocess_exec(
                sys.executable, "-m", "neuron.worker",
                stdin=asyncio.subprocess.PIPE,
                stdout=asyncio.subprocess.PIPE,
                stderr=asyncio.subprocess.STDOUT,
                env=os.environ | {REPORT_FD_ENV: str(write_end)},
                pass_fds=[write_end],
                start_new_session=True,
            )  # fmt: skip
        except BaseException:
            os.close(read_end)
            raise
        finally:
            os.close(write_end)
        self._process = process
        self._write(spec.model_dump_json())
        self._readers = [
            asyncio.create_task(self._read_reports(read_end)),
            asyncio.create_task(self._read_log()),
        ]
        return self

    @property
    def _started(self) -> asyncio.subprocess.Process:
        assert self._process is not None
        return self._process

    @property
    def pid(self) -> int:
        return self._started.pid

    @property
    def log_tail(self) -> list[str]:
        """The last lines that the process printed."""
        return list(self._log)

    def send(self, command: Command) -> None:
        """Ask for something; a worker that is gone is past asking."""
        self._write(command.model_dump_json())

    def _write(self, line: str) -> None:
        stdin = self._started.stdin
        assert stdin is not None
        if not stdin.is_closing():
            stdin.write(line.encode() + b"\n")

    def kill(self) -> None:
        """SIGKILL, which ends a stopped or wedged process too."""
        with contextlib.suppress(ProcessLookupError):
            self._started.send_signal(signal.SIGKILL)

    async def wait(self) -> str:
        """Wait for the end and all that was said before it; says how it ended."""
        code = await self._started.wait()
        # Bounded: a process that the worker left behind may hold the pipes open.
        await asyncio.wait(self._readers, timeout=_LAST_WORDS_S)
        if code >= 0:
            return f"exited with code {code}"
        try:
            return f"was ended by {signal.Signals(-code).name}"
        except ValueError:
            return f"was ended by signal {-code}"

    async def stop(self) -> None:
        """End it: asked first, killed when that takes too long."""
        try:
            self.send(Command(kind="stop"))
            async with asyncio.timeout(_STOP_GRACE_S):
                await self._started.wait()
        except TimeoutError:
            log.warning("worker %d did not stop in time; killing it", self.pid)
        finally:
            self.kill()
        await self.wait()
        for reader in self._readers:
            reader.cancel()
        await asyncio.gather(*self._readers, return_exceptions=True)

    async def _read_reports(self, read_end: int) -> None:
        reader = asyncio.StreamReader()
        transport, _ = await asyncio.get_running_loop().connect_read_pipe(
            lambda: asyncio.StreamReaderProtocol(reader), os.fdopen(read_end, "rb", 0)
        )
        try:
            while line := await reader.readline():
                try:
                    self._on_report(REPORT.validate_json(line))
                except ValidationError as error:
                    log.error("worker %d sent %r: %s", self.pid, line[:200], error)
        finally:
            transport.close()

    async def _read_log(self) -> None:
        stdout = self._started.stdout
        assert stdout is not None
        rest = ""
        while chunk := await stdout.read(_MAX_LINE):
            *lines, rest = (rest + chunk.decode("utf-8", "replace")).split("\n")
            if len(rest) > _MAX_LINE:
                lines, rest = [*lines, rest], ""
            for line in lines:
                self._keep(line)
        if rest:
            self._keep(rest)

    def _keep(self, line: str) -> None:
        self._log.append(line)
        log.info("[%s] %s", self.spec.model, line)
