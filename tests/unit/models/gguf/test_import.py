"""Tiny Hugging Face models, written as GGUF and imported again."""

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from gguf import GGMLQuantizationType
from gguf.quants import dequantize, quantize
from numpy.typing import NDArray

from neuron.exl2 import open_model
from neuron.exl2.convert import ConvertError, ConvertOptions, LayerReport
from neuron.exl2.dense import write_dense
from neuron.exl2.directory import INDEX_NAME
from neuron.exl2.errors import FormatError
from neuron.models.errors import ModelError
from neuron.models.gguf.tensors import halves_first
from neuron.models.gguf_import import import_dense, import_exl2
from neuron.models.inspect import inspect_model
from tests.goldens.tiny_models import TinyModel, tensors, write_tiny_model
from tests.support.gguf_files import (
    interleaved,
    metadata_of,
    tensors_of,
    write_gguf,
)
from tests.unit.reference.support import logits_of, tiny

IMPORTED = (
    "llama",
    "llama-gqa-tied-linear",
    "llama-llama3-biases",
    "llama-uneven-sizes",
    "mistral-window-many-queries",
    "qwen2-tied",
    "qwen3",
)


def yarn() -> TinyModel:
    model = tiny("qwen3-yarn-biases")
    config = model.config | {"attention_bias": False}
    return replace(model, config=config, qkv_bias=False, o_bias=False)


def as_gguf(folder: Path, model: TinyModel) -> Path:
    return write_gguf(folder / "m.gguf", metadata_of(model), tensors_of(model))


@pytest.mark.parametrize("model", [*map(tiny, IMPORTED), yarn()], ids=lambda m: m.name)
def test_logits_are_those_of_the_folder_it_came_from(
    tmp_path: Path, model: TinyModel
) -> None:
    original = write_tiny_model(tmp_path / "original", model)
    imported = tmp_path / "imported"
    import_dense(as_gguf(tmp_path, model), imported)
    prompt, pages = model.prompt, range(3)
    np.testing.assert_array_equal(
        logits_of(imported, prompt, [len(prompt)], pages),
        logits_of(original, prompt, [len(prompt)], pages),
    )


def test_every_tensor_comes_back_under_its_name(tmp_path: Path) -> None:
    model = tiny("llama-llama3-biases")
    import_dense(as_gguf(tmp_path, model), tmp_path / "imported")
    found = open_model(tmp_path / "imported")
    wanted = tensors(model)
    assert found.specs.keys() == wanted.keys()
    for name, tensor in wanted.items():
        np.testing.assert_array_equal(found.read(name), tensor)


def test_rows_of_pairs_become_halves() -> None:
    rows = np.arange(24)
    for heads in (1, 3, 6):
        there = interleaved(rows, heads)
        np.testing.assert_array_equal(there[halves_first(24, heads)], rows)
    assert interleaved(rows, 3)[:4].tolist() == [0, 4, 1, 5]
    assert halves_first(8, 2).tolist() == [0, 2, 1, 3, 4, 6, 5, 7]


def test_config_says_what_the_metadata_say(tmp_path: Path) -> None:
    model = tiny("llama-llama3-biases")
    import_dense(as_gguf(tmp_path, model), tmp_path / "imported")
    config = json.loads((tmp_path / "imported" / "config.json").read_text())
    rope = dict(model.config["rope_parameters"])
    theta = rope.pop("rope_theta")
    expected = {k: v for k, v in model.config.items() if k != "rope_parameters"}
    assert config == expected | {
        "rope_theta": theta,
        "rope_scaling": rope,
        "torch_dtype": "float16",
    }


def test_published_frequencies_of_llama_3_are_recognised(tmp_path: Path) -> None:
    published = {
        "rope_type": "llama3",
        "rope_theta": 500000.0,
        "factor": 32.0,
        "low_freq_factor": 1.0,
        "high_freq_factor": 4.0,
        "original_max_position_embeddings": 8192,
    }
    model = tiny("llama")
    model = replace(model, config=model.config | {"rope_parameters": published})
    import_dense(as_gguf(tmp_path, model), tmp_path / "imported")
    config = json.loads((tmp_path / "imported" / "config.json").read_text())
    assert config["rope_scaling"] | {"rope_theta": 500000.0} == published


def test_quantized_types_are_dequantized_and_permuted(tmp_path: Path) -> None:
    model = tiny("llama")
    contents = tensors_of(model)
    kinds = {
        "blk.0.attn_q.weight": GGMLQuantizationType.Q4_1,
        "blk.0.ffn_down.weight": GGMLQuantizationType.Q8_0,
        "token_embd.weight": GGMLQuantizationType.BF16,
    }
    file = write_gguf(tmp_path / "m.gguf", metadata_of(model), contents, kinds)
    import_dense(file, tmp_path / "imported")
    found = open_model(tmp_path / "imported")

    def rounded(name: str) -> NDArray[np.float16]:
        packed = quantize(contents[name].astype(np.float32), kinds[name])
        return dequantize(packed, kinds[name]).astype(np.float16)

    for name, imported in (
        ("blk.0.ffn_down.weight", "model.layers.0.mlp.down_proj.weight"),
        ("token_embd.weight", "model.embed_tokens.weight"),
    ):
        np.testing.assert_array_equal(found.read(imported), rounded(name))
    query = found.read("model.layers.0.self_attn.q_proj.weight")
    np.testing.assert_array_equal(interleaved(query, 4), rounded("blk.0.attn_q.weight"))


def test_exl2_in_one_go(tmp_path: Path) -> None:
    model = tiny("qwen2-tied")
    seen: list[LayerReport] = []
    options = ConvertOptions(bits=8, head_bits=8)
    target = tmp_path / "org" / "imported"
    report = import_exl2(as_gguf(tmp_path, model), target, options, seen.append)
    assert tuple(seen) == report.layers
    info = inspect_model(target, "imported")
    assert (info.format, info.vocab_size, info.eos_ids) == ("exl2", 96, (2,))
    exact = tensors(model)
    folder = open_model(target)
    for key in ("model.layers.1.self_attn.k_proj", "model.layers.0.mlp.up_proj"):
        linear = folder.linear(key)
        error = np.linalg.norm(linear.dequantize() - exact[f"{key}.weight"].T)
        assert error < 0.02 * np.linalg.norm(exact[f"{key}.weight"])
    assert not list(tmp_path.glob("org/.*"))


def test_shards_are_listed_in_an_index(tmp_path: Path) -> None:
    model = tiny("llama")
    source = open_model(write_tiny_model(tmp_path / "original", model))
    (tmp_path / "shards").mkdir()
    write_dense(tmp_path / "shards", source, model.config, max_shard_bytes=20_000)
    assert len(list((tmp_path / "shards").glob("*.safetensors"))) > 3
    index = json.loads((tmp_path / "shards" / INDEX_NAME).read_text())
    assert index["weight_map"].keys() == source.specs.keys()
    found = open_model(tmp_path / "shards")
    for name in source.specs:
        np.testing.assert_array_equal(found.read(name), source.read(name))


def test_a_folder_that_is_not_empty_is_left_alone(tmp_path: Path) -> None:
    target = tmp_path / "target"
    target.mkdir()
    (target / "precious").touch()
    with pytest.raises(ConvertError, match="not an empty folder"):
        import_dense(as_gguf(tmp_path, tiny("llama")), target)
    assert [file.name for file in target.iterdir()] == ["precious"]


def test_weights_beyond_float16_leave_nothing_behind(tmp_path: Path) -> None:
    model = tiny("llama")
    contents = tensors_of(model)
    contents["output.weight"] = contents["output.weight"].astype(np.float32) * 1e6
    file = write_gguf(tmp_path / "m.gguf", metadata_of(model), contents)
    with pytest.raises(FormatError, match=r"lm_head.weight.*beyond float16"):
        import_dense(file, tmp_path / "imported")
    assert [path.name for path in tmp_path.iterdir()] == ["m.gguf"]


def test_missing_file(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError):
        import_dense(tmp_path / "absent.gguf", tmp_path / "imported")
    (tmp_path / "empty.gguf").touch()
    with pytest.raises(ModelError, match="is empty"):
        import_dense(tmp_path / "empty.gguf", tmp_path / "imported")
