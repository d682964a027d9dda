"""`cortex-tui` in a terminal, and as a command, in a home of its own."""

import fcntl
import os
import pty
import re
import select
import signal
import struct
import subprocess
import sys
import termios
import time
from collections.abc import Iterator
from contextlib import contextmanager

from neuron.protocol.announce import Announcement
from tests.support.processes import Home

MODEL = "tinystories-15m"
DEADLINE_S = 40.0
COMMAND = (sys.executable, "-m", "cortex_tui")
_ESCAPES = re.compile(
    r"\x1b(\[[0-9;?<>=]*[ -/]*[@-~]|\][^\x07\x1b]*(\x07|\x1b\\)|[()].|.)"
)


def environ(home: Home) -> dict[str, str]:
    """Free ports for everything, so that tests do not meet."""
    return home.environ | {
        "CORTEX_GATEWAY__LISTEN": "127.0.0.1:0",
        "CORTEX_GATEWAY__METRICS_LISTEN": "127.0.0.1:0",
        "CORTEX_LOCAL__LISTEN": "127.0.0.1:0",
        "TERM": "xterm-256color",
        "LANG": "C.UTF-8",
        "TEXTUAL_ANIMATIONS": "none",
    }


def cortex(home: Home, *arguments: str) -> "subprocess.CompletedProcess[str]":
    """Run one command to its end."""
    return subprocess.run(
        [*COMMAND, *arguments],
        env=environ(home),
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        timeout=DEADLINE_S,
        check=False,
    )


def gateway_of(home: Home) -> Announcement | None:
    """The gateway that announced itself in this home and runs."""
    found = Announcement.read(home.root / "run" / "cortex" / "gateway.json")
    return found if found is not None and found.process_is_alive() else None


@contextmanager
def no_gateway_left(home: Home) -> Iterator[None]:
    """What a console started must not outlive the test."""
    try:
        yield
    finally:
        cortex(home, "stop")
        if left := gateway_of(home):
            os.kill(left.pid, signal.SIGKILL)


class Ended(Exception):
    """The console has closed its terminal."""


class Terminal:
    """A console in a pseudo-terminal; `text` is what it wrote since the last key."""

    def __init__(self, home: Home, *arguments: str, size: tuple[int, int]) -> None:
        self._master, slave = pty.openpty()
        width, height = size
        window = struct.pack("HHHH", height, width, 0, 0)
        fcntl.ioctl(slave, termios.TIOCSWINSZ, window)
        self.process = subprocess.Popen(
            [*COMMAND, *arguments],
            env=environ(home),
            stdin=slave,
            stdout=slave,
            stderr=slave,
            start_new_session=True,
        )
        os.close(slave)
        self._raw = b""

    @property
    def text(self) -> str:
        return _ESCAPES.sub("", self._raw.decode("utf-8", errors="replace"))

    def press(self, keys: str) -> None:
        """Type, and forget what was written before."""
        self._read(0.0)
        self._raw = b""
        os.write(self._master, keys.encode())

    def wait_for(self, *words: str) -> None:
        """Until it has written all of `words`.

        Raises:
            Ended: the console left first.
        """
        deadline = time.monotonic() + DEADLINE_S
        while not all(word in self.text for word in words):
            missing = [word for word in words if word not in self.text]
            assert time.monotonic() < deadline, f"no {missing} in:\n{self.text[-3000:]}"
            if not self._read(0.2):
                raise Ended(f"without {missing}:\n{self.text[-3000:]}")

    def wait(self) -> int:
        """Its exit code, once it has ended by itself."""
        deadline = time.monotonic() + DEADLINE_S
        while self._read(0.1) and time.monotonic() < deadline:
            pass
        return self.process.wait(DEADLINE_S)

    def close(self) -> None:
        """What closing the terminal's window does."""
        os.close(self._master)
        if self.process.poll() is None:
            self.process.send_signal(signal.SIGHUP)
        try:
            self.process.wait(10)
        except subprocess.TimeoutExpired:
            self.process.kill()
            self.process.wait()

    def _read(self, patience_s: float) -> bool:
        """Take what is there; False once the console has closed the terminal."""
        while select.select([self._master], [], [], patience_s)[0]:
            try:
                self._raw += os.read(self._master, 65536)
            except OSError:
                return False
            patience_s = 0.0
        return True


@contextmanager
def terminal(
    home: Home, *arguments: str, size: tuple[int, int] = (80, 24)
) -> Iterator[Terminal]:
    running = Terminal(home, *arguments, size=size)
    try:
        yield running
    finally:
        running.close()
