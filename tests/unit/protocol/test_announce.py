"""The file that says where a process listens."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

from neuron.protocol.announce import (
    Announcement,
    process_is_alive,
    write_atomically,
)


def test_what_is_written_is_read(tmp_path: Path) -> None:
    path = tmp_path / "deep" / "neuron.json"
    written = Announcement.of_this_process("http://127.0.0.1:1", started_at=2.0)
    written.write(path)
    assert Announcement.read(path) == written
    assert written.pid == os.getpid()
    assert written.process_is_alive()
    assert path.stat().st_mode & 0o777 == 0o600


@pytest.mark.parametrize("text", ["", "{", "[]"])
def test_a_damaged_file_is_none(tmp_path: Path, text: str) -> None:
    path = tmp_path / "neuron.json"
    assert Announcement.read(path) is None
    path.write_text(text)
    assert Announcement.read(path) is None


def test_nobody_is_not_alive() -> None:
    assert not Announcement(pid=2**22 + 1).process_is_alive()


def test_a_failed_write_leaves_the_old_file_and_no_litter(tmp_path: Path) -> None:
    path = tmp_path / "file"
    write_atomically(path, "old")
    with pytest.raises(UnicodeEncodeError):
        write_atomically(path, "\ud800")
    assert path.read_text() == "old"
    assert [entry.name for entry in tmp_path.iterdir()] == ["file"]


@pytest.mark.skipif(os.geteuid() != 0, reason="only root gives files away")
def test_a_file_stays_its_owners(tmp_path: Path) -> None:
    path = tmp_path / "file"
    write_atomically(path, "old", 0o640)
    os.chown(path, 1234, 4321)
    write_atomically(path, "new", 0o640)
    kept = path.stat()
    assert (kept.st_uid, kept.st_gid, kept.st_mode & 0o777) == (1234, 4321, 0o640)
    assert path.read_text() == "new"


def test_of_a_running_an_unreaped_and_a_gone_process() -> None:
    child = subprocess.Popen(
        [sys.executable, "-c", "input()"], stdin=subprocess.PIPE, text=True
    )
    assert process_is_alive(child.pid)
    assert child.stdin is not None
    child.stdin.close()
    os.waitid(os.P_PID, child.pid, os.WEXITED | os.WNOWAIT)
    assert not process_is_alive(child.pid)
    child.wait()
    assert not process_is_alive(child.pid)


def test_no_process_has_number_zero() -> None:
    assert not process_is_alive(0)
