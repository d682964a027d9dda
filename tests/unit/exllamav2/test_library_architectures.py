"""Architectures unlike Llama in modules, names or norms: planned and loaded."""

import json
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any, Final

import pytest

from neuron.engines.exllamav2.levers import Levers
from neuron.engines.exllamav2.memory.description import Description
from neuron.engines.exllamav2.memory.scratch import fixed_scratch
from neuron.engines.exllamav2.memory.support import unsupported_reason
from neuron.models.info import ModelInfo
from tests.support import cuda_stack
from tests.unit.exllamav2 import hollow

cuda_stack.require("torch", "exllamav2")

import torch

from tests.unit.exllamav2.cpu_library import Handles
from tests.unit.exllamav2.loading.support import (
    as_the_library_loads,
    load,
    spec_of,
    tensors_of,
)

pytestmark = pytest.mark.timeout(cuda_stack.BUILD_DEADLINE_S + 60)

HIDDEN, WIDE, LAYERS, HEADS, KV, DIM, VOCAB, EXPERTS = 128, 256, 2, 4, 2, 64, 8704, 4
QUERIES, KEYS = HEADS * DIM, KV * DIM
CONFIG: Final = {
    "hidden_size": HIDDEN, "intermediate_size": WIDE, "num_hidden_layers": LAYERS,
    "num_attention_heads": HEADS, "num_key_value_heads": KV, "head_dim": DIM,
    "vocab_size": VOCAB, "max_position_embeddings": 512, "rms_norm_eps": 1e-5,
    "hidden_act": "silu",
}  # fmt: skip
_MLP: Final = {
    "gate_proj": (HIDDEN, WIDE), "up_proj": (HIDDEN, WIDE), "down_proj": (WIDE, HIDDEN),
}  # fmt: skip


def attention(layer: int, make: Any) -> dict[str, Any]:
    found: dict[str, Any] = {}
    for name, rows, columns in (
        ("q_proj", HIDDEN, QUERIES), ("k_proj", HIDDEN, KEYS),
        ("v_proj", HIDDEN, KEYS), ("o_proj", QUERIES, HIDDEN),
    ):  # fmt: skip
        found |= make(f"model.layers.{layer}.self_attn.{name}", rows, columns)
    return found


def mlp(layer: int, make: Any, inner: str = "mlp") -> dict[str, Any]:
    found: dict[str, Any] = {}
    for name, (rows, columns) in _MLP.items():
        found |= make(f"model.layers.{layer}.{inner}.{name}", rows, columns)
    return found


def norms(layer: int, *names: str, width: int = HIDDEN) -> dict[str, Any]:
    return {f"model.layers.{layer}.{n}.weight": ("BF16", (width,)) for n in names}


def outer(head: Mapping[str, Any]) -> dict[str, Any]:
    return {
        **hollow.dense("model.embed_tokens", HIDDEN, VOCAB, "BF16"),
        "model.norm.weight": ("BF16", (HIDDEN,)),
        **head,
    }


def packed(key: str, rows: int, columns: int) -> Any:
    return hollow.quantized(key, rows, columns, 4)


def plain(key: str, rows: int, columns: int) -> Any:
    return hollow.dense(key, rows, columns, "BF16")


def _phi3(layer: int) -> dict[str, Any]:
    at = f"model.layers.{layer}"
    return {
        **plain(f"{at}.self_attn.qkv_proj", HIDDEN, QUERIES + 2 * KEYS),
        **plain(f"{at}.self_attn.o_proj", QUERIES, HIDDEN),
        **plain(f"{at}.mlp.gate_up_proj", HIDDEN, 2 * WIDE),
        **plain(f"{at}.mlp.down_proj", WIDE, HIDDEN),
        **norms(layer, "input_layernorm", "post_attention_layernorm"),
    }


def _qwen3(layer: int) -> dict[str, Any]:
    return {
        **attention(layer, packed),
        **mlp(layer, packed),
        **norms(layer, "input_layernorm", "post_attention_layernorm"),
        **norms(layer, "self_attn.q_norm", "self_attn.k_norm", width=DIM),
    }


def _gemma2(layer: int) -> dict[str, Any]:
    return {
        **attention(layer, plain),
        **mlp(layer, plain),
        **norms(
            layer, "input_layernorm", "post_attention_layernorm",
            "pre_feedforward_layernorm", "post_feedforward_layernorm",
        ),
    }  # fmt: skip


def _cohere(layer: int) -> dict[str, Any]:
    return {
        **attention(layer, packed),
        **mlp(layer, packed),
        **norms(layer, "input_layernorm"),
    }


def _experts(layer: int) -> dict[str, Any]:
    found = {
        **attention(layer, packed),
        **plain(f"model.layers.{layer}.mlp.gate", HIDDEN, EXPERTS),
        **norms(layer, "input_layernorm", "post_attention_layernorm"),
        **norms(layer, "self_attn.q_norm", "self_attn.k_norm", width=DIM),
    }
    for expert in range(EXPERTS):
        found |= mlp(layer, packed, f"mlp.experts.{expert}")
    return found


PACKED_HEAD = packed("lm_head", HIDDEN, VOCAB)
MODELS: Final[dict[str, tuple[Any, Mapping[str, Any], dict[str, Any]]]] = {
    "Phi3ForCausalLM": (_phi3, plain("lm_head", HIDDEN, VOCAB), {}),
    "Qwen3ForCausalLM": (_qwen3, PACKED_HEAD, {}),
    "Gemma2ForCausalLM": (
        _gemma2, {}, {"sliding_window": 64, "attn_logit_softcapping": 50.0},
    ),
    "CohereForCausalLM": (_cohere, PACKED_HEAD, {"layer_norm_eps": 1e-5}),
    "Cohere2ForCausalLM": (
        _cohere, PACKED_HEAD,
        {"layer_norm_eps": 1e-5, "sliding_window": 64, "sliding_window_pattern": 4},
    ),
    "Qwen3MoeForCausalLM": (
        _experts, PACKED_HEAD,
        {"num_experts": EXPERTS, "num_experts_per_tok": 2,
         "moe_intermediate_size": WIDE},
    ),
}  # fmt: skip


def written(folder: Path, name: str) -> ModelInfo:
    layer, head, changes = MODELS[name]
    tensors = outer(head)
    for index in range(LAYERS):
        tensors |= layer(index)
    config = {**CONFIG, "architectures": [name], **changes}
    return hollow.write(folder, config, tensors, seed=1)


@pytest.mark.parametrize("name", MODELS)
def test_tensors_are_those_that_the_library_loads(
    tmp_path: Path, library: tuple[Any, Handles], name: str
) -> None:
    info = written(tmp_path / "m", name)
    hollow.with_the_bundled_tokenizer(info.path)
    assert unsupported_reason(info) is None
    expected = as_the_library_loads(library[0], info.path)
    loaded = load(library[0], spec_of(info))
    found = tensors_of(loaded.model)
    assert found.keys() == expected.keys()
    for key, tensor in expected.items():
        assert torch.equal(found[key], tensor), key


@pytest.mark.parametrize("name", MODELS)
def test_plan_is_what_the_library_asks_for(
    tmp_path: Path, library: tuple[Any, Handles], name: str
) -> None:
    info = written(tmp_path / "m", name)
    hollow.with_the_bundled_tokenizer(info.path)
    loaded = load(library[0], spec_of(info))
    model = Description.of(info)
    rows, dq = loaded.limits.max_input, loaded.config.max_dq_size
    ours = max(fixed_scratch(m, model.sizes, rows, dq) for m in model.modules)
    quantized = [m for m in loaded.model.modules if _is_quantized(m)]
    assert ours == max((m.scratch_space_fixed() for m in quantized), default=0)
    kept = sum(tensor.nbytes for tensor in tensors_of(loaded.model).values())
    planned = sum(m.arena_bytes + m.loose_bytes for m in model.modules)
    assert planned == pytest.approx(kept, rel=0.03)


def _changed(info: ModelInfo, **changes: Any) -> ModelInfo:
    """The folder with keys of its config.json changed, and a real tokenizer."""
    file = info.path / "config.json"
    config = json.loads(file.read_text(encoding="utf-8")) | changes
    file.write_text(json.dumps(config), encoding="utf-8")
    hollow.with_the_bundled_tokenizer(info.path)
    return info


@pytest.mark.parametrize(
    ("name", "changes", "windows"),
    [
        ("Gemma2ForCausalLM", {}, [63, 0]),
        ("Cohere2ForCausalLM", {}, [63, 63]),
        ("Cohere2ForCausalLM", {"layer_types": ["sliding_attention", "full_attention"],
                                "sliding_window_pattern": None}, [63, 0]),
        ("Phi3ForCausalLM", {"sliding_window": 48}, [47, 47]),
        ("Qwen3ForCausalLM", {"sliding_window": 48}, [0, 0]),
        ("Qwen3ForCausalLM", {"sliding_window": 48, "use_sliding_window": True,
                              "max_window_layers": 1}, [0, 47]),
        ("Qwen3ForCausalLM", {"sliding_window": 48, "use_sliding_window": True},
         [0, 0]),
        ("Qwen3ForCausalLM", {
            "sliding_window": 48, "use_sliding_window": True,
            "layer_types": ["sliding_attention", "full_attention"],
        }, [47, 0]),
    ],
)  # fmt: skip
def test_windowed_layers_see_as_many_keys_as_they_were_trained_with(
    tmp_path: Path,
    library: tuple[Any, Handles],
    name: str,
    changes: dict[str, Any],
    windows: list[int],
) -> None:
    """flash-attn is told how many it sees before its own."""
    info = _changed(written(tmp_path / "m", name), **changes)
    loaded = load(library[0], spec_of(info))
    attention = (getattr(m, "attn", m) for m in loaded.model.modules)
    found = [m.sliding_window for m in attention if hasattr(m, "sliding_window")]
    assert found == windows


def test_layers_without_a_window_have_no_positions_in_cohere2(
    tmp_path: Path, library: tuple[Any, Handles]
) -> None:
    info = written(tmp_path / "m", "Cohere2ForCausalLM")
    info = _changed(info, sliding_window_pattern=2)
    loaded = load(library[0], spec_of(info))
    styles = [m.attn.archparams.rope_style for m in loaded.model.modules[1:-2]]
    assert [style.name for style in styles] == ["GPTJ", "NONE"]


@pytest.mark.parametrize(
    ("name", "norm"),
    [("Qwen3ForCausalLM", "rmsnorm"), ("Qwen3MoeForCausalLM", "rmsnorm"),
     ("CohereForCausalLM", "layernorm")],
)  # fmt: skip
def test_heads_are_normalized_as_their_models_were_trained(
    tmp_path: Path, library: tuple[Any, Handles], name: str, norm: str
) -> None:
    info = _changed(written(tmp_path / "m", name))
    assert load(library[0], spec_of(info)).config.arch.lm.headnorm == norm


def test_heads_that_are_no_whole_warps_are_not_normalized(tmp_path: Path) -> None:
    info = written(tmp_path / "m", "Qwen3ForCausalLM")
    reason = unsupported_reason(replace(info, head_dim=96)) or ""
    assert "head_dim 96 is no multiple of 64" in reason


@pytest.mark.parametrize(
    ("name", "changes", "levers", "graphs"),
    [
        ("Qwen3ForCausalLM", {}, Levers(), False),
        ("Qwen3ForCausalLM", {}, Levers(cuda_graphs=False), True),
        ("Qwen3ForCausalLM", {}, Levers(device_embedding=False), True),
        ("Qwen3MoeForCausalLM", {"slots": 4}, Levers(), False),
        ("Qwen3MoeForCausalLM", {"slots": 5}, Levers(), True),
    ],
)
def test_layers_record_no_graphs_where_whole_steps_are_recorded(
    tmp_path: Path,
    library: tuple[Any, Handles],
    name: str,
    changes: dict[str, Any],
    levers: Levers,
    graphs: bool,
) -> None:
    info = written(tmp_path / "m", name)
    hollow.with_the_bundled_tokenizer(info.path)
    load(library[0], spec_of(info, **changes), levers=levers)
    assert library[1].graphs == {graphs}


def _is_quantized(module: Any) -> bool:
    return any(
        getattr(part, "q_handle", None) for part in module.submodules or [module]
    )
