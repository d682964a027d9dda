"""Real `neuron` and gateway processes on loopback, each in a home of its own."""

import os
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from neuron.protocol.announce import Announcement

START_DEADLINE_S = 30.0
STOP_DEADLINE_S = 30.0


@dataclass(frozen=True, slots=True)
class Home:
    """A user's folders, empty at first; `environ` points every program at them."""

    root: Path

    @property
    def environ(self) -> dict[str, str]:
        inherited = {
            name: value
            for name, value in os.environ.items()
            if not name.startswith(("CORTEX_", "NEURON_", "XDG_", "COV_"))
        }
        return inherited | {
            "HOME": str(self.root),
            "XDG_CONFIG_HOME": str(self.root / "config"),
            "XDG_DATA_HOME": str(self.root / "data"),
            "XDG_STATE_HOME": str(self.root / "state"),
            "XDG_CACHE_HOME": str(self.root / "cache"),
            "XDG_RUNTIME_DIR": str(self.root / "run"),
            "PYTHONUNBUFFERED": "1",
        }

    @property
    def models(self) -> Path:
        """Where its neurons look for models."""
        return self.root / "data" / "cortex" / "models"

    def config_file(self, name: str, text: str) -> Path:
        path = self.root / "config" / "cortex" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text, encoding="utf-8")
        return path


@contextmanager
def temporary_home() -> Iterator[Home]:
    """Short-pathed, because UNIX sockets live below it."""
    with tempfile.TemporaryDirectory(
        prefix="cx", dir="/tmp", ignore_cleanup_errors=True
    ) as folder:
        (Path(folder) / "run").mkdir(mode=0o700)
        yield Home(Path(folder))


@dataclass(slots=True)
class Process:
    """A process that has announced where it listens."""

    popen: "subprocess.Popen[bytes]"
    announcement: Announcement
    log: Path

    @property
    def url(self) -> str:
        return self.announcement.url

    def log_text(self) -> str:
        return self.log.read_text(encoding="utf-8", errors="replace")

    def stop(self, signum: int = signal.SIGTERM) -> int:
        """Signal it and return its exit code; killed after `STOP_DEADLINE_S`."""
        if self.popen.poll() is None:
            self.popen.send_signal(signum)
        try:
            return self.popen.wait(STOP_DEADLINE_S)
        except subprocess.TimeoutExpired:
            self.popen.kill()
            self.popen.wait()
            raise


@contextmanager
def announced_process(
    arguments: Sequence[str], home: Home, name: str, environ: dict[str, str]
) -> Iterator[Process]:
    """`python -m <arguments> --announce FILE`, ready; stopped and reaped at the end."""
    announce = home.root / f"{name}.json"
    log = home.root / f"{name}.log"
    announce.unlink(missing_ok=True)
    with log.open("ab") as output:
        popen = subprocess.Popen(
            [sys.executable, "-m", *arguments, "--announce", str(announce)],
            env=environ,
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=output,
            start_new_session=True,
        )
    process = Process(popen, _await_announcement(popen, announce, log), log)
    try:
        yield process
    finally:
        process.stop()


def _await_announcement(
    popen: "subprocess.Popen[bytes]", announce: Path, log: Path
) -> Announcement:
    deadline = time.monotonic() + START_DEADLINE_S
    while time.monotonic() < deadline:
        if popen.poll() is not None:
            break
        if announcement := Announcement.read(announce):
            return announcement
        time.sleep(0.02)
    popen.kill()
    popen.wait()
    output = log.read_text(encoding="utf-8", errors="replace")
    raise AssertionError(f"{popen.args!r} did not start:\n{output}")


@contextmanager
def running_neuron(
    home: Home,
    *arguments: str,
    name: str = "neuron",
    environ: dict[str, str] | None = None,
) -> Iterator[Process]:
    """The real daemon with the bundled model, on a free port."""
    command = ["neuron", "--listen", "127.0.0.1:0", *arguments]
    with announced_process(
        command, home, name, home.environ | (environ or {})
    ) as process:
        yield process


@contextmanager
def running_gateway(
    home: Home, *arguments: str, environ: dict[str, str] | None = None
) -> Iterator[Process]:
    """The real gateway, on free ports; neurons as the home's cortex.toml says."""
    free = {
        "CORTEX_GATEWAY__LISTEN": "127.0.0.1:0",
        "CORTEX_GATEWAY__METRICS_LISTEN": "127.0.0.1:0",
    }
    with announced_process(
        ["services.gateway", *arguments],
        home,
        "gateway",
        home.environ | free | (environ or {}),
    ) as process:
        yield process
