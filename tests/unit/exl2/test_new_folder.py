"""Folders that appear at once, and what killed processes leave of them."""

import errno
import fcntl
import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from neuron.exl2 import new_folder
from neuron.exl2.conversion_plan import ConvertError
from neuron.exl2.new_folder import appearing

ROOT = Path(__file__).parents[3]
MAKES_ONE = """
import pathlib, sys
from neuron.exl2.new_folder import appearing
with appearing(pathlib.Path(sys.argv[1])) as folder:
    (folder / "weights").write_text("half")
    print(folder, flush=True)
    sys.stdin.read()
"""


@contextmanager
def another(target: Path) -> Iterator["subprocess.Popen[str]"]:
    """A process that is making the folder; it finishes when its input ends."""
    with subprocess.Popen(
        [sys.executable, "-c", MAKES_ONE, target],
        cwd=ROOT,
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    ) as process:
        assert process.stdout is not None
        assert Path(process.stdout.readline().strip()).parent == target.parent
        yield process


def partial_of(target: Path) -> list[Path]:
    prefix = f".{target.name}.partial-"
    return [path for path in target.parent.iterdir() if path.name.startswith(prefix)]


def test_it_appears_whole_or_not_at_all(tmp_path: Path) -> None:
    target = tmp_path / "deep" / "new"
    with pytest.raises(FileNotFoundError), appearing(target) as folder:
        (folder / "a").rename(folder / "b")
    assert [*target.parent.iterdir()] == []
    with appearing(target) as folder:
        (folder / "a").touch()
        assert not target.exists()
    assert [*target.parent.iterdir()] == [target]
    with pytest.raises(ConvertError, match="not an empty folder"), appearing(target):
        pass


def test_what_a_killed_process_left_is_removed(tmp_path: Path) -> None:
    target = tmp_path / "new[1]"
    with another(target) as process:
        process.send_signal(signal.SIGKILL)
    assert len(partial_of(target)) == 1
    with appearing(target) as folder:
        assert partial_of(target) == [folder]
    assert [*tmp_path.iterdir()] == [target]


def test_what_a_living_process_makes_is_left(tmp_path: Path) -> None:
    target = tmp_path / "new"
    with another(target) as process:
        theirs = partial_of(target)
        with pytest.raises(ZeroDivisionError), appearing(target):
            raise ZeroDivisionError
        assert partial_of(target) == theirs
        assert process.stdin is not None
        process.stdin.close()
        assert process.wait(30) == 0
    assert (target / "weights").read_text() == "half"


def test_others_that_are_called_so_are_left(tmp_path: Path) -> None:
    kept = {".new.partial-notes", ".newer.partial-0123abcd"}
    for name in kept:
        (tmp_path / name).mkdir()
    (tmp_path / ".new.partial-0123abcd").touch()
    (tmp_path / ".new.partial-0123abce").symlink_to(tmp_path)
    with appearing(tmp_path / "new"):
        pass
    left = {path.name for path in tmp_path.iterdir()}
    kept |= {".new.partial-0123abcd", ".new.partial-0123abce", "new"}
    assert left == kept


def test_where_nothing_can_be_locked_nothing_is_removed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    left = tmp_path / ".new.partial-0123abcd"
    left.mkdir()

    def refuse(*_: object) -> None:
        raise OSError(errno.EBADF, "no locks here")

    monkeypatch.setattr(fcntl, "flock", refuse)
    with appearing(tmp_path / "new"):
        pass
    assert left.exists()


def test_a_folder_that_was_taken_for_abandoned_is_made_anew(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    taken: list[int] = []
    lock = new_folder._lock

    def late(folder: int) -> bool:
        if not taken:
            taken.append(folder)
            raise BlockingIOError
        return lock(folder)

    monkeypatch.setattr(new_folder, "_lock", late)
    with appearing(tmp_path / "new") as folder:
        (folder / "a").touch()
    assert taken
    assert (tmp_path / "new" / "a").exists()
