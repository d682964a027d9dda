"""A folder that appears complete or not at all."""

import contextlib
import errno
import fcntl
import os
import re
import secrets
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Final

from neuron.exl2.conversion_plan import ConvertError

_NO_LOCKS: Final = (errno.EBADF, errno.ENOLCK, errno.ENOSYS, errno.EOPNOTSUPP)
"""How a file system says that folders cannot be locked, as NFS does."""
_NOT_ABANDONED: Final = (FileNotFoundError, NotADirectoryError, BlockingIOError)


@contextlib.contextmanager
def appearing(target: Path) -> Iterator[Path]:
    """A folder beside the target that becomes it, or vanishes on any error.

    A process that is killed leaves it behind; the next one removes it. Whose process
    lives is told by a lock, which holds across containers and ends with its process.

    Raises:
        ConvertError: the target exists and is not an empty folder.
        OSError: the folder cannot be made.
    """
    if target.exists() and (not target.is_dir() or any(target.iterdir())):
        raise ConvertError(f"{target} exists and is not an empty folder")
    target.parent.mkdir(parents=True, exist_ok=True)
    _remove_abandoned(target)
    folder, lock = _make(target)
    try:
        yield folder
        folder.rename(target)
    except BaseException:
        shutil.rmtree(folder)
        raise
    finally:
        os.close(lock)


def _prefix(target: Path) -> str:
    return f".{target.name}.partial-"


def _make(target: Path) -> tuple[Path, int]:
    """A new folder, and what holds its lock."""
    while True:
        folder = target.parent / f"{_prefix(target)}{secrets.token_hex(4)}"
        folder.mkdir()
        lock = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
        # Until it is locked it looks abandoned, and may be removed.
        with contextlib.suppress(BlockingIOError):
            _lock(lock)
            if folder.exists():
                return folder, lock
        os.close(lock)


def _remove_abandoned(target: Path) -> None:
    name = re.compile(re.escape(_prefix(target)) + "[0-9a-f]{8}")
    for folder in target.parent.iterdir():
        if not name.fullmatch(folder.name):
            continue
        # It may be gone just now, be no folder, or have an owner that lives.
        with contextlib.suppress(*_NOT_ABANDONED):
            _remove_if_abandoned(folder)


def _remove_if_abandoned(folder: Path) -> None:
    if folder.lstat().st_uid != os.getuid():
        return
    lock = os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW)
    try:
        if _lock(lock):
            shutil.rmtree(folder)
    finally:
        os.close(lock)


def _lock(folder: int) -> bool:
    """Lock the folder; False where the file system has no locks for it.

    Raises:
        BlockingIOError: another process has locked it.
    """
    try:
        fcntl.flock(folder, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        raise
    except OSError as error:
        if error.errno in _NO_LOCKS:
            return False
        raise
    return True
