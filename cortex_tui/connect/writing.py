"""Settings files, written so that nothing of what they had is lost."""

import json
import os
import stat
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from cortex_tui.connect.client import PLACEHOLDER, SettingsFile
from cortex_tui.connect.formats import FormatError, Merged, merge
from cortex_tui.connect.merge import plain
from neuron.protocol.announce import write_atomically

_NEW_FILE_MODE: Final = 0o600
_OTHERS: Final = stat.S_IRWXG | stat.S_IRWXO


class WriteError(Exception):
    """The file stays as it is; the message names it and says why."""


@dataclass(frozen=True, slots=True)
class Plan:
    """What writing one file will do."""

    path: Path
    text: str
    mode: int
    report: str
    """What changes, in words; keys are named and not shown."""
    changes: bool = True

    def carry_out(self) -> None:
        """Blocking.

        Raises:
            WriteError: the file cannot be written.
        """
        if not self.changes:
            return
        try:
            write_atomically(self.path, self.text, self.mode)
        except OSError as error:
            raise WriteError(f"{self.path}: {error.strerror or error}") from error


def plan(file: SettingsFile, secret: str | None) -> Plan:
    """What to do so that `file` says what is wanted; nothing is done yet.

    A file that will have the secret in it is closed to other users. Blocking.

    Raises:
        WriteError: the file cannot be read or added to.
    """
    path = Path(os.path.realpath(file.path))  # Not `resolve`, which fails at a loop.
    old, mode = _read(path)
    try:
        merged = merge(file.format, old or "", file.wanted)
    except FormatError as error:
        raise WriteError(
            f"{path} stays as it is: {error}; without --write you see what to add"
        ) from error
    new_mode = mode & ~_OTHERS if _has(file, secret) else mode
    closed = new_mode != mode
    if old is None:
        report = f"{path}: made, with mode {new_mode:o}"
    else:
        own_key = _has(file, PLACEHOLDER) and PLACEHOLDER not in merged.text
        report = _report(path, merged, closed=closed, own_key=own_key)
    changed = old is None or bool(merged.changes) or closed
    return Plan(path, merged.text, new_mode, report, changed)


def _has(file: SettingsFile, secret: str | None) -> bool:
    return secret is not None and json.dumps(secret) in json.dumps(plain(file.wanted))


def _read(path: Path) -> tuple[str | None, int]:
    try:
        # Not as text: its line ends are to stay what they are.
        content = path.read_bytes()
        return content.decode("utf-8"), stat.S_IMODE(path.stat().st_mode)
    except FileNotFoundError:
        return None, _NEW_FILE_MODE
    except UnicodeDecodeError as error:
        raise WriteError(f"{path} is not UTF-8") from error
    except OSError as error:
        raise WriteError(f"{path}: {error.strerror or error}") from error


def _report(path: Path, merged: Merged, *, closed: bool, own_key: bool) -> str:
    lines = [f"{path}: {'merged' if merged.changes else 'says so already'}"]
    lines += [f"  {change}" for change in merged.changes]
    if own_key:
        lines.append("  the key that is there stays, and is shown to the gateway")
    if closed:
        lines.append("  closed to other users, because it holds a key")
    return "\n".join(lines)
