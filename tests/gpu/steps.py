"""Steps of a run: processes with deadlines, of which any may fail and none stops the
rest."""

import os
import signal
import subprocess
import sys
import time
import uuid
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final

_ROOT: Final = Path(__file__).parents[2]
_GRACE_S: Final = 15.0
"""For an interrupted step to stop what it has started."""
_POLL_S: Final = 0.02
_LEAST_S: Final = 3.0
"""With less left, a step is not begun."""
_MARK: Final = "GPU_RUN_STEP"
"""Variable by which a step's processes are known, whatever sessions they are in."""
_SAID: Final = 300
"""Characters of what a failed step said last."""
_LOGGED: Final = 1 << 20
"""Bytes of what each step said that are kept, the last ones."""


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
    began: float
    until: float
    log: Path
    mark: str
    ended: float | None = None

    def look(self) -> bool:
        """Whether it ended, or its time has passed."""
        now = time.monotonic()
        if self.ended is None and self.popen.poll() is not None:
            self.ended = now
        return self.ended is not None or now >= self.until


class Runner:
    """Starts steps, waits for them, and keeps what went wrong."""

    def __init__(
        self,
        folder: Path,
        within_s: float,
        environ: Mapping[str, str],
        ended: Callable[[], None] = lambda: None,
    ) -> None:
        """
        Args:
            folder: where each step's output goes, to `<name>.log`.
            within_s: when all of them have to be over.
            environ: of each step.
            ended: called after each of them.
        """
        self._folder = folder
        self._began = time.monotonic()
        self._end = self._began + within_s
        self._environ = dict(environ)
        self._ended = ended
        self._running: list[Running] = []
        self._logs: list[str] = []
        self.notes: list[str] = []

    @property
    def log(self) -> str:
        """What the steps that are over have said, in the order in which they ended."""
        return "\n".join(self._logs)

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
                env=self._environ | self._own(step, mark),
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=output,
                start_new_session=True,
            )
        until = min(now + step.deadline_s, self._end)
        running = Running(step, popen, now, until, log, mark)
        self._running.append(running)
        return running

    def _own(self, step: Step, mark: str) -> dict[str, str]:
        return {
            _MARK: mark,
            "PYTHONUNBUFFERED": "1",  # so that the last words of a step come last
            # What one step's loads take, beside others', is no other's to learn from.
            "XDG_STATE_HOME": str(self._folder / f"{step.name}-state"),
        } | dict(step.environ)

    def finish(self, *steps: Running | None) -> bool:
        """Wait for steps; False where one failed or was too slow, which is noted."""
        left = [running for running in steps if running is not None]
        fine = len(left) == len(steps)
        while left:
            over = [running for running in self._running if running.look()]
            ended = [running for running in over if running in left]
            for running in ended:
                fine &= self._judge(running)
            self._end_of(ended)
            left = [running for running in left if running not in ended]
            time.sleep(0 if ended else _POLL_S)
        return fine

    def run(self, step: Step) -> bool:
        """Begin a step and wait for it; whether it did what it should."""
        return self.finish(self.start(step))

    def stop(self) -> None:
        """End whatever is under way."""
        for running in self._running:
            self._note(running, "was cut short")
        self._end_of(list(self._running))

    def _judge(self, running: Running) -> bool:
        code = running.popen.poll()
        if code in running.step.fine:
            return True
        problem = "took too long" if code is None else f"exit code {code}"
        self._note(running, f"{problem} ({_last_words(running.log)})")
        return False

    def _note(self, running: Running, problem: str) -> None:
        self.notes.append(f"{running.step.name}: {problem}")

    def _end_of(self, steps: Sequence[Running]) -> None:
        _stop([running.popen for running in steps])
        for running in steps:
            _kill_leftovers(running.mark)
            self._running.remove(running)
            times = " to ".join(
                f"{moment - self._began:.0f} s"
                for moment in (running.began, running.ended or time.monotonic())
            )
            head = f"{running.step.name}, {times}, exit code {running.popen.poll()}"
            sys.stderr.write(f"{head}\n")
            said = running.log.read_bytes()[-_LOGGED:].decode(errors="replace")
            self._logs.append(f"=== {head}\n{said}")
            self._ended()


def _stop(processes: Sequence["subprocess.Popen[bytes]"]) -> None:
    """Interrupt them, so that they stop what they have started; kill who stays."""
    for popen in processes:
        popen.send_signal(signal.SIGINT)
    until = time.monotonic() + _GRACE_S
    for popen in processes:
        try:
            popen.wait(max(0.0, until - time.monotonic()))
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
