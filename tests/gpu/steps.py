"""Steps of a run: processes with deadlines, of which any may fail and none stops the
rest."""

import os
import signal
import subprocess
import sys
import time
import uuid
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final

_ROOT: Final = Path(__file__).parents[2]
_GRACE_S: Final = 15.0
"""For an interrupted step to stop what it has started."""
_LEAST_S: Final = 3.0
"""With less left, a step is not begun."""
_MARK: Final = "GPU_RUN_STEP"
"""Variable by which a step's processes are known, whatever sessions they are in."""
_SAID: Final = 300
"""Characters of what a failed step said last."""


@dataclass(frozen=True, slots=True)
class Step:
    """One process."""

    name: str
    arguments: Sequence[str]
    """Of this Python."""
    deadline_s: float
    environ: Mapping[str, str] = field(default_factory=dict)
    """Beside the run's own."""
    fine: Sequence[int] = (0,)
    """Exit codes that are no failure of the step."""


@dataclass(slots=True)
class Running:
    """A step under way."""

    step: Step
    popen: "subprocess.Popen[bytes]"
    until: float
    log: Path
    mark: str


class Runner:
    """Starts steps, waits for them, and keeps what went wrong."""

    def __init__(
        self, folder: Path, within_s: float, environ: Mapping[str, str]
    ) -> None:
        """
        Args:
            folder: where each step's output goes, to `<name>.log`.
            within_s: when all of them have to be over.
            environ: of each step.
        """
        self._folder = folder
        self._end = time.monotonic() + within_s
        self._environ = dict(environ)
        self._running: list[Running] = []
        self.notes: list[str] = []

    def start(self, step: Step) -> Running | None:
        """Begin a step; None where no time is left for it."""
        now = time.monotonic()
        if self._end - now < _LEAST_S:
            self.notes.append(f"{step.name}: no time was left")
            return None
        log = self._folder / f"{step.name}.log"
        mark = uuid.uuid4().hex
        with log.open("wb") as output:
            popen = subprocess.Popen(
                [sys.executable, *step.arguments],
                cwd=_ROOT,
                # Unbuffered, so that the last words of a step come last.
                env=self._environ
                | {_MARK: mark, "PYTHONUNBUFFERED": "1"}
                | dict(step.environ),
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=output,
                start_new_session=True,
            )
        until = min(now + step.deadline_s, self._end)
        running = Running(step, popen, until, log, mark)
        self._running.append(running)
        return running

    def finish(self, running: Running | None) -> bool:
        """Wait for a step; False where it failed or was too slow, which is noted."""
        if running is None:
            return False
        step = running.step
        try:
            code = running.popen.wait(max(0.0, running.until - time.monotonic()))
            problem = None if code in step.fine else f"exit code {code}"
        except subprocess.TimeoutExpired:
            problem = "took too long"
        if problem is not None:
            self.notes.append(f"{step.name}: {problem} ({_last_words(running.log)})")
        self._end_of(running)
        return problem is None

    def run(self, step: Step) -> bool:
        """Begin a step and wait for it; whether it did what it should."""
        return self.finish(self.start(step))

    def stop(self) -> None:
        """End whatever is under way."""
        for running in list(self._running):
            self.notes.append(f"{running.step.name}: was cut short")
            self._end_of(running)

    def _end_of(self, running: Running) -> None:
        _stop(running.popen)
        _kill_leftovers(running.mark)
        self._running.remove(running)


def _stop(popen: "subprocess.Popen[bytes]") -> None:
    """Interrupt it, so that it stops what it has started; kill it if it stays."""
    popen.send_signal(signal.SIGINT)
    try:
        popen.wait(_GRACE_S)
    except subprocess.TimeoutExpired:
        popen.kill()
        popen.wait()


def _kill_leftovers(mark: str) -> None:
    """End what a step has started and left: it would keep memory of the GPU."""
    wanted = f"{_MARK}={mark}".encode()
    for entry in Path("/proc").iterdir():
        if not entry.name.isdecimal():
            continue
        try:
            if wanted in (entry / "environ").read_bytes().split(b"\0"):
                os.kill(int(entry.name), signal.SIGKILL)
        except OSError:
            continue  # it ended meanwhile, or is somebody else's


def _last_words(log: Path) -> str:
    lines = log.read_text(encoding="utf-8", errors="replace").split("\n")
    said = [line.strip() for line in lines if line.strip()]
    return said[-1][:_SAID] if said else "it said nothing"
