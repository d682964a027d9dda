"""Output that goes nowhere, for the commands of both programs."""

import os
import subprocess
import sys
from subprocess import CompletedProcess
from typing import IO

import pytest

PROGRAMS = ("neuron", "cortex_tui")
BUFFERED = {name: v for name, v in os.environ.items() if name != "PYTHONUNBUFFERED"}


def run_into(output: IO[bytes], *arguments: str) -> CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", *arguments],
        env=BUFFERED,
        stdin=subprocess.DEVNULL,
        stdout=output,
        stderr=subprocess.PIPE,
        text=True,
        timeout=30,
        check=False,
    )


@pytest.mark.parametrize("program", PROGRAMS)
@pytest.mark.parametrize("option", ["--help", "--version"])
def test_a_reader_that_left_is_no_error(program: str, option: str) -> None:
    read, write = os.pipe()
    os.close(read)
    with open(write, "wb") as gone:
        result = run_into(gone, program, option)
    assert (result.returncode, result.stderr) == (0, "")


@pytest.mark.parametrize("program", PROGRAMS)
def test_a_full_disk_is_said(program: str) -> None:
    with open("/dev/full", "wb") as full:
        result = run_into(full, program, "--version")
    name = program.replace("_", "-")
    assert result.stderr == f"{name}: No space left on device\n"
    assert result.returncode == 1


@pytest.mark.parametrize("program", PROGRAMS)
def test_no_output_at_all_is_no_error(program: str) -> None:
    command = f"exec {sys.executable} -m {program} --version >&-"
    result = subprocess.run(
        ["/bin/sh", "-c", command],
        env=BUFFERED, capture_output=True, text=True, timeout=30, check=False,
    )  # fmt: skip
    assert (result.returncode, result.stdout) == (0, "")
    assert "Traceback" not in result.stderr
