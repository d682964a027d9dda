"""What checks leave behind, in files and in words, while they still run."""

import os
import subprocess
import sys
from pathlib import Path

from tests.gpu import outcomes
from tests.gpu.results import read_findings

CHECKS = """
import pytest

def test_measures(record_property):
    record_property("error", 0.5)

def test_fails():
    assert 1 == 2, "not equal\\nand more"

@pytest.fixture
def broken():
    raise OSError("no GPU")

def test_is_not_begun(broken):
    pass

def test_kills():
    import os
    os.kill(os.getpid(), 9)
"""


def test_all_but_the_one_that_ends_it(tmp_path: Path) -> None:
    checks, found = tmp_path / "test_some.py", tmp_path / "found.json"
    checks.write_text(CHECKS)
    environ = {name: v for name, v in os.environ.items() if name[:6] != "PYTEST"}
    done = subprocess.run(
        [
            sys.executable, "-m", "pytest", "-p", "tests.gpu.outcomes", "-v",
            "-p", "no:cacheprovider", "-c", os.devnull, "--rootdir", tmp_path, checks,
        ],
        env=environ | {outcomes.FILE: str(found)},
        capture_output=True, text=True, timeout=60, check=False,
    )  # fmt: skip
    assert done.returncode == -9
    assert 'assert 1 == 2, "not equal' in done.stdout
    assert done.stdout.endswith("test_some.py::test_kills ")
    seen = read_findings(found).checks
    assert seen is not None
    assert seen.passed == 1
    assert seen.measured == {"test_some.py::test_measures": {"error": 0.5}}
    assert seen.failed == {
        "test_some.py::test_fails": "AssertionError: not equal",
        "test_some.py::test_is_not_begun": "OSError: no GPU",
    }
