"""Packages of the npm registry that tests drive, installed when needed.

They are kept in the user's cache folder, so that a machine fetches them once.
"""

import hashlib
import re
import shutil
import subprocess
from pathlib import Path

import pytest

from tests.support.cache import kept_folder

_TIMEOUT_S = 300
_OUT_OF_REACH = re.compile(
    "E(AI_AGAIN|CONNREFUSED|CONNRESET|HOSTUNREACH|NETUNREACH|NOTFOUND|TIMEDOUT)"
    "|ERR_SOCKET_TIMEOUT|FETCH_ERROR"
)


def node() -> str:
    """Path of Node.js; the test is skipped where it is not installed."""
    return _program("node")


def locked_packages(project: Path) -> Path:
    """The `node_modules` that the project's lock file describes."""
    lock = project / "package-lock.json"

    def make(folder: Path) -> None:
        folder.mkdir()
        for file in (project / "package.json", lock):
            shutil.copy(file, folder)
        _npm(folder, "ci")

    version = hashlib.sha256(lock.read_bytes()).hexdigest()[:16]
    return kept_folder(f"{project.name}-{version}", make) / "node_modules"


def package(name: str, version: str) -> Path:
    """The `node_modules` with one release of a package and what it needs."""

    def make(folder: Path) -> None:
        folder.mkdir()
        _npm(folder, "install", "--prefix", str(folder), f"{name}@{version}")

    flat = name.removeprefix("@").replace("/", "-")
    return kept_folder(f"{flat}-{version}", make) / "node_modules"


def _npm(folder: Path, *arguments: str) -> None:
    """Run npm there; the test is skipped where the registry is out of reach."""
    command = [
        _program("npm"), *arguments, "--ignore-scripts", "--no-audit", "--no-fund",
        "--fetch-retries=1", "--fetch-timeout=60000",
    ]  # fmt: skip
    done = subprocess.run(
        command, cwd=folder, capture_output=True, text=True, timeout=_TIMEOUT_S,
        check=False,
    )  # fmt: skip
    if done.returncode and (error := _OUT_OF_REACH.search(done.stderr)):
        pytest.skip(f"npm cannot reach its registry: {error[0]}")
    assert done.returncode == 0, done.stderr


def _program(name: str) -> str:
    path = shutil.which(name)
    if path is None:
        pytest.skip(f"{name} is not installed")
    return path
