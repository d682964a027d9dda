"""Whole model folders, quantized."""

import json
from pathlib import Path

import numpy as np
import pytest

from neuron.exl2 import open_model
from neuron.exl2.convert import (
    ConvertError,
    ConvertOptions,
    ConvertReport,
    LayerReport,
    convert,
)
from neuron.exl2.exl2_linear import Exl2Linear
from tests.unit.exl2.support import save, tiny_model

OPTIONS = ConvertOptions(bits=4.9, head_bits=6)


@pytest.fixture
def source(tmp_path: Path) -> Path:
    tiny_model(tmp_path / "source")
    return tmp_path / "source"


def digest(folder: Path) -> dict[str, bytes]:
    return {file.name: file.read_bytes() for file in sorted(folder.iterdir())}


@pytest.mark.parametrize(
    ("architecture", "kept"),
    [
        ("LlamaForCausalLM", None),
        ("MistralForCausalLM", None),
        ("Qwen2ForCausalLM", "self_attn.q_proj.bias"),
        ("Qwen3ForCausalLM", "self_attn.k_norm.weight"),
    ],
)
@pytest.mark.parametrize("bfloat16", [False, True])
def test_every_architecture_keeps_its_weights_within_the_error(
    tmp_path: Path, architecture: str, kept: str | None, bfloat16: bool
) -> None:
    exact = tiny_model(tmp_path / "source", architecture, bfloat16=bfloat16)
    target = tmp_path / "target"
    seen: list[LayerReport] = []
    report = convert(tmp_path / "source", target, OPTIONS, seen.append)
    model = open_model(target)
    assert tuple(seen) == report.layers
    assert [layer.done for layer in seen] == list(range(1, 16))
    assert seen[-1].key == "lm_head"
    for layer in seen:
        weight = exact[f"{layer.key}.weight"].T
        linear = model.linear(layer.key, weight.shape[1])
        assert isinstance(linear, Exl2Linear)
        difference = linear.dequantize().astype(np.float32) - weight
        error = np.linalg.norm(difference) / np.linalg.norm(weight)
        assert layer.error == pytest.approx(error, rel=1e-4)
        assert 0 < layer.error < 0.2  # 3 to 4 bits; the rest of 4.9 is overhead
        assert linear.stored_bits / weight.size == pytest.approx(layer.bpw)
    kept_names = {name for name in exact if "proj.weight" not in name}
    for name in kept_names - {"lm_head.weight"}:
        assert np.array_equal(model.read(name), exact[name].astype(np.float16)), name
    assert kept is None or f"model.layers.1.{kept}" in model.specs


def test_the_mean_size_is_as_asked(source: Path, tmp_path: Path) -> None:
    report = convert(source, tmp_path / "target", OPTIONS)
    model = open_model(tmp_path / "target")
    assert report.bpw == pytest.approx(4.9, abs=0.1)
    bits = weights = 0
    for layer in report.layers[:-1]:
        linear = model.linear(layer.key)
        assert isinstance(linear, Exl2Linear)
        bits += linear.stored_bits
        weights += linear.in_features * linear.out_features
    assert report.bpw == pytest.approx(bits / weights)
    head = model.linear("lm_head")
    assert isinstance(head, Exl2Linear)
    assert {group.bits for group in head.groups} == {6}
    assert (
        report.bytes_written == (tmp_path / "target/output.safetensors").stat().st_size
    )


def test_a_tied_head_is_quantized_from_the_embedding(tmp_path: Path) -> None:
    exact = tiny_model(tmp_path / "source", tied=True)
    convert(tmp_path / "source", tmp_path / "target", OPTIONS)
    model = open_model(tmp_path / "target")
    embedding = exact["model.embed_tokens.weight"]
    assert np.array_equal(model.read("model.embed_tokens.weight"), embedding)
    head = model.linear("lm_head", embedding.shape[0]).dequantize()
    error = np.linalg.norm(head.T.astype(np.float32) - embedding)
    assert error / np.linalg.norm(embedding) < 0.04


def test_configuration_and_other_files_go_with_it(source: Path, tmp_path: Path) -> None:
    for name in (
        "tokenizer_config.json",
        "chat_template.jinja",
        "tokenizer.model",
        "LICENSE",
        "USE_POLICY.md",
    ):
        (source / name).write_text(name)
    for name in ("README.md", "pytorch_model.bin", "modeling_custom.py"):
        (source / name).write_text("stays")
    (source / "original").mkdir()
    convert(source, tmp_path / "target", OPTIONS)
    assert sorted(file.name for file in (tmp_path / "target").iterdir()) == [
        "LICENSE",
        "USE_POLICY.md",
        "chat_template.jinja",
        "config.json",
        "output.safetensors",
        "tokenizer.json",
        "tokenizer.model",
        "tokenizer_config.json",
    ]
    before = json.loads((source / "config.json").read_text())
    after = json.loads((tmp_path / "target/config.json").read_text())
    quantization = after.pop("quantization_config")
    assert after == before
    assert quantization["quant_method"] == "exl2"
    assert (quantization["bits"], quantization["head_bits"]) == (4.9, 6)


def test_a_bfloat16_model_is_called_float16_afterwards(tmp_path: Path) -> None:
    tiny_model(tmp_path / "source", bfloat16=True)
    convert(tmp_path / "source", tmp_path / "target", OPTIONS)
    config = json.loads((tmp_path / "target/config.json").read_text())
    assert config["torch_dtype"] == "float16"


def test_shards_in_and_out_and_workers_change_nothing(tmp_path: Path) -> None:
    tiny_model(tmp_path / "one")
    tiny_model(tmp_path / "three", shards=3)
    convert(tmp_path / "one", tmp_path / "plain", OPTIONS)
    small = ConvertOptions(4.9, 6, max_shard_bytes=30_000, workers=3)
    convert(tmp_path / "three", tmp_path / "sharded", small)
    assert len(list((tmp_path / "sharded").glob("output-*-of-*.safetensors"))) > 1
    assert not list((tmp_path / "sharded").glob("*.index.json"))
    plain, sharded = open_model(tmp_path / "plain"), open_model(tmp_path / "sharded")
    assert plain.specs.keys() == sharded.specs.keys()
    for name in plain.specs:
        assert np.array_equal(plain.read(name), sharded.read(name)), name


def test_the_same_again_is_the_same_to_the_byte(source: Path, tmp_path: Path) -> None:
    convert(source, tmp_path / "a", OPTIONS)
    convert(source, tmp_path / "b", ConvertOptions(bits=4.9, head_bits=6, workers=4))
    assert digest(tmp_path / "a") == digest(tmp_path / "b")


def test_an_empty_target_folder_is_taken(source: Path, tmp_path: Path) -> None:
    (tmp_path / "target").mkdir()
    convert(source, tmp_path / "target", OPTIONS)
    assert (tmp_path / "target/output.safetensors").exists()


def test_a_target_that_holds_something_is_left_alone(
    source: Path, tmp_path: Path
) -> None:
    (tmp_path / "target").mkdir()
    (tmp_path / "target/mine").write_text("mine")
    with pytest.raises(ConvertError, match="not an empty folder"):
        convert(source, tmp_path / "target", OPTIONS)
    assert digest(tmp_path / "target") == {"mine": b"mine"}


def test_the_rotary_frequencies_of_old_exports_are_left_out(
    source: Path, tmp_path: Path
) -> None:
    name = "model.layers.0.self_attn.rotary_emb.inv_freq"
    save(source / "rotary.safetensors", {name: np.ones(8, dtype=np.float32)})
    report: ConvertReport = convert(source, tmp_path / "target", OPTIONS)
    assert len(report.layers) == 15
    assert name not in open_model(tmp_path / "target").specs


def test_the_source_stays_as_it_is(source: Path, tmp_path: Path) -> None:
    before = digest(source)
    convert(source, tmp_path / "target", OPTIONS)
    assert digest(source) == before
