"""Folders that tests keep in the user's cache folder from one run to the next."""

import fcntl
import tempfile
import time
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import IO

import pytest
from platformdirs import user_cache_path

from tests.support.wheels import UnavailableError, Wheel

CACHE = user_cache_path("cortex") / "tests"


def kept_folder(
    name: str, make: Callable[[Path], object], *, wait_s: float | None = None
) -> Path:
    """The folder of that name, which `make` makes where it is missing.

    It is made once, whoever else wants it meanwhile, and appears whole or not at all.

    Raises:
        TimeoutError: another process has been at it for `wait_s`.
    """
    folder = CACHE / name
    CACHE.mkdir(parents=True, exist_ok=True)
    with (CACHE / f".{name}.lock").open("w") as lock:
        _lock(lock, wait_s)
        if not folder.exists():
            with tempfile.TemporaryDirectory(dir=CACHE) as temporary:
                make(Path(temporary) / name)
                (Path(temporary) / name).rename(folder)
    return folder


def _lock(file: IO[str], wait_s: float | None) -> None:
    if wait_s is None:
        fcntl.flock(file, fcntl.LOCK_EX)
        return
    deadline = time.monotonic() + wait_s
    while True:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            if time.monotonic() >= deadline:
                raise TimeoutError(f"{file.name} is held by another process") from None
            time.sleep(0.1)
        else:
            return


def unpacked(wheel: Wheel) -> Path:
    """The folder with the contents of a wheel; the test is skipped where the wheel
    cannot be fetched."""

    def unpack(folder: Path) -> None:
        with zipfile.ZipFile(wheel.fetch()) as archive:
            archive.extractall(folder)

    try:
        return kept_folder(f"{wheel.name}-{wheel.version}", unpack)
    except UnavailableError as error:
        pytest.skip(str(error))
