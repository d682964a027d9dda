"""The model that comes with the package: whole, small, and made as it says."""

import hashlib
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

from neuron.exl2 import open_model
from neuron.models.bundled import bundled_root
from neuron.models.store import ModelStore

ROOT = Path(__file__).parents[3]
MODEL = bundled_root() / "tinystories-15m"
SOURCE = (
    Path(os.environ.get("CORTEX_TEST_MODELS") or ROOT.parent / "shared" / "models")
    / "tinystories-15m"
)
UNMADE = {"README.md", "SHA256SUMS"}
"""Written by hand; everything else comes out of the command."""


def test_it_is_a_model_of_the_store() -> None:
    entry = ModelStore([bundled_root()]).get("tinystories-15m")
    assert entry.info is not None
    assert entry.info.format == "exl2"
    assert entry.info.bpw == pytest.approx(6.0, abs=0.01)
    assert entry.info.head_bits == 6
    assert entry.info.parameters == 10_931_328


def test_it_is_small_and_has_its_licence_and_origin() -> None:
    assert sum(file.stat().st_size for file in MODEL.iterdir()) <= 12_000_000
    assert "MIT License" in (MODEL / "LICENSE").read_text()
    assert "llama2.c" in (MODEL / "README.md").read_text()


def test_its_files_are_those_that_were_checked_in() -> None:
    lines = (MODEL / "SHA256SUMS").read_text().splitlines()
    sums = {name: digest for digest, name in (line.split("  ") for line in lines)}
    assert sums.keys() == {file.name for file in MODEL.iterdir()} - UNMADE
    for name, digest in sums.items():
        assert hashlib.sha256((MODEL / name).read_bytes()).hexdigest() == digest, name


def test_it_mixes_widths_and_moves_rows() -> None:
    model = open_model(MODEL)
    linear = model.linear("model.layers.0.self_attn.q_proj")
    widths = model.read("model.layers.0.self_attn.q_proj.q_groups")[::2]
    assert set(widths.tolist()) == {5, 6}
    order = model.read("model.layers.0.self_attn.q_proj.q_invperm")
    assert order.tolist() != list(range(linear.in_features))


@pytest.mark.skipif(
    not SOURCE.is_dir(),
    reason=f"the float16 source is not at {SOURCE}; CORTEX_TEST_MODELS can name "
    "the folder that it lies in",
)
def test_its_readme_says_how_to_make_it_again_to_the_byte(tmp_path: Path) -> None:
    readme = (MODEL / "README.md").read_text()
    (command,) = re.findall(r"^ {4}neuron (quantize .*)$", readme, re.MULTILINE)
    _, _, target, *options = command.split()
    assert ROOT / target == MODEL
    weights = (SOURCE / "model.safetensors").read_bytes()
    assert hashlib.sha256(weights).hexdigest() in readme
    made = tmp_path / "made"
    subprocess.run(
        [sys.executable, "-m", "neuron", "quantize", SOURCE, made, *options],
        env=os.environ | {"PYTHONPATH": str(ROOT)},
        stdout=subprocess.DEVNULL,
        timeout=100,
        check=True,
    )
    names = {file.name for file in made.iterdir()}
    assert names == {file.name for file in MODEL.iterdir()} - UNMADE
    for name in names:
        assert (made / name).read_bytes() == (MODEL / name).read_bytes(), name
