"""`neuron quantize`, as it is typed."""

import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from neuron.exl2 import open_model
from tests.unit.exl2.support import tiny_model

ROOT = Path(__file__).parents[3]


def quantize(*arguments: str | Path) -> "subprocess.CompletedProcess[str]":
    return subprocess.run(
        [sys.executable, "-m", "neuron", "quantize", *arguments],
        env=os.environ | {"PYTHONPATH": str(ROOT), "COLUMNS": "200"},
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )


def test_it_says_the_error_of_every_layer(tmp_path: Path) -> None:
    tiny_model(tmp_path / "source")
    target = tmp_path / "org" / "target"
    done = quantize(tmp_path / "source", target, "--bits", "4.5", "--head-bits", "6")
    assert (done.returncode, done.stderr) == (0, "")
    lines = [line for line in done.stdout.splitlines() if " bpw   error " in line]
    assert len(lines) == 15
    assert lines[0].startswith("model.layers.0.self_attn.q_proj ")
    assert "15/15" in done.stdout
    assert "relative Frobenius norm" in done.stdout
    assert "lm_head.q_weight" in open_model(target).specs


def test_a_refusal_is_one_line_and_exit_code_1(tmp_path: Path) -> None:
    tiny_model(tmp_path / "source", "GPT2LMHeadModel")
    done = quantize(tmp_path / "source", tmp_path / "target", "--bits", "4")
    assert done.returncode == 1
    assert done.stderr.count("\n") == 1
    assert "'GPT2LMHeadModel' is not supported" in done.stderr
    assert not (tmp_path / "target").exists()


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGHUP])
def test_an_interruption_leaves_nothing_behind(
    tmp_path: Path, number: signal.Signals
) -> None:
    tiny_model(tmp_path / "source", hidden=512, inner=2048)
    folders = [tmp_path / "source", tmp_path / "target"]
    process = subprocess.Popen(
        [sys.executable, "-m", "neuron", "quantize", *folders, "--bits", "4"],
        env=os.environ | {"PYTHONPATH": str(ROOT)},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    assert process.stdout is not None
    assert "q_proj" in process.stdout.readline()
    process.send_signal(number)
    _, errors = process.communicate(timeout=60)
    assert process.returncode == 130
    assert errors == "neuron quantize: interrupted; nothing was kept\n"
    assert [path.name for path in tmp_path.iterdir()] == ["source"]


def test_a_source_that_is_not_there_is_named(tmp_path: Path) -> None:
    done = quantize(tmp_path / "absent", tmp_path / "target", "--bits", "4")
    assert done.returncode == 1
    missing = tmp_path / "absent" / "config.json"
    assert done.stderr == f"neuron quantize: {missing}: no such file or directory\n"


def test_what_could_not_be_served_is_said(tmp_path: Path) -> None:
    tiny_model(tmp_path / "source")
    (tmp_path / "source" / "tokenizer.json").unlink(missing_ok=True)
    done = quantize(tmp_path / "source", tmp_path / "target", "--bits", "4")
    assert done.returncode == 0
    assert done.stdout.endswith("no tokenizer.json: nothing can serve it without one\n")


@pytest.mark.parametrize(
    ("arguments", "reason"),
    [
        (["--bits", "9"], "--bits: must be within 2 and 8, not 9"),
        (["--bits", "nan"], "--bits: must be within 2 and 8, not nan"),
        (["--bits", "four"], "--bits: must be a number, not four"),
        (["--bits", "4", "--head-bits", "7"], "--head-bits: invalid choice: 7"),
        (["--bits", "4", "--group-rows", "33"], "multiple of 32, not 33"),
        (["--bits", "4", "--group-rows", "1.5"], "multiple of 32, not 1.5"),
        ([], "--bits"),
    ],
)
def test_wrong_usage_is_exit_code_2(arguments: list[str], reason: str) -> None:
    done = quantize("source", "target", *arguments)
    assert done.returncode == 2
    assert reason in done.stderr
