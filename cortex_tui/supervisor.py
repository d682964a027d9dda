"""Adopts the gateway that runs on this host, or starts one and keeps it running.

Two consoles that start at the same moment are kept apart by a lock, and the second
one adopts. What is started here lives in a session of its own: neither ctrl+z nor a
closed terminal reaches it, and it goes on when the console leaves.
"""

import asyncio
import contextlib
import fcntl
import os
import signal
import sys
import time
from collections import deque
from collections.abc import AsyncIterator, Callable, Sequence
from pathlib import Path
from typing import Final

from cortex_tui import plain_http
from cortex_tui.target import Target
from neuron.protocol import paths
from neuron.protocol.announce import Announcement

READY_DEADLINE_S: Final = 30.0
STOP_DEADLINE_S: Final = 90.0
HEALTH_TIMEOUT_S: Final = 3.0
POLL_S: Final = 0.05
RESTARTS: Final = 5
RESTART_WINDOW_S: Final = 600.0
BACKOFF_S: Final = (0.5, 30.0)
EXIT_CONFIGURATION: Final = 2
LOG_LIMIT: Final = 8 * 2**20


class SupervisorError(Exception):
    """There is no gateway, and why; the message is for the operator."""


def announcement_path() -> Path:
    """Where the gateway of this user and host announces itself."""
    return paths.runtime_dir() / "gateway.json"


def log_path() -> Path:
    """Where a gateway started by a console writes."""
    return paths.log_dir() / "gateway.log"


def target_of(announcement: Announcement) -> Target:
    return Target(announcement.url, announcement.socket)


def running(path: Path | None = None) -> Announcement | None:
    """The announced gateway, if its process lives and answers.

    Raises:
        SupervisorError: it lives and does not answer.
    """
    announcement = Announcement.read(path or announcement_path())
    if announcement is None or not _is_alive(announcement):
        return None
    try:
        plain_http.request(
            target_of(announcement), "GET", "/health", timeout=HEALTH_TIMEOUT_S
        )
    except plain_http.Unreachable as error:
        raise SupervisorError(f"gateway (pid {announcement.pid}): {error}") from error
    except plain_http.Refused:
        pass  # An error status is an answer: it is there.
    return announcement


def stop(announcement: Announcement, deadline_s: float = STOP_DEADLINE_S) -> None:
    """Ask the gateway to drain and end, and wait until it has.

    Raises:
        SupervisorError: it is not ours to stop, or still runs after `deadline_s`.
    """
    try:
        os.kill(announcement.pid, signal.SIGTERM)
    except ProcessLookupError:
        return
    except PermissionError as error:
        raise SupervisorError(
            f"the gateway (pid {announcement.pid}) belongs to another user"
        ) from error
    deadline = time.monotonic() + deadline_s
    while not _has_ended(announcement.pid):
        if time.monotonic() > deadline:
            raise SupervisorError(
                f"the gateway (pid {announcement.pid}) still drains after "
                f"{deadline_s:.0f}s; see {log_path()}"
            )
        time.sleep(POLL_S)


def _has_ended(pid: int) -> bool:
    """Whether `pid` runs no more; reaped here where it is a child of this process."""
    try:
        if os.waitpid(pid, os.WNOHANG)[0] == pid:
            return True
    except ChildProcessError:
        pass  # Somebody else's child: its existence is all that can be asked.
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return True
    return _is_zombie(pid)


def _is_alive(announcement: Announcement) -> bool:
    return announcement.process_is_alive() and not _is_zombie(announcement.pid)


def _is_zombie(pid: int) -> bool:
    """Ended, and not yet reaped by whoever started it (Linux; elsewhere unknown)."""
    try:
        stat = Path(f"/proc/{pid}/stat").read_text(encoding="ascii", errors="replace")
    except OSError:
        return False
    return stat.rpartition(")")[2].split()[:1] == ["Z"]


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
            SupervisorError: there is none to be had, and why.
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
            SupervisorError: it does not end.
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
            SupervisorError: it must not be started again.
        """
        if self._exit == EXIT_CONFIGURATION:
            raise SupervisorError(f"the gateway's configuration: {self._tail()}")
        if self._was_stopped():
            raise SupervisorError("the gateway was stopped; start cortex-tui again")
        now = self._clock()
        while self._starts and now - self._starts[0] > RESTART_WINDOW_S:
            self._starts.popleft()
        if len(self._starts) > RESTARTS:
            raise SupervisorError(
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
                    raise SupervisorError(f"another process holds {self._lock}")
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
                raise SupervisorError(
                    f"the gateway did not start (exit {self._exit}): {tail}"
                )
            found = await asyncio.to_thread(Announcement.read, self._announcement)
            if found is not None and found.pid == pid:
                return target_of(found)
            await asyncio.sleep(POLL_S)
        raise SupervisorError(
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
