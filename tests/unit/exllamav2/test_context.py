from typing import Any

import pytest

from neuron.engines.base import EngineError
from neuron.engines.exllamav2.loading.context import library_config
from neuron.protocol.types import LoadOptions

PLAIN: dict[str, Any] = {
    "architectures": ["LlamaForCausalLM"],
    "rope_theta": 5e5,
    "max_position_embeddings": 8192,
}
LLAMA3 = {
    "factor": 8.0,
    "low_freq_factor": 1.0,
    "high_freq_factor": 4.0,
    "original_max_position_embeddings": 8192,
}


def spelled(config: dict[str, Any], **options: Any) -> dict[str, Any]:
    return library_config(config, LoadOptions(**options))


def test_old_spelling_is_left_alone() -> None:
    assert spelled(PLAIN) == PLAIN
    scaled = PLAIN | {"rope_scaling": {"rope_type": "llama3", **LLAMA3}}
    assert spelled(scaled) == scaled


def test_type_that_is_said_twice_is_said_once() -> None:
    twice = PLAIN | {"rope_scaling": {"type": "x", "rope_type": "llama3", **LLAMA3}}
    assert spelled(twice)["rope_scaling"] == {"rope_type": "llama3", **LLAMA3}


def test_new_spelling_becomes_the_old_one() -> None:
    config = {k: v for k, v in PLAIN.items() if k != "rope_theta"}
    parameters = {
        "rope_type": "llama3", "rope_theta": 1e6, "partial_rotary_factor": 0.5, **LLAMA3
    }  # fmt: skip
    found = spelled(config | {"rope_parameters": parameters})
    assert "rope_parameters" not in found
    assert (found["rope_theta"], found["partial_rotary_factor"]) == (1e6, 0.5)
    assert found["rope_scaling"] == {"rope_type": "llama3", **LLAMA3}
    plain = spelled(config | {"rope_parameters": {"rope_type": "default"}})
    assert plain["rope_scaling"] is None


def test_decoder_of_a_vision_model_is_respelled() -> None:
    parameters = {
        "full_attention": {"rope_type": "linear", "factor": 8.0, "rope_theta": 1e6},
        "sliding_attention": {"rope_type": "default", "rope_theta": 1e4},
    }
    found = spelled({**PLAIN, "text_config": {"rope_parameters": parameters}})
    assert found["text_config"] == {
        "rope_theta": 1e6,
        "rope_scaling": {"rope_type": "linear", "factor": 8.0},
    }


def test_positions_of_three_axes() -> None:
    section = {"type": "default", "mrope_section": [16, 24, 24]}
    found = spelled(PLAIN | {"rope_scaling": section})
    assert found["rope_scaling"] == {
        "rope_type": "mrope",
        "mrope_section": [16, 24, 24],
    }


def test_yarn_that_is_asked_for() -> None:
    assert spelled(PLAIN, yarn_factor=4)["rope_scaling"] == {
        "rope_type": "yarn",
        "factor": 4,
        "original_max_position_embeddings": 8192,
    }


def test_yarn_without_its_original_context_takes_the_models() -> None:
    section = {"rope_type": "yarn", "factor": 4.0}
    found = spelled(PLAIN | {"rope_scaling": section})
    assert found["rope_scaling"]["original_max_position_embeddings"] == 8192


def test_scaling_that_the_library_would_pass_over() -> None:
    with pytest.raises(EngineError, match="rope type 'dynamic'") as caught:
        spelled(PLAIN | {"rope_scaling": {"type": "dynamic", "factor": 2}})
    assert caught.value.param == "model"


def test_an_epsilon_that_is_spelled_once_is_found() -> None:
    said = {"architectures": ["Starcoder2ForCausalLM"], "norm_epsilon": 1e-6}
    assert library_config(said, LoadOptions())["layer_norm_epsilon"] == 1e-6
    both = said | {"layer_norm_epsilon": 1e-5}
    assert library_config(both, LoadOptions())["layer_norm_epsilon"] == 1e-5
