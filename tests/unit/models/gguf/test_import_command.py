"""`neuron import`, as it is typed."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

from neuron.models.inspect import inspect_model
from tests.support.gguf_files import metadata_of, tensors_of, write_gguf
from tests.unit.reference.support import tiny

ROOT = Path(__file__).parents[4]


def neuron_import(*arguments: str | Path) -> "subprocess.CompletedProcess[str]":
    return subprocess.run(
        [sys.executable, "-m", "neuron", "import", *arguments],
        env=os.environ | {"PYTHONPATH": str(ROOT), "COLUMNS": "200"},
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )


@pytest.fixture
def source(tmp_path: Path) -> Path:
    model = tiny("qwen2-tied")
    return write_gguf(tmp_path / "m.gguf", metadata_of(model), tensors_of(model))


def test_exl2(source: Path, tmp_path: Path) -> None:
    done = neuron_import(source, tmp_path / "new", "--bits", "6", "--head-bits", "8")
    assert (done.returncode, done.stderr) == (0, "")
    assert "15/15" in done.stdout
    assert "relative Frobenius norm" in done.stdout
    info = inspect_model(tmp_path / "new", "new")
    assert (info.format, info.head_bits) == ("exl2", 8)
    assert info.bpw == pytest.approx(6, abs=0.3)


def test_fp16(source: Path, tmp_path: Path) -> None:
    done = neuron_import(source, tmp_path / "new", "--fp16")
    assert (done.returncode, done.stderr) == (0, "")
    assert f"{tmp_path / 'new'}: float16, " in done.stdout
    assert inspect_model(tmp_path / "new", "new").format == "fp16"


def test_a_refusal_is_one_line_that_names_file_and_key(tmp_path: Path) -> None:
    metadata = metadata_of(tiny("llama")) | {"general.architecture": "gemma3"}
    file = write_gguf(tmp_path / "m.gguf", metadata, {})
    done = neuron_import(file, tmp_path / "new", "--fp16")
    assert done.returncode == 1
    assert done.stderr == (
        f"neuron import: {file}: general.architecture 'gemma3' is not supported; "
        "these are: llama, qwen2, qwen3\n"
    )
    assert done.stdout == ""
    assert [*tmp_path.iterdir()] == [file]


def test_a_file_that_is_not_there(tmp_path: Path) -> None:
    done = neuron_import(tmp_path / "absent.gguf", tmp_path / "new", "--bits", "4")
    assert done.returncode == 1
    assert str(tmp_path / "absent.gguf") in done.stderr
    assert done.stderr.count("\n") == 1


@pytest.mark.parametrize(
    ("arguments", "reason"),
    [
        ([], "one of the arguments --bits --fp16 is required"),
        (["--bits", "4", "--fp16"], "not allowed with argument --bits"),
        (["--bits", "9"], "--bits: must be within 2 and 8, not 9"),
    ],
)
def test_wrong_usage(arguments: list[str], reason: str) -> None:
    done = neuron_import("m.gguf", "new", *arguments)
    assert done.returncode == 2
    assert reason in done.stderr
