"""What the engine does not take, and what it says then."""

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from neuron.engines.base import EngineError, HostMemory, Image, SamplingParams
from neuron.engines.reference.cache import PAGE
from neuron.engines.reference.config import UnsupportedModelError, parse_config
from neuron.engines.reference.engine import ReferenceEngine
from neuron.protocol.types import LoadPlan, LoadRequest
from tests.goldens.tiny_models import tensors, write_folder
from tests.unit.reference.support import (
    BUNDLED,
    generate,
    info_of,
    loaded,
    planned,
    request,
    spec_of,
    tiny,
)

PROMPT = tuple(range(3, 23))


def test_images(engine: ReferenceEngine) -> None:
    image = Image.of(np.zeros((8, 8, 3), np.uint8), (0, 1, 2, 3))
    with pytest.raises(EngineError, match="takes none") as raised:
        engine.submit(replace(request("a", PROMPT), images=(image,)))
    assert (raised.value.code, raised.value.param) == ("unsupported", "images")
    assert not engine.has_work()


@pytest.mark.parametrize(
    ("fields", "param", "said"),
    [
        ({"prompt": ()}, "prompt_ids", "at least one token"),
        ({"prompt": (5, 96)}, "prompt_ids", "token 96 is not between 0 and 95"),
        ({"count": 0}, "max_new_tokens", "0 is less than 1"),
        ({"min_new_tokens": -1}, "min_new_tokens", "-1 is less than 0"),
        ({"top_logprobs": -1}, "top_logprobs", "-1 is less than 0"),
        ({"stop_ids": frozenset({-1})}, "stop_ids", "token -1 is not between"),
        ({"temperature": -0.5}, "temperature", "-0.5 is less than 0"),
        ({"temperature": float("nan")}, "temperature", "not a finite number"),
        ({"top_k": -1}, "top_k", "-1 is less than 0"),
        ({"top_p": 0.0}, "top_p", "0.0 is not above 0 and at most 1"),
        ({"top_p": 1.1}, "top_p", "1.1 is not above 0 and at most 1"),
        ({"min_p": 1.5}, "min_p", "1.5 is not between 0 and 1"),
        ({"repetition_penalty": 0.0}, "repetition_penalty", "0.0 is not above 0"),
        ({"frequency_penalty": float("inf")}, "frequency_penalty", "not a finite"),
        ({"logit_bias": {400: 1.0}}, "logit_bias", "token 400 is not between"),
        ({"logit_bias": {4: float("nan")}}, "logit_bias[4]", "not a finite number"),
    ],
    ids=lambda value: "" if isinstance(value, dict) else str(value),
)
def test_requests_out_of_range(
    engine: ReferenceEngine, fields: dict[str, Any], param: str, said: str
) -> None:
    own = {"prompt", "count", "min_new_tokens", "top_logprobs", "stop_ids"}
    sampling = {key: fields[key] for key in fields.keys() - own}
    rest = {key: fields[key] for key in fields.keys() & own}
    bad = request(
        "a",
        rest.pop("prompt", PROMPT),
        rest.pop("count", 4),
        sampling=SamplingParams(**sampling),
        **rest,
    )
    with pytest.raises(EngineError, match=said) as caught:
        engine.submit(bad)
    assert (caught.value.code, caught.value.param) == ("invalid_value", param)
    assert not engine.has_work()


def test_id_in_use(engine: ReferenceEngine) -> None:
    engine.submit(request("a", PROMPT))
    with pytest.raises(EngineError, match="'a' is running already"):
        engine.submit(request("a", PROMPT))


@pytest.mark.parametrize(
    ("prompt", "count", "param"),
    [(640, 1, "prompt_ids"), (600, 41, "max_new_tokens"), (1, 640, "max_new_tokens")],
)
def test_request_longer_than_the_context(
    engine: ReferenceEngine, prompt: int, count: int, param: str
) -> None:
    with pytest.raises(EngineError) as caught:
        engine.submit(request("a", [5] * prompt, count))
    assert str(caught.value) == (
        f"this model's maximum context length is 640 tokens, but {prompt + count} are "
        f"asked for: {prompt} in the prompt and {count} to generate"
    )
    assert caught.value.code == "context_length_exceeded"
    assert caught.value.param == param


def test_longest_request_fits(engine: ReferenceEngine) -> None:
    output = generate(engine, request("a", [5] * 600, 40))["a"]
    assert (len(output.tokens), output.reason) == (40, "length")


def test_request_longer_than_the_cache(long_folder: Path) -> None:
    with loaded(long_folder, cache_tokens=3 * PAGE) as engine:
        engine.submit(request("fits", [5] * 40, 9))
        with pytest.raises(EngineError, match="context length is 49 tokens") as caught:
            engine.submit(request("does not", [5] * 40, 10))
        assert caught.value.code == "context_length_exceeded"


def changed(folder: Path, **changes: Any) -> Path:
    """The plain tiny model with changes to its config.json; None removes."""
    model = tiny("llama")
    config = {k: v for k, v in (model.config | changes).items() if v is not None}
    return write_folder(folder / "model", config, tensors(model))


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"architectures": ["GemmaForCausalLM"]}, "architecture GemmaForCausalLM is"),
        ({"architectures": None}, "architecture unknown is not one of Llama"),
        ({"hidden_act": "gelu"}, "hidden_act 'gelu' is not 'silu'"),
        ({"num_key_value_heads": 3}, "num_attention_heads 4 is no multiple"),
        ({"head_dim": 15}, "head_dim 15 is odd"),
        ({"hidden_size": None}, "hidden_size None is not a positive integer"),
        ({"vocab_size": "96"}, "vocab_size '96' is not a positive integer"),
        ({"rms_norm_eps": 0}, "rms_norm_eps 0 is not a number > 0"),
        ({"tie_word_embeddings": 1}, "tie_word_embeddings 1 is neither true nor"),
        ({"rope_theta": "big"}, "rope_theta 'big' is not a number > 0"),
        ({"rope_scaling": {"type": "longrope"}}, "rope type 'longrope' is not one of"),
        ({"rope_parameters": {"rope_type": "dynamic"}}, "rope type 'dynamic' is not"),
        ({"rope_scaling": {"type": "linear"}}, "factor None is not a number > 0"),
        ({"rope_scaling": 5}, "rope_scaling 5 is not a JSON object"),
        ({"partial_rotary_factor": 0.5}, "partial_rotary_factor 0.5 is not 1"),
    ],
    ids=str,
)
def test_models_of_another_kind(
    tmp_path: Path, changes: dict[str, Any], said: str
) -> None:
    folder = changed(tmp_path, **changes)
    info = info_of(changed(tmp_path / "plain"))
    reason = ReferenceEngine.supports(replace(info, path=folder))
    assert reason is not None
    assert said in reason


WINDOWED = tiny("qwen2-window-in-last-layer").config


@pytest.mark.parametrize(
    ("changes", "windows"),
    [
        ({}, (None, 17)),
        ({"max_window_layers": 0}, (17, 17)),
        ({"use_sliding_window": False}, (None, None)),
        ({"layer_types": ["sliding_attention", "full_attention"]}, (17, None)),
        ({"architectures": ["MistralForCausalLM"]}, (17, 17)),
        (
            {"architectures": ["MistralForCausalLM"], "sliding_window": None},
            (None, None),
        ),
    ],
    ids=str,
)
def test_windows_of_layers(
    changes: dict[str, Any], windows: tuple[int | None, ...]
) -> None:
    assert parse_config(WINDOWED | changes).windows == windows


@pytest.mark.parametrize(
    "changes",
    [
        {"layer_types": ["full_attention"]},
        {"layer_types": ["full_attention", "chunked_attention"]},
        {"max_window_layers": -1},
        {"sliding_window": 0},
    ],
    ids=str,
)
def test_windows_that_make_no_sense(changes: dict[str, Any]) -> None:
    with pytest.raises(UnsupportedModelError, match=next(iter(changes))):
        parse_config(WINDOWED | changes)


def test_old_and_new_spelling_of_rope_are_the_same() -> None:
    scaling = {"factor": 8.0, "low_freq_factor": 1.0, "high_freq_factor": 4.0}
    original = {"original_max_position_embeddings": 32}
    old = WINDOWED | {
        "rope_theta": 5e5,
        "rope_scaling": {"rope_type": "llama3", **scaling, **original},
    }
    new = WINDOWED | {
        "rope_theta": None,
        "rope_parameters": {
            "rope_type": "llama3",
            "rope_theta": 5e5,
            **scaling,
            **original,
        },
    }
    assert parse_config(old).rope == parse_config(new).rope
    assert parse_config(old).rope.kind == "llama3"


def test_supported_models(tiny_folder: Callable[[str], Path]) -> None:
    for name in ("llama", "mistral-window-many-queries", "qwen2-tied", "qwen3"):
        assert ReferenceEngine.supports(info_of(tiny_folder(name))) is None
    assert ReferenceEngine.supports(info_of(BUNDLED)) is None


def test_config_that_is_no_json(tmp_path: Path) -> None:
    info = info_of(changed(tmp_path))
    (info.path / "config.json").write_text("{", encoding="utf-8")
    reason = ReferenceEngine.supports(info)
    assert reason is not None
    assert reason.startswith("config.json cannot be read")


@pytest.mark.parametrize(
    ("fields", "param", "said"),
    [
        ({"devices": [0]}, "devices", "runs on the CPU"),
        ({"draft": "small"}, "draft", "no speculative decoding"),
        ({"draft_tokens": 4}, "draft_tokens", "no speculative decoding"),
        ({"ngram": True}, "ngram", "no speculative decoding"),
        ({"tensor_parallel": True}, "tensor_parallel", "runs on the CPU"),
        ({"rope_scale": 2}, "rope_scale", "extends no context"),
        ({"rope_alpha": 2}, "rope_alpha", "extends no context"),
        ({"yarn_factor": 2}, "yarn_factor", "extends no context"),
        ({"loras": [{"path": "adapter"}]}, "loras", "applies no LoRA"),
        ({"cache_mode": "q4"}, "cache_mode", "'q4' is not 'fp32'"),
        ({"max_seq_len": 257}, "max_seq_len", "257 is over the model's 256"),
    ],
)
def test_plans_it_cannot_honour(fields: dict[str, Any], param: str, said: str) -> None:
    bad = LoadRequest(model="m", **fields)
    with pytest.raises(EngineError, match=said) as caught:
        ReferenceEngine.plan(info_of(BUNDLED), bad, HostMemory(None))
    assert (caught.value.code, caught.value.param) == ("unsupported", param)


def test_plan_adds_up_and_says_whether_it_fits() -> None:
    info = info_of(BUNDLED)
    plan = ReferenceEngine.plan(info, LoadRequest(model="m"), HostMemory(8 << 30))
    assert plan.fits
    assert plan.reason is None
    assert (plan.max_seq_len, plan.slots, plan.cache_tokens) == (256, 16, 4096)
    assert sum(plan.parts.values()) == plan.need_bytes
    assert plan.parts["cache"] == 4096 * 2 * info.kv_bytes_per_token
    small = ReferenceEngine.plan(info, LoadRequest(model="m"), HostMemory(1 << 20))
    assert not small.fits
    assert small.reason is not None
    assert small.reason.endswith("MiB of RAM, 1 MiB are free")


def test_plan_covers_what_is_measured() -> None:
    info = info_of(BUNDLED)
    plan = ReferenceEngine.plan(info, LoadRequest(model="m"), HostMemory(None))
    assert plan.fits
    assert plan.available_bytes is None
    engine = ReferenceEngine()
    engine.load(planned(info, plan), lambda *_: None, lambda: False)
    engine.submit(request("a", [5] * 200, 20))
    while engine.has_work():
        engine.step()
    measured = engine.stats().memory_bytes
    engine.unload()
    assert measured is not None
    assert plan.need_bytes is not None
    assert plan.need_bytes / 2 < measured <= plan.need_bytes


def test_default_cache_follows_the_memory() -> None:
    info = info_of(BUNDLED)

    def plan(ram_mb: int, **fields: Any) -> LoadPlan:
        request = LoadRequest(model="m", **fields)
        return ReferenceEngine.plan(info, request, HostMemory(ram_mb << 20))

    plenty, less, little = plan(200), plan(80), plan(52)
    assert (plenty.slots, plenty.max_seq_len) == (16, 256)
    assert less.slots is not None
    assert 1 < less.slots < 16
    assert less.max_seq_len == 256
    assert little.slots == 1
    assert little.max_seq_len in range(PAGE, 256, PAGE)
    shared = plan(56, slots=4)
    assert shared.max_seq_len in range(PAGE, 256, PAGE)
    assert plenty.fits
    assert less.fits
    assert not little.fits  # loading makes copies
    asked = plan(60, slots=4, max_seq_len=200)
    assert (asked.slots, asked.max_seq_len, asked.cache_tokens) == (4, 200, 800)


@pytest.mark.parametrize(
    ("name", "change", "said"),
    [
        ("model.norm.weight", None, "model.norm.weight"),
        ("model.embed_tokens.weight", (95, 64), r"\[95, 64\], config.json says float"),
        ("model.norm.weight", (65,), r"is \[65\], config.json says \[64\]"),
        ("model.layers.0.mlp.up_proj.weight", (96, 60), "is 60 input features"),
        ("model.layers.0.mlp.up_proj.weight", (90, 64), "90 output features, not 96"),
        ("model.layers.1.self_attn.q_proj.bias", (64,), "has a bias"),
    ],
)
def test_tensors_that_do_not_fit(
    tmp_path: Path, name: str, change: tuple[int, ...] | None, said: str
) -> None:
    model = tiny("llama")
    contents = tensors(model)
    contents.pop(name, None)
    if change is not None:
        whole = tensors(model)["model.embed_tokens.weight"].reshape(-1)
        size = change[0] * (change[1] if len(change) > 1 else 1)
        contents[name] = whole[:size].reshape(change)
    folder = write_folder(tmp_path / "model", model.config, contents)
    with pytest.raises(EngineError, match=said) as caught:
        ReferenceEngine().load(spec_of(folder), lambda *_: None, lambda: False)
    assert caught.value.code == "load_failed"


def test_bias_that_is_missing(tmp_path: Path) -> None:
    model = tiny("qwen2-tied")
    contents = tensors(model)
    del contents["model.layers.0.self_attn.k_proj.bias"]
    folder = write_folder(tmp_path / "model", model.config, contents)
    with pytest.raises(
        EngineError, match="k_proj has no bias, which this model must have"
    ):
        ReferenceEngine().load(spec_of(folder), lambda *_: None, lambda: False)


def test_unknown_cache_mode_is_not_loaded(long_folder: Path) -> None:
    spec = spec_of(long_folder)
    other = replace(spec, cache_mode="q8")
    with pytest.raises(EngineError, match="cache_mode 'q8' is not 'fp32'") as caught:
        ReferenceEngine().load(other, lambda *_: None, lambda: False)
    assert caught.value.param == "cache_mode"
