"""Models made up for benchmarks behave like models."""

from pathlib import Path
from typing import Final

import pytest

from neuron.engines.base import GenerationRequest, SamplingParams, TokenEvent
from neuron.exl2 import open_model
from neuron.models.inspect import inspect_model
from tests.support.synthetic_model import ModelShape, write_synthetic
from tests.unit.reference.support import loaded

SHAPE: Final = ModelShape(
    hidden=256, intermediate=512, layers=3, heads=4, kv_heads=2, head_dim=64,
    vocab=9000, context=1024,
)  # fmt: skip


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    target = tmp_path_factory.mktemp("models") / "synthetic"
    write_synthetic(target, SHAPE)
    return target


def test_has_the_widths_asked_for(folder: Path) -> None:
    info = inspect_model(folder, "synthetic")
    assert info.format == "exl2"
    assert info.head_bits == 6
    assert 4 < info.bpw < 4.2
    assert (info.layers, info.heads, info.kv_heads) == (3, 4, 2)


def test_layers_keep_the_variance_of_their_input(folder: Path) -> None:
    weight = open_model(folder).linear("model.layers.0.mlp.up_proj").dequantize()
    assert weight.shape == (256, 512)
    assert float(weight.astype("f4").var()) * 256 == pytest.approx(1, rel=0.05)


def test_generates_tokens_of_its_vocabulary(folder: Path) -> None:
    greedy = SamplingParams(temperature=0)
    events = []
    with loaded(folder, slots=1, cache_tokens=512) as engine:
        engine.submit(GenerationRequest("a", (1, 5, 8999), 8, greedy, top_logprobs=0))
        while engine.has_work():
            events += engine.step()
    tokens = [event for event in events if isinstance(event, TokenEvent)]
    assert len(tokens) == 8
    assert all(0 <= token.token_id < 9000 for token in tokens)


def test_equal_seeds_give_equal_bytes(folder: Path, tmp_path: Path) -> None:
    again, other = tmp_path / "again", tmp_path / "other"
    write_synthetic(again, SHAPE)
    write_synthetic(other, SHAPE, seed=1)
    tensors = [path.joinpath("output.safetensors") for path in (folder, again, other)]
    first, second, third = (file.read_bytes() for file in tensors)
    assert first == second
    assert first != third
