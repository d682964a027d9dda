"""Ends every process of a session, however they have grouped themselves.

ninja gives each compiler a process group of its own, and a compiler starts others: what
they keep in common is the session. Linux only, through `/proc`.
"""

import os
import signal
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Final

_GRACE_S: Final = 3.0
_POLL_S: Final = 0.05


def members(session: int) -> Iterator[int]:
    """The live processes of a session but the caller."""
    for entry in Path("/proc").iterdir():
        if not entry.name.isdecimal() or int(entry.name) == os.getpid():
            continue
        try:
            stat = (entry / "stat").read_text(encoding="utf-8", errors="replace")
        except OSError:
            continue  # it ended meanwhile
        # After the name, which is in parentheses and may hold any character:
        # state, parent, process group, session.
        state, _, _, its_session, *_ = stat.rpartition(")")[2].split()
        if int(its_session) == session and state != "Z":
            yield int(entry.name)


def end_session(session: int, grace_s: float = _GRACE_S) -> None:
    """SIGTERM for each of them, and SIGKILL for what is left after `grace_s`."""
    deadline = time.monotonic() + grace_s
    _signal(session, signal.SIGTERM)
    while any(members(session)):
        if time.monotonic() >= deadline:
            _signal(session, signal.SIGKILL)
        time.sleep(_POLL_S)


def _signal(session: int, number: signal.Signals) -> None:
    for pid in members(session):
        try:
            os.kill(pid, number)
        except ProcessLookupError:
            continue
