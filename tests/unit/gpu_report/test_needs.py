"""What a run on a bare machine is told to bring."""

import subprocess
import sys
from pathlib import Path

import pytest

from tests.gpu import needs

RUN = Path(needs.__file__).with_name("run.sh")


def test_what_is_not_installed_is_named() -> None:
    assert needs.missing(["pytest>=8.3", "no-such-thing[extra]==1"]) == [
        "no-such-thing[extra]==1"
    ]


def test_another_version_is_named_and_so_is_what_a_package_needs(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    about = tmp_path / "half-1.0.dist-info"
    about.mkdir()
    lines = [
        "Name: half", "Version: 1.0", "Requires-Dist: its-core>=2",
        "Requires-Dist: pytest>=999", "Requires-Dist: more; extra == 'x'",
        "Requires-Dist: old; python_version < '3'",
    ]  # fmt: skip
    (about / "METADATA").write_text("Metadata-Version: 2.1\n" + "\n".join(lines))
    monkeypatch.syspath_prepend(tmp_path)
    assert needs.missing(["half>=2", "pytest>=8.3"]) == [
        "half>=2 (found 1.0)", "its-core>=2"
    ]  # fmt: skip


def test_everything_but_the_console_and_the_linters_is_asked_for() -> None:
    names = {needs.name_of(each) for each in needs.needed()}
    assert {"torch", "exllamav2", "aiohttp", "numpy", "pytest", "regex"} <= names
    assert names >= needs._OF_THE_TESTS
    assert not names & {"textual", "mypy", "ruff"}


def test_the_wrapper_begins_nothing_where_something_is_missing(tmp_path: Path) -> None:
    """A Python without anything installed."""
    bare = tmp_path / "python"
    bare.write_text(f'#!/bin/sh\nexec "{sys.executable}" -S "$@"\n')
    bare.chmod(0o755)
    done = subprocess.run(
        ["bash", str(RUN)],
        env={"PATH": "/usr/bin:/bin", "PYTHON": str(bare), "WHEELS": str(tmp_path)},
        capture_output=True, text=True, timeout=60, check=False,
    )  # fmt: skip
    assert done.returncode == 2
    assert "missing: torch>=" in done.stderr
    assert "tests.gpu.wheels --python 3" in done.stderr
