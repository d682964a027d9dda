"""Steps that fail, hang or are cut short, each a real process."""

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from tests.gpu import steps
from tests.gpu.steps import Runner, Step


@pytest.fixture
def runner(tmp_path: Path) -> Runner:
    return Runner(tmp_path, 60, os.environ)


def python(code: str, deadline_s: float = 30, name: str = "step") -> Step:
    return Step(name, ["-c", code], deadline_s)


def test_one_that_works_leaves_no_note(runner: Runner, tmp_path: Path) -> None:
    assert runner.run(python("print('hello')"))
    assert runner.notes == []
    assert (tmp_path / "step.log").read_text() == "hello\n"


def test_one_that_fails_is_noted_with_its_last_words(runner: Runner) -> None:
    assert not runner.run(python("print('x'); raise SystemExit('the disk is full')"))
    assert runner.notes == ["step: exit code 1 (the disk is full)"]
    assert runner.run(python("", name="next"))


def test_some_exit_codes_are_no_failure(runner: Runner) -> None:
    assert runner.run(Step("step", ["-c", "raise SystemExit(5)"], 30, fine=(0, 5)))
    assert runner.notes == []


def test_one_that_hangs_is_interrupted_at_its_deadline(
    runner: Runner, tmp_path: Path
) -> None:
    code = (
        "import pathlib, sys, time\n"
        "try:\n"
        "    print('begun', flush=True)\n"
        "    time.sleep(60)\n"
        "except KeyboardInterrupt:\n"
        f"    pathlib.Path({str(tmp_path / 'tidied')!r}).touch()\n"
    )
    began = time.monotonic()
    assert not runner.run(python(code, deadline_s=1))
    assert time.monotonic() - began < 10
    assert runner.notes == ["step: took too long (begun)"]
    assert (tmp_path / "tidied").exists()


def test_one_that_does_not_listen_is_killed(
    runner: Runner, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(steps, "_GRACE_S", 0.2)
    code = (
        "import signal, time; signal.signal(signal.SIGINT, signal.SIG_IGN)\n"
        "print('deaf', flush=True); time.sleep(60)"
    )
    assert not runner.run(python(code, deadline_s=1))
    assert runner.notes == ["step: took too long (deaf)"]


def test_what_a_step_has_left_in_other_sessions_ends_with_it(
    runner: Runner, tmp_path: Path
) -> None:
    code = (
        "import subprocess, sys\n"
        "left = subprocess.Popen([sys.executable, '-c', 'import time; time.sleep(60)'],"
        " start_new_session=True)\n"
        "print(left.pid)"
    )
    assert runner.run(python(code))
    pid = int((tmp_path / "step.log").read_text())
    deadline = time.monotonic() + 10
    while Path(f"/proc/{pid}/cmdline").exists() and _alive(pid):
        assert time.monotonic() < deadline
        time.sleep(0.01)


def _alive(pid: int) -> bool:
    try:
        stat = Path(f"/proc/{pid}/stat").read_text()
    except OSError:
        return False
    return stat.rpartition(")")[2].split()[0] != "Z"


def test_two_at_a_time(runner: Runner, tmp_path: Path) -> None:
    """Each waits for what the other one does."""
    code = "import os, time\nopen({0!r}, 'w')\nwhile not os.path.exists({1!r}): pass"
    files = [str(tmp_path / name) for name in "ab"]
    first = runner.start(python(code.format(*files), name="first"))
    second = runner.start(python(code.format(*reversed(files)), name="second"))
    assert runner.finish(first)
    assert runner.finish(second)


def test_the_log_has_what_each_has_said_once_it_ended(tmp_path: Path) -> None:
    seen: list[str] = []
    ours = Runner(tmp_path, 60, os.environ, lambda: seen.append(ours.log))
    waits = f"import os\nwhile not os.path.exists({str(tmp_path / 'go')!r}): pass"
    slow = ours.start(python(f"{waits}\nprint('at last')", name="slow"))
    quick = ours.start(python("raise SystemExit('no')", name="quick"))
    assert not ours.finish(quick)
    (tmp_path / "go").touch()
    assert ours.finish(slow)
    assert [text.count("===") for text in seen] == [1, 2]
    assert seen[0].startswith("=== quick, 0 s to ")
    assert seen[0].endswith(", exit code 1\nno\n")
    assert seen[1].endswith(", exit code 0\nat last\n")


def test_each_learns_from_no_other(runner: Runner, tmp_path: Path) -> None:
    code = "import os; print(os.environ['XDG_STATE_HOME'])"
    for name in "ab":
        runner.run(python(code, name=name))
    assert len({(tmp_path / f"{name}.log").read_text() for name in "ab"}) == 2


def test_nothing_is_begun_when_no_time_is_left(tmp_path: Path) -> None:
    runner = Runner(tmp_path, 1, os.environ)
    assert not runner.run(python(""))
    assert runner.notes == ["step: no time was left"]


def test_stopping_ends_what_is_under_way(runner: Runner) -> None:
    running = runner.start(python("import time; time.sleep(60)"))
    assert running is not None
    runner.stop()
    assert running.popen.poll() is not None
    assert runner.notes == ["step: was cut short"]


def test_the_script_writes_its_results_when_it_is_terminated(tmp_path: Path) -> None:
    out = tmp_path / "results.json"
    command = [
        sys.executable, "-m", "tests.gpu", "--quick", "--only", "bench",
        "--out", str(out),
    ]  # fmt: skip
    environ = os.environ | {"TMPDIR": str(tmp_path)}
    script = subprocess.Popen(command, env=environ, stdout=subprocess.PIPE, text=True)
    deadline = time.monotonic() + 60
    while not list(tmp_path.glob("gpu-run-*/models.log")):
        assert time.monotonic() < deadline
        time.sleep(0.02)
    script.send_signal(signal.SIGTERM)
    said, _ = script.communicate(timeout=60)
    assert script.returncode == 1
    assert "the run was interrupted" in said
    assert "the run was interrupted" in out.read_text()
    assert not list(tmp_path.glob("gpu-run-*"))


def test_a_shell_that_waits_leaves_steps_their_ears(tmp_path: Path) -> None:
    """What it begins in the background ignores interrupts, and so would all below."""
    out = tmp_path / "results.json"
    code = (
        "import sys\n"
        "from tests.gpu import __main__, script, steps\n"
        "step = steps.Step('step', ['-c', 'import time; time.sleep(60)'], 1)\n"
        "script.Run._steps = lambda _self, runner, *_: runner.run(step)\n"
        "sys.exit(__main__.main())"
    )
    script = [sys.executable, "-c", code, "--quick", "--out", str(out)]
    done = subprocess.run(
        ["bash", "-c", '"$@" & wait $!', "-", *script],
        env=os.environ | {"TMPDIR": str(tmp_path)}, timeout=60, check=False,
    )  # fmt: skip
    assert done.returncode == 1
    said = out.with_suffix(".log").read_text()
    assert said.splitlines()[0].endswith(f", exit code {-signal.SIGINT}")
    assert "KeyboardInterrupt" in said
