"""What a model folder is said to be, and what is wrong with it."""

import json
from pathlib import Path

import numpy as np
import pytest

from neuron.exl2.convert import ConvertOptions, convert
from neuron.models.errors import ModelError
from neuron.models.info import ModelInfo
from neuron.models.inspect import inspect_model
from neuron.text.reasoning import MARKERS
from tests.unit.exl2.support import save, tiny_model

_LAYER = 2 * 64 * (64 + 32) + 3 * 64 * 96 + 2 * 64
"""Weights of one of its layers: attention, MLP, norms."""


@pytest.fixture
def model(tmp_path: Path) -> Path:
    folder = tmp_path / "model"
    tiny_model(folder)
    return folder


def edited(model: Path, **changes: object) -> None:
    config = json.loads((model / "config.json").read_text()) | changes
    (model / "config.json").write_text(json.dumps(config))


def test_an_unquantized_model_is_described(model: Path) -> None:
    size = (model / "model.safetensors").stat().st_size
    info = inspect_model(model, "org/model")
    assert info.weight_bytes == size - 8 - _header_bytes(model / "model.safetensors")
    assert info == ModelInfo(
        id="org/model",
        path=model,
        format="fp16",
        architecture="LlamaForCausalLM",
        bpw=16.0,
        head_bits=16.0,
        layers=2,
        hidden_size=64,
        intermediate_size=96,
        heads=4,
        kv_heads=2,
        head_dim=16,
        vocab_size=75,
        context=128,
        weight_bytes=info.weight_bytes,
        eos_ids=(2,),
        bos_id=1,
        has_chat_template=False,
        parameters=2 * 75 * 64 + 2 * _LAYER + 64,
    )
    assert info.kv_bytes_per_token == 2 * 2 * 2 * 2 * 16


def _header_bytes(file: Path) -> int:
    return int.from_bytes(file.read_bytes()[:8], "little")


def test_a_quantized_model_says_its_bits(model: Path, tmp_path: Path) -> None:
    report = convert(model, tmp_path / "exl2", ConvertOptions(bits=4.9, head_bits=5))
    info = inspect_model(tmp_path / "exl2", "m")
    assert info.format == "exl2"
    assert info.bpw == pytest.approx(report.bpw, rel=1e-3)
    assert info.head_bits == 5
    # The head has 96 columns, of which 21 only pad.
    assert info.parameters == (75 + 96) * 64 + 2 * _LAYER + 64
    edited(tmp_path / "exl2", quantization_config=None)
    stored = inspect_model(tmp_path / "exl2", "m").head_bits
    # 75 of 96 columns are real; the header only knows the 96.
    assert stored == pytest.approx(report.head_bpw * 75 / 96)


def test_gptq_is_recognized(model: Path) -> None:
    (model / "model.safetensors").unlink()
    layer = "model.layers.0.mlp.up_proj"
    save(
        model / "model.safetensors",
        {
            f"{layer}.qweight": np.zeros((16, 64), np.int32),
            f"{layer}.qzeros": np.zeros((1, 8), np.int32),
            f"{layer}.scales": np.zeros((1, 64), np.float16),
            "lm_head.weight": np.zeros((75, 64), np.float16),
        },
    )
    info = inspect_model(model, "m")
    assert info.format == "gptq"
    assert info.bpw == 4 + (4 + 16) / 128
    assert info.parameters == 128 * 64 + 75 * 64
    assert info.head_bits == 16


def test_generation_config_has_the_last_word_on_stop_ids(model: Path) -> None:
    edited(model, eos_token_id=2, bos_token_id=1)
    generation = {"eos_token_id": [7, 9], "bos_token_id": 5}
    (model / "generation_config.json").write_text(json.dumps(generation))
    info = inspect_model(model, "m")
    assert info.eos_ids == (7, 9)
    assert info.bos_id == 5


def test_missing_stop_ids_are_none(model: Path) -> None:
    edited(model, eos_token_id=None, bos_token_id=None)
    info = inspect_model(model, "m")
    assert info.eos_ids == ()
    assert info.bos_id is None


def test_an_end_that_no_token_has_ends_nothing(model: Path) -> None:
    file = model / "generation_config.json"
    file.write_text(json.dumps({"eos_token_id": [2, 75, 3]}))
    assert inspect_model(model, "m").eos_ids == (2, 3)


def test_a_tokenizer_of_the_other_kind_is_named(model: Path) -> None:
    (model / "tokenizer.json").rename(model / "tokenizer.model")
    with pytest.raises(
        ModelError, match=r"json: is missing; tokenizer\.model does not"
    ):
        inspect_model(model, "m")


@pytest.mark.parametrize(
    ("name", "content", "expected"),
    [
        ("tokenizer_config.json", '{"chat_template": "{{ messages }}"}', True),
        ("tokenizer_config.json", '{"chat_template": null}', False),
        ("chat_template.jinja", "{{ messages }}", True),
        ("chat_template.json", '{"chat_template": "{{ messages }}"}', True),
        ("chat_template.json", "{}", False),
        ("additional_chat_templates/tool_use.jinja", "{{ tools }}", True),
    ],
)
def test_chat_templates_are_found_wherever_they_are(
    model: Path, name: str, content: str, expected: bool
) -> None:
    (model / "additional_chat_templates").mkdir()
    (model / name).write_text(content)
    assert inspect_model(model, "m").has_chat_template is expected


def test_a_damaged_template_is_no_surprise_at_load(model: Path) -> None:
    (model / "chat_template.jinja").write_bytes(b"\xff")
    with pytest.raises(ModelError, match=r"chat_template\.jinja: is not UTF-8"):
        inspect_model(model, "m")


@pytest.mark.parametrize("marker", [m for pair in MARKERS for m in pair])
def test_a_template_that_knows_thoughts_is_told(model: Path, marker: str) -> None:
    file = model / "chat_template.jinja"
    file.write_text("{{ messages }}" + marker)
    assert inspect_model(model, "m").thinks
    file.write_text("{{ messages }}" + marker[:-2])
    assert not inspect_model(model, "m").thinks


def test_what_config_leaves_out_follows_from_the_rest(model: Path) -> None:
    edited(model, num_key_value_heads=None, head_dim=None)
    info = inspect_model(model, "m")
    assert (info.kv_heads, info.head_dim) == (4, 16)
    edited(model, head_dim=24)
    assert inspect_model(model, "m").head_dim == 24


def test_the_names_that_gpt2_began_with_are_known(model: Path) -> None:
    config = json.loads((model / "config.json").read_text())
    kept = {"architectures": ["GPT2LMHeadModel"], "vocab_size": config["vocab_size"]}
    sizes = {"n_embd": 64, "n_head": 4, "n_layer": 2, "n_positions": 128}
    (model / "config.json").write_text(json.dumps(kept | sizes | {"n_inner": None}))
    info = inspect_model(model, "m")
    assert (info.hidden_size, info.heads, info.kv_heads, info.head_dim) == (
        64,
        4,
        4,
        16,
    )
    assert (info.layers, info.context, info.intermediate_size) == (2, 128, 256)
    edited(model, multi_query=True, n_inner=96)
    info = inspect_model(model, "m")
    assert (info.kv_heads, info.intermediate_size) == (1, 96)


def test_a_decoder_inside_a_vision_model_is_described(model: Path) -> None:
    config = json.loads((model / "config.json").read_text())
    outer = {"architectures": ["Mistral3ForConditionalGeneration"]}
    config.pop("architectures")
    (model / "config.json").write_text(json.dumps(outer | {"text_config": config}))
    info = inspect_model(model, "m")
    assert info.architecture == "Mistral3ForConditionalGeneration"
    assert info.layers == 2


@pytest.mark.parametrize(
    ("changes", "reason"),
    [
        ({"architectures": []}, "architectures must be a list"),
        ({"architectures": "Llama"}, "architectures must be a list"),
        ({"architectures": [7]}, "architectures must be a list"),
        ({"hidden_size": None}, "hidden_size is missing"),
        ({"hidden_size": "64"}, "hidden_size must be a positive integer, not '64'"),
        ({"num_hidden_layers": 2.0}, "num_hidden_layers must be .*, not 2.0"),
        ({"vocab_size": True}, "vocab_size must be .*, not True"),
        ({"num_attention_heads": 0}, "num_attention_heads must be .*, not 0"),
        ({"max_position_embeddings": -1}, "max_position_embeddings must be"),
        ({"intermediate_size": 2**50}, "intermediate_size must be"),
        ({"head_dim": {"a": [1]}}, "head_dim must be .*, not an object"),
        ({"eos_token_id": "</s>"}, "eos_token_id must be a token id .*, not '</s>'"),
        ({"eos_token_id": [1, -2]}, "eos_token_id must be .*, not 1, -2"),
        ({"bos_token_id": [[1]]}, "bos_token_id must be .*, not a list"),
    ],
)
def test_wrong_values_are_named_with_file_and_key(
    model: Path, changes: dict[str, object], reason: str
) -> None:
    edited(model, **changes)
    with pytest.raises(ModelError, match=reason) as caught:
        inspect_model(model, "m")
    assert caught.value.file == model / "config.json"
    assert str(model / "config.json") in str(caught.value)


@pytest.mark.parametrize(
    ("name", "content", "reason"),
    [
        ("config.json", None, "is missing"),
        ("config.json", b"{", "is not JSON"),
        ("config.json", b"[]", "is not a JSON object"),
        ("tokenizer.json", None, "is missing"),
        ("generation_config.json", b"\xff", "is not JSON"),
        ("generation_config.json", b'{"eos_token_id": 1.5}', "eos_token_id must be"),
        ("tokenizer_config.json", b"7", "is not a JSON object"),
        ("model.safetensors", None, r"holds no \.safetensors file"),
        ("model.safetensors", b"\x80\x04\x95" + bytes(60), "is a Python pickle"),
        ("model.safetensors", b"\x99" * 70, "claims 11068046444225730969 bytes"),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_wrong_files_are_named(
    model: Path, name: str, content: bytes | None, reason: str
) -> None:
    if content is None:
        (model / name).unlink()
    else:
        (model / name).write_bytes(content)
    with pytest.raises(ModelError, match=reason) as caught:
        inspect_model(model, "m")
    assert caught.value.file in (model / name, model)


def test_a_quantized_layer_without_its_order_is_named(model: Path) -> None:
    save(model / "model.safetensors", {"a.q_weight": np.zeros((4, 32), np.int32)})
    with pytest.raises(ModelError, match=r"'a\.q_invperm' is missing"):
        inspect_model(model, "m")


def test_a_broken_tensor_is_named(model: Path) -> None:
    file = model / "model.safetensors"
    file.write_bytes(file.read_bytes()[:-2])
    with pytest.raises(ModelError, match=r"tensor 'lm_head\.weight': .* truncated"):
        inspect_model(model, "m")
