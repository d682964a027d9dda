"""The gateway of this host and user: where it announces itself, whether it runs.

Synchronous and light, for the one-shot commands too.
"""

import os
import signal
import time
from pathlib import Path
from typing import Final

from cortex_tui import plain_http
from cortex_tui.target import Target
from neuron.protocol import paths
from neuron.protocol.announce import Announcement, process_is_alive

STOP_DEADLINE_S: Final = 90.0
HEALTH_TIMEOUT_S: Final = 3.0
POLL_S: Final = 0.05


class LocalGatewayError(Exception):
    """There is no gateway, and why; the message is for the operator."""


class NotStartedAgain(LocalGatewayError):
    """There is none, and this console will not start one: somebody else has to."""


def announcement_path() -> Path:
    """Where the gateway of this user and host announces itself."""
    return paths.runtime_dir() / "gateway.json"


def log_path() -> Path:
    """Where a gateway started by a console writes."""
    return paths.log_dir() / "gateway.log"


def target_of(announcement: Announcement) -> Target:
    return Target(announcement.url, announcement.socket)


def announced(path: Path | None = None) -> Announcement | None:
    """The announcement of a process that lives."""
    found = Announcement.read(path or announcement_path())
    return found if found is not None and found.process_is_alive() else None


def running(path: Path | None = None) -> Announcement | None:
    """The announced gateway, if its process lives and answers.

    Raises:
        LocalGatewayError: it lives and does not answer.
    """
    announcement = announced(path)
    if announcement is None:
        return None
    try:
        plain_http.request(
            target_of(announcement), "GET", "/health", timeout=HEALTH_TIMEOUT_S
        )
    except plain_http.Unreachable as error:
        raise LocalGatewayError(f"gateway (pid {announcement.pid}): {error}") from error
    except plain_http.Refused:
        pass  # An error status is an answer: it is there.
    return announcement


def stop(announcement: Announcement, deadline_s: float = STOP_DEADLINE_S) -> None:
    """Ask the gateway to drain and end, and wait until it has.

    Raises:
        LocalGatewayError: it is not ours to stop, or still runs after `deadline_s`.
    """
    try:
        os.kill(announcement.pid, signal.SIGTERM)
    except ProcessLookupError:
        return
    except PermissionError as error:
        raise LocalGatewayError(
            f"the gateway (pid {announcement.pid}) belongs to another user"
        ) from error
    deadline = time.monotonic() + deadline_s
    while not _has_ended(announcement.pid):
        if time.monotonic() > deadline:
            raise LocalGatewayError(
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
    return not process_is_alive(pid)
