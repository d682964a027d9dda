"""Where an agent runs: an empty home, nothing of this environment, loopback alone."""

import contextlib
import os
import signal
import subprocess
import sys
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from string import Template

from cortex_tui.connect.clients import find
from tests.agents.agents import Agent
from tests.support import npm
from tests.support.long_context import LONG_CONTEXT

TURN_TIMEOUT_S = 120
_NO_PROXY = {"HTTPS_PROXY": "http://127.0.0.1:9", "NO_PROXY": "127.0.0.1"}
"""Whatever is not on this machine is asked of a proxy that does not exist."""
_REPOSITORY = Path(__file__).parents[2]


@dataclass(frozen=True, slots=True)
class Shell:
    agent: Agent
    program: Sequence[str]
    url: str
    """Of the gateway."""
    key: str
    home: Path

    def configure(self) -> None:
        """Point the agent at the gateway."""
        for name, text in self.agent.files.items():
            file = self.home / name
            file.parent.mkdir(parents=True, exist_ok=True)
            file.write_text(self._filled_in(text), encoding="utf-8")
        if self.agent.connect is not None:
            self._connect(self.agent.connect)

    def turn(self) -> str:
        """What the agent prints; it has to end well, and in time."""
        work = self.home / "work"
        work.mkdir()
        arguments = map(self._filled_in, self.agent.arguments)
        return self._run([*self.program, *arguments], work)

    def _connect(self, name: str) -> None:
        """Do what `cortex-tui connect` writes, or says to type."""
        client = find(name)
        assert client is not None
        command = [
            sys.executable, "-m", "cortex_tui", "connect", name, "--attach", self.url,
            "--model", LONG_CONTEXT, "--key", self.key,
        ]  # fmt: skip
        if client.files is not None:
            self._run([*command, "--write"], _REPOSITORY)
        else:
            self._run(["sh", "-c", self._run(command, _REPOSITORY)], _REPOSITORY)

    def _run(self, command: Sequence[str], where: Path) -> str:
        done = subprocess.run(
            command,
            cwd=where,
            env=self._environ(),
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            timeout=TURN_TIMEOUT_S,
            check=False,
        )
        assert done.returncode == 0, done.stdout + done.stderr
        return done.stdout

    def _environ(self) -> Mapping[str, str]:
        path = [
            Path(self.program[0]).parent,
            Path(npm.node()).parent,
            "/usr/bin",
            "/bin",
        ]
        own = {
            "HOME": str(self.home),
            "PATH": os.pathsep.join(map(str, path)),
            # As `connect` says to where its files cannot hold it.
            "CORTEX_KEY": self.key,
        }
        given = {k: self._filled_in(v) for k, v in self.agent.environ.items()}
        return own | (_NO_PROXY if self.agent.offline else {}) | given

    def _filled_in(self, text: str) -> str:
        return Template(text).substitute(
            url=self.url, key=self.key, home=str(self.home)
        )


@contextmanager
def nothing_left(home: Path) -> Iterator[None]:
    """End what an agent leaves running: it has that home, as nothing else has."""
    try:
        yield
    finally:
        for pid in _at_home(home):
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)


def _at_home(home: Path) -> Iterator[int]:
    wanted = f"HOME={home}".encode()
    for process in Path("/proc").glob("[0-9]*"):
        with contextlib.suppress(OSError):
            if wanted in (process / "environ").read_bytes().split(b"\0"):
                yield int(process.name)
