"""The file in which a process says where it listens.

Whoever starts a gateway or a neuron passes a path; the process writes this file once
it accepts connections and removes it on the way out.
"""

import json
import os
import tempfile
from pathlib import Path
from typing import Self

from pydantic import Field

from neuron.protocol.types import Wire
from neuron.protocol.version import build_version


def write_atomically(path: Path, text: str, mode: int = 0o600) -> None:
    """Replace `path` in one step, so that a reader sees the old or the new text; whose
    the file was it stays.

    Raises:
        OSError: the folder cannot be written, or the file not given to its owner.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    descriptor, temporary = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.")
    try:
        with os.fdopen(descriptor, "w", encoding="utf-8") as file:
            file.write(text)
            file.flush()
            os.fsync(file.fileno())
        _give_to_owner_of(path, temporary)
        os.chmod(temporary, mode)
        os.replace(temporary, path)
    except BaseException:
        Path(temporary).unlink(missing_ok=True)
        raise


def _give_to_owner_of(path: Path, copy: str) -> None:
    """Root may edit the file of a service, which is to read it afterwards, too."""
    new = os.stat(copy)
    old = path.stat() if path.exists() else new
    if (old.st_uid, old.st_gid) != (new.st_uid, new.st_gid):
        os.chown(copy, old.st_uid, old.st_gid)


class Announcement(Wire):
    """Where a process listens, and who it is."""

    pid: int = 0
    url: str = ""
    socket: str | None = None
    metrics_url: str | None = None
    token: str | None = Field(default=None, repr=False)
    """What it asks of clients: who may read this file may use it."""
    version: str = ""
    started_at: float = 0

    @classmethod
    def of_this_process(cls, url: str, **fields: object) -> Self:
        return cls.model_validate(
            {"pid": os.getpid(), "url": url, "version": build_version(), **fields}
        )

    def write(self, path: Path) -> None:
        write_atomically(path, self.model_dump_json(indent=2) + "\n")

    @classmethod
    def read(cls, path: Path) -> Self | None:
        """The announcement, or None where there is none or it is damaged."""
        try:
            return cls.model_validate(json.loads(path.read_text(encoding="utf-8")))
        except (OSError, ValueError):
            return None

    def process_is_alive(self) -> bool:
        """Whether the announced process still runs."""
        return process_is_alive(self.pid)


def process_is_alive(pid: int) -> bool:
    """Whether `pid` runs: one that ended and was not reaped yet does not.

    Reading /proc tells the two apart; where there is none, any existing one counts.
    """
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    except PermissionError:
        pass  # It exists, and belongs to somebody else.
    try:
        stat = Path(f"/proc/{pid}/stat").read_text(encoding="ascii", errors="replace")
    except OSError:
        return pid > 0
    return stat.rpartition(")")[2].split()[:1] != ["Z"]
