"""Layers whose experts the library launches by what it reads of its tokens."""

from pathlib import Path

import pytest

from neuron.models.info import ModelInfo
from tests.support import cuda_stack
from tests.unit.exllamav2 import hollow

cuda_stack.require("torch", "exllamav2")

import torch

from tests.support.emulated_devices import emulated_devices
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
def qwen(tmp_path: Path) -> ModelInfo:
    """With as many experts as the published ones have."""
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
    return info


def test_a_few_tokens_have_each_their_own_experts(qwen: ModelInfo) -> None:
    """The library's kernel launches those of the first one."""
    with emulated_devices() as backend, torch.inference_mode():
        model = load(backend, spec_of(qwen)).model
        [layer] = [m for m in model.modules if m.name == "MoE MLP"]
        for expert in (*layer.w1, *layer.w2, *layer.w3):
            expert.q_tensors["q_scale_max"] *= 0.02  # noise that does not overflow
        generator = torch.Generator().manual_seed(1)
        states = torch.randn(4, 1, HIDDEN, generator=generator).half()
        alone = torch.cat([layer.forward(each[None].clone()) for each in states])
        assert alone.isfinite().all()
        assert not torch.equal(alone, states)
        for shape in ((1, 4), (3, 1), (2, 2)):
            count = shape[0] * shape[1]
            some = states[:count].view(*shape, HIDDEN).clone()
            found = layer.forward(some).view(count, 1, HIDDEN)
            # While the library tries block sizes it adds up in another order.
            torch.testing.assert_close(found, alone[:count], atol=0.01, rtol=0)
