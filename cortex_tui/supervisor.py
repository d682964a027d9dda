"""Adopts the gateway that runs on this host, or starts one and keeps it running.

Two consoles that start at the same moment are kept apart by a lock, and the second
one adopts. What is started here lives in a session of its own: neither ctrl+z nor a
closed terminal reaches it, and it goes on when the console leaves.
"""

import asyncio
import contextlib
import fcntl
import os
import sys
import time
from collections import deque
from collections.abc import AsyncIterator, Callable, Sequence
from pathlib import Path
from typing import Final

from cortex_tui.local_gateway import (
    POLL_S,
    LocalGatewayError,
    NotStartedAgain,
    announcement_path,
    log_path,
    running,
    stop,
    target_of,
)
from cortex_tui.target import Target
from neuron.protocol.announce import Announcement

READY_DEADLINE_S: Final = 30.0
RESTARTS: Final = 5
RESTART_WINDOW_S: Final = 600.0
BACKOFF_S: Final = (0.5, 30.0)
EXIT_CANNOT_START: Final = 2
LOG_LIMIT: Final = 8 * 2**20


class Supervisor:
    """This console's view of the gateway on this host."""

    def __init__(
        self,
        command: Sequence[str] | None = None,
        *,
        config: Path | None = None,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._announcement = announcement_path()
        self._lock = self._announcement.with_name("gateway.lock")
        self._log = log_path()
        self._command = [
            *(command or [sys.executable, "-m", "services.gateway"]),
            *["--announce", str(self._announcement)],
            *(["--config", str(config)] if config else []),
        ]
        self._clock = clock
        self._child: int | None = None
        self._exit: int | None = None
        self._adopted = False
        self._starts: deque[float] = deque(maxlen=RESTARTS + 1)

    @property
    def owns(self) -> bool:
        """Whether the gateway that runs is one this console started."""
        return self._child is not None

    async def locate(self) -> Target:
        """The gateway, adopted or started.

        One that was stopped on purpose is not started again; one that crashed is,
        after a growing pause and at most `RESTARTS` times in `RESTART_WINDOW_S`.

        Raises:
            LocalGatewayError: there is none to be had, and why.
        """
        self._reap()
        if found := await asyncio.to_thread(running, self._announcement):
            self._adopted = self._adopted or not self.owns
            return target_of(found)
        if self._child is not None:
            return await self._until_ready(self._child)
        await asyncio.sleep(await asyncio.to_thread(self._pause))
        async with self._locked():
            if found := await asyncio.to_thread(running, self._announcement):
                self._adopted = True
                return target_of(found)
            return await self._start()

    async def stop(self) -> None:
        """Stop the gateway that runs here.

        Raises:
            LocalGatewayError: it does not end.
        """
        found = await asyncio.to_thread(Announcement.read, self._announcement)
        if found is not None:
            await asyncio.to_thread(stop, found)
        self._child, self._exit = None, 0

    def _was_stopped(self) -> bool:
        """Seen before and ended well: a crash leaves its announcement behind."""
        if self._exit is not None:
            return self._exit == 0
        return self._adopted and not self._announcement.exists()

    def _reap(self) -> None:
        if self._child is None:
            return
        try:
            pid, status = os.waitpid(self._child, os.WNOHANG)
        except ChildProcessError:
            pid, status = self._child, 0
        if pid:
            self._child, self._exit = None, os.waitstatus_to_exitcode(status)

    def _pause(self) -> float:
        """Seconds to wait before the next start.

        Raises:
            NotStartedAgain: it must not be started again.
        """
        if self._exit == EXIT_CANNOT_START:
            raise NotStartedAgain(f"the gateway cannot start: {self._tail()}")
        if self._was_stopped():
            raise NotStartedAgain("the gateway was stopped; start cortex-tui again")
        now = self._clock()
        while self._starts and now - self._starts[0] > RESTART_WINDOW_S:
            self._starts.popleft()
        if len(self._starts) > RESTARTS:
            raise NotStartedAgain(
                f"the gateway crashed {RESTARTS} times in "
                f"{RESTART_WINDOW_S / 60:.0f} min (exit {self._exit}): {self._tail()}"
            )
        if not self._starts:
            return 0.0
        first, longest = BACKOFF_S
        return min(longest, first * 4.0 ** (len(self._starts) - 1))

    @contextlib.asynccontextmanager
    async def _locked(self) -> AsyncIterator[None]:
        descriptor = os.open(self._lock, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        try:
            deadline = time.monotonic() + READY_DEADLINE_S + 10
            while not _try_lock(descriptor):
                if time.monotonic() > deadline:
                    raise LocalGatewayError(f"another process holds {self._lock}")
                await asyncio.sleep(POLL_S)
            yield
        finally:
            os.close(descriptor)

    async def _start(self) -> Target:
        self._starts.append(self._clock())
        self._child = pid = await asyncio.to_thread(self._spawn)
        self._exit = None
        return await self._until_ready(pid)

    async def _until_ready(self, pid: int) -> Target:
        deadline = time.monotonic() + READY_DEADLINE_S
        while time.monotonic() < deadline:
            self._reap()
            if self._child is None:
                tail = await asyncio.to_thread(self._tail)
                raise LocalGatewayError(
                    f"the gateway did not start (exit {self._exit}): {tail}"
                )
            found = await asyncio.to_thread(Announcement.read, self._announcement)
            if found is not None and found.pid == pid:
                return target_of(found)
            await asyncio.sleep(POLL_S)
        raise LocalGatewayError(
            f"the gateway is not ready after {READY_DEADLINE_S:.0f}s; see {self._log}"
        )

    def _spawn(self) -> int:
        """Not by subprocess: its objects end, or warn of, a child that outlives us."""
        log = self._log
        if log.exists() and log.stat().st_size > LOG_LIMIT:
            log.replace(log.with_suffix(".log.1"))
        flags = os.O_WRONLY | os.O_CREAT | os.O_APPEND
        return os.posix_spawn(
            self._command[0],
            self._command,
            os.environ,
            file_actions=[
                (os.POSIX_SPAWN_OPEN, 0, os.devnull, os.O_RDONLY, 0),
                (os.POSIX_SPAWN_OPEN, 1, str(log), flags, 0o600),
                (os.POSIX_SPAWN_DUP2, 1, 2),
            ],
            setsid=True,
        )

    def _tail(self) -> str:
        """The last line of its log: with an exception, what it says."""
        try:
            lines = self._log.read_text(encoding="utf-8", errors="replace").split("\n")
        except OSError as error:
            return str(error)
        return next((line for line in reversed(lines) if line.strip()), "no output")


def _try_lock(descriptor: int) -> bool:
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True
