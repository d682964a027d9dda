from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from neuron.engines.exllamav2.memory.architectures import ARCHITECTURES, NEAR_MISSES
from neuron.engines.exllamav2.memory.support import unsupported_reason
from neuron.models.bundled import bundled_root
from neuron.models.inspect import inspect_model
from tests.unit.exllamav2 import hollow
from tests.unit.exllamav2.hollow import SMALL, config_of, llama

Change = Callable[[dict[str, Any], dict[str, Any]], None]
"""Changes a config and its tensors in place."""


def test_bundled_model_is_supported() -> None:
    info = inspect_model(bundled_root() / "tinystories-15m", "bundled")
    assert unsupported_reason(info) is None


def test_any_width_of_an_mlp_without_the_librarys_kernels(tmp_path: Path) -> None:
    shape = replace(SMALL, intermediate=480)
    assert unsupported_reason(hollow.write_llama(tmp_path / "m", shape, "fp16")) is None


@pytest.mark.parametrize("kind", ["exl2", "gptq", "fp16"])
def test_formats(tmp_path: Path, kind: str) -> None:
    assert unsupported_reason(hollow.write_llama(tmp_path / "m", kind=kind)) is None


def test_all_of_the_librarys_architectures_are_known() -> None:
    assert len(ARCHITECTURES) == 27
    assert "DbrxForCausalLM" in NEAR_MISSES
    assert ARCHITECTURES["Gemma3ForConditionalGeneration"].rope_tables == 2


def _settings(**changes: Any) -> Change:
    return lambda config, _: config.update(changes)


def _quantization(**changes: Any) -> Change:
    return lambda config, _: config.update(quantization_config=changes)


def _dtype(name: str, dtype: str) -> Change:
    def change(_: dict[str, Any], tensors: dict[str, Any]) -> None:
        tensors[name] = (dtype, tensors[name][1])

    return change


def _without(*names: str) -> Change:
    def change(_: dict[str, Any], tensors: dict[str, Any]) -> None:
        for name in [t for t in tensors if t.startswith(names)]:
            del tensors[name]

    return change


def _instead(key: str, tensors: hollow.Tensors) -> Change:
    def change(_: dict[str, Any], there: dict[str, Any]) -> None:
        _without(f"{key}.")({}, there)
        there.update(tensors)

    return change


_Q = "model.layers.1.self_attn.q_proj"
_DOWN = "model.layers.1.mlp.down_proj"


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (_settings(architectures=["DeepseekV3ForCausalLM"]), "no architecture Deep"),
        (_settings(architectures=["Gemma3ForCausalLM"]), "Gemma3ForConditionalGene"),
        (_settings(architectures=["LlamaForCausalLM", "X"]), "2 architectures"),
        (
            _settings(architectures=["LlavaForConditionalGeneration"]),
            "exllamav2 reads 'pixtral' only",
        ),
        (_settings(head_dim=264), "head_dim 264 is not a multiple of 8"),
        (_settings(head_dim=16), "head_dim 16 is not"),
        (_settings(rope_scaling={"rope_type": "dynamic"}), "rope type 'dynamic'"),
        (_settings(rope_parameters={"rope_type": "odd"}), "rope type 'odd'"),
        (_settings(intermediate_size=480), "an MLP of 480 columns"),
        (_settings(num_key_value_heads=3), "num_attention_heads 8 is no multiple"),
        (_quantization(quant_method="awq"), "quant_method 'awq'"),
        (_dtype("model.layers.0.input_layernorm.weight", "F8_E4M3"), "is F8_E4M3"),
        (_without("lm_head.q_scale_max"), "lm_head' has no q_scale_max"),
        (_without("model.embed_tokens"), "has no embedding"),
        (_without("model.layers.2.mlp"), "layer 2 has no MLP"),
        (_without("model.layers.2.self_attn"), "layer 2 has no attention"),
        (_instead(_Q, hollow.dense(_Q, 256, 256)), "layer 1: its attention is quanti"),
        (_instead(_DOWN, hollow.dense(_DOWN, 512, 256)), "layer 1: its mlp is quant"),
        (
            _instead(_DOWN, hollow.quantized(_DOWN, 65568, 256, 4)),
            "has 65568 rows, over 65535",
        ),
        (_instead(_DOWN, hollow.quantized(_DOWN, 496, 256, 4)), "multiples of 32"),
    ],
)
def test_what_it_cannot_run(tmp_path: Path, change: Change, said: str) -> None:
    config, tensors = config_of(SMALL), llama(SMALL)
    change(config, tensors)
    reason = unsupported_reason(hollow.write(tmp_path / "m", config, tensors))
    assert reason is not None
    assert said in reason


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"bits": 8}, "bits 8"),
        ({"checkpoint_format": "marlin"}, "checkpoint_format 'marlin'"),
        ({"quant_method": "awq"}, "quant_method 'awq'"),
    ],
)
def test_gptq_that_it_cannot_read(
    tmp_path: Path, change: dict[str, Any], said: str
) -> None:
    quantization = {"quant_method": "gptq", "bits": 4} | change
    info = hollow.write_llama(
        tmp_path / "m", kind="gptq", quantization_config=quantization
    )
    assert said in (unsupported_reason(info) or "")


def test_groups_of_gptq_that_are_no_power_of_two(tmp_path: Path) -> None:
    tensors = llama(SMALL, "gptq")
    tensors[f"{_DOWN}.qzeros"] = ("I32", (3, 32))
    tensors[f"{_DOWN}.scales"] = ("F16", (3, 256))
    info = hollow.write(tmp_path / "m", config_of(SMALL, "gptq"), tensors)
    assert "3 groups over 512 rows" in (unsupported_reason(info) or "")


def test_unquantized_model_with_a_method_of_its_own(tmp_path: Path) -> None:
    info = hollow.write_llama(
        tmp_path / "m", kind="fp16", quantization_config={"quant_method": "fp8"}
    )
    assert "quant_method 'fp8'" in (unsupported_reason(info) or "")
