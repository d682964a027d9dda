"""Layers whose experts the library launches by what it reads of its tokens."""

from pathlib import Path
from typing import Any

import pytest

from tests.support import cuda_stack
from tests.unit.exllamav2 import hollow

cuda_stack.require("torch", "exllamav2")

import torch

from tests.unit.exllamav2.cpu_library import Handles
from tests.unit.exllamav2.loading.support import TIMEOUT, load, spec_of
from tests.unit.exllamav2.test_library_architectures import (
    CONFIG,
    DIM,
    HIDDEN,
    PACKED_HEAD,
    WIDE,
    attention,
    mlp,
    norms,
    outer,
    packed,
    plain,
)

pytestmark = TIMEOUT

EXPERTS = 128


@pytest.fixture
def layer(tmp_path: Path, library: tuple[Any, Handles]) -> Any:
    """The experts of a Qwen3 with as many of them as the published ones have."""
    tensors = {
        **outer(PACKED_HEAD),
        **attention(0, packed),
        **plain("model.layers.0.mlp.gate", HIDDEN, EXPERTS),
        **norms(0, "input_layernorm", "post_attention_layernorm"),
        **norms(0, "self_attn.q_norm", "self_attn.k_norm", width=DIM),
    }
    for expert in range(EXPERTS):
        tensors |= mlp(0, packed, f"mlp.experts.{expert}")
    config = {
        **CONFIG, "architectures": ["Qwen3MoeForCausalLM"], "num_hidden_layers": 1,
        "num_experts": EXPERTS, "num_experts_per_tok": 8,
        "moe_intermediate_size": WIDE,
    }  # fmt: skip
    info = hollow.write(tmp_path / "m", config, tensors, seed=1)
    hollow.with_the_bundled_tokenizer(info.path)
    model = load(library[0], spec_of(info)).model
    [found] = [m for m in model.modules if m.name == "MoE MLP"]
    return found


@pytest.mark.parametrize("shape", [(1, 1), (1, 4), (3, 1), (2, 2)])
def test_all_tokens_have_their_own_experts(
    layer: Any,
    library: tuple[Any, Handles],
    monkeypatch: pytest.MonkeyPatch,
    shape: tuple[int, int],
) -> None:
    """The kernel launches those that the first token wants."""

    def compute(_handle: int, states: Any) -> None:
        states[states.argmax(-1) == states[0].argmax()] += 1

    monkeypatch.setattr(library[1], "q_moe_mlp_forward_", compute, raising=False)
    states = torch.eye(HIDDEN).half()[: shape[0] * shape[1]].view(*shape, HIDDEN)
    expected = states + 1
    assert torch.equal(layer.forward(states, cache=None, attn_params=None), expected)
