import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from neuron.engines.base import EngineError, HostMemory
from neuron.engines.exllamav2.levers import Levers
from neuron.engines.exllamav2.memory.allocator import reserved_bytes
from neuron.engines.exllamav2.memory.description import Description
from neuron.engines.exllamav2.memory.plan import plan_load
from neuron.models.info import ModelInfo
from neuron.protocol.types import LoadPlan, LoadRequest
from tests.support.synthetic_model import ModelShape
from tests.unit.exllamav2 import hollow
from tests.unit.exllamav2.hollow import BIG, SMALL

GIB = 1 << 30
WIDE = replace(SMALL, hidden=512, head_dim=64)
HOST_EMBEDDING = Levers(device_embedding=False)


@pytest.fixture(autouse=True)
def _every_gpu_is_visible(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)


def planned(
    info: ModelInfo,
    state: Path,
    vram: dict[int, int] | None = None,
    guesser: ModelInfo | None = None,
    **fields: Any,
) -> LoadPlan:
    free = {0: 80 * GIB} if vram is None else vram
    request = LoadRequest(model=info.id, **fields)
    return plan_load(
        "exllamav2", info, request, HostMemory(None, free), guesser,
        levers=HOST_EMBEDDING, state=state,
    )  # fmt: skip


def test_parts_add_up_and_weights_are_those_of_the_file(tmp_path: Path) -> None:
    info = hollow.write_llama(tmp_path / "m", BIG)
    plan = planned(info, tmp_path, slots=16, max_seq_len=4096, cache_tokens=65536)
    assert plan.fits
    assert plan.devices == [0]
    assert sum(plan.parts.values()) == plan.need_bytes == plan.device_bytes[0]
    embedding = BIG.vocab * BIG.hidden * 2
    uploaded = info.weight_bytes - embedding
    # Orders of rows shrink from 32 to 16 bits, a map of groups is added.
    assert abs(plan.parts["weights"] - uploaded) < 16 << 20
    assert plan.parts["cache"] == 65536 * 2 * 2 * 32 * 8 * 128


def test_embedding_on_the_device_is_counted(tmp_path: Path) -> None:
    info = hollow.write_llama(tmp_path / "m", BIG)
    request = LoadRequest(model="m", slots=4, max_seq_len=512)
    memory = HostMemory(None, {0: 80 * GIB})
    host, device = (
        plan_load(
            "exllamav2", info, request, memory, state=tmp_path,
            levers=Levers(device_embedding=on),
        ).parts["weights"]
        for on in (False, True)
    )  # fmt: skip
    assert device - host == pytest.approx(BIG.vocab * BIG.hidden * 2, abs=2 << 20)


@pytest.mark.parametrize(
    ("mode", "bits"), [("fp16", 32), ("q8", 17), ("q6", 13), ("q4", 9)]
)
def test_cache_modes(tmp_path: Path, mode: str, bits: int) -> None:
    info = hollow.write_llama(tmp_path / "m", BIG)
    plan = planned(info, tmp_path, cache_mode=mode, cache_tokens=65536, max_seq_len=512)
    numbers = 65536 * 8 * 128
    temporary = 0 if mode == "fp16" else 2 * 2 * numbers
    assert plan.cache_mode == mode
    expected = 32 * numbers * bits // 8 + temporary
    assert 0 <= plan.parts["cache"] - expected <= 20 << 20


def test_quantized_cache_needs_heads_of_whole_blocks(tmp_path: Path) -> None:
    shape = replace(SMALL, head_dim=48)
    info = hollow.write_llama(tmp_path / "m", shape)
    assert planned(info, tmp_path).fits
    with pytest.raises(EngineError, match="head_dim 48 is no multiple") as caught:
        planned(info, tmp_path, cache_mode="q4")
    assert caught.value.param == "cache_mode"


def test_default_cache_leaves_room_for_others(tmp_path: Path) -> None:
    info = hollow.write_llama(tmp_path / "m", BIG)
    wide = planned(info, tmp_path)
    assert (wide.max_seq_len, wide.slots, wide.cache_tokens) == (8192, 16, 131072)
    tight = planned(info, tmp_path, {0: 12 * GIB})
    assert tight.fits
    assert tight.max_seq_len == 8192
    assert tight.cache_tokens is not None
    assert 8192 <= tight.cache_tokens < 131072
    assert tight.cache_tokens % 256 == 0


def test_load_that_fits_nowhere_says_so_in_numbers(tmp_path: Path) -> None:
    info = hollow.write_llama(tmp_path / "m", BIG)
    plan = planned(info, tmp_path, {0: 2 * GIB, 1: GIB}, max_seq_len=512)
    assert not plan.fits
    assert plan.devices == []
    assert plan.need_bytes is not None
    assert plan.reason == (
        f"needs {plan.need_bytes >> 20} MiB of VRAM; free are 2048 MiB on GPU 0, "
        "1024 MiB on GPU 1"
    )


def test_host_without_a_gpu(tmp_path: Path) -> None:
    plan = planned(hollow.write_llama(tmp_path / "m"), tmp_path, {})
    assert not plan.fits
    assert plan.available_bytes is None
    assert (plan.reason or "").endswith("and there is no GPU")


def test_the_emptiest_gpu_is_taken_where_one_is_enough(tmp_path: Path) -> None:
    info = hollow.write_llama(tmp_path / "m", BIG)
    plan = planned(info, tmp_path, {0: 20 * GIB, 1: 40 * GIB, 2: 30 * GIB})
    assert plan.devices == [1]


def test_layers_are_spread_over_as_few_gpus_as_hold_them(tmp_path: Path) -> None:
    info = hollow.write_llama(tmp_path / "m", BIG)
    vram = {0: 3 * GIB, 1: 3 * GIB, 2: 3 * GIB}
    plan = planned(info, tmp_path, vram, max_seq_len=1024, cache_tokens=1024)
    assert plan.fits
    assert plan.devices == [0, 1]
    assert sum(plan.device_bytes.values()) == plan.need_bytes
    assert all(plan.device_bytes[d] <= vram[d] for d in plan.devices)


def test_named_gpus_are_used_in_their_order(tmp_path: Path) -> None:
    info = hollow.write_llama(tmp_path / "m", BIG)
    vram = {0: 3 * GIB, 1: 4 * GIB, 2: 80 * GIB}
    plan = planned(
        info, tmp_path, vram, devices=[1, 0], max_seq_len=512, cache_tokens=512
    )
    assert plan.devices == [1, 0]


@pytest.mark.parametrize(
    ("devices", "said"),
    [([3], "there is no GPU 3; there are: 0, 1"), ([0, 0], "once each"), ([], "once")],
)
def test_gpus_that_are_not_there(tmp_path: Path, devices: list[int], said: str) -> None:
    info = hollow.write_llama(tmp_path / "m")
    with pytest.raises(EngineError, match=said) as caught:
        planned(info, tmp_path, {0: GIB, 1: GIB}, devices=devices)
    assert caught.value.param == "devices"


@pytest.mark.parametrize(
    ("visible", "devices"),
    [("1", [1]), ("0,1", [0]), ("GPU-bb", [1]), ("GPU-b", [1]), (" 1 , 7", [1])],
)
def test_gpus_that_the_environment_hides(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, visible: str, devices: list[int]
) -> None:
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", visible)
    known = {0: "GPU-aa12", 1: "GPU-bb34"}
    monkeypatch.setattr("neuron.engines.exllamav2.host.devices.uuids", lambda _: known)
    info = hollow.write_llama(tmp_path / "m")
    assert planned(info, tmp_path, {0: 80 * GIB, 1: 40 * GIB}).devices == devices


def test_no_gpu_is_visible(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "")
    plan = planned(hollow.write_llama(tmp_path / "m"), tmp_path)
    assert not plan.fits
    assert (plan.reason or "").endswith("and there is no GPU")


@pytest.mark.parametrize(
    ("fields", "param", "said"),
    [
        ({"cache_mode": "fp8"}, "cache_mode", "'fp8' is not one of fp16, q8, q6, q4"),
        ({"max_seq_len": 1025}, "max_seq_len", "1025 is over the model's 1024"),
        ({"draft_tokens": 4}, "draft_tokens", "nothing guesses"),
        ({"ngram": True, "draft_tokens": 16}, "draft_tokens", "16 is over 15"),
        ({"draft": "a", "ngram": True}, "ngram", "leave one of them out"),
        ({"draft": "gone"}, "draft", "there is no model 'gone'"),
        ({"tensor_parallel": True}, "tensor_parallel", "two GPUs or more, here are 1"),
        ({"rope_scale": 2, "rope_alpha": 2}, "rope_scale", "one extension at a time"),
        ({"loras": [{"path": "none"}]}, "loras", "adapter_config.json: is missing"),
    ],
)
def test_what_it_cannot_honour(
    tmp_path: Path, fields: dict[str, Any], param: str, said: str
) -> None:
    info = hollow.write_llama(tmp_path / "m")
    with pytest.raises(EngineError, match=said) as caught:
        planned(info, tmp_path, **fields)
    assert (caught.value.code, caught.value.param) == ("unsupported", param)


@pytest.mark.parametrize(
    ("fields", "longest"),
    [
        ({"rope_scale": 2}, 2048),
        ({"rope_alpha": 2.5}, 2560),
        ({"yarn_factor": 4}, 4096),
    ],
)
def test_context_extension(
    tmp_path: Path, fields: dict[str, Any], longest: int
) -> None:
    info = hollow.write_llama(tmp_path / "m")
    plan = planned(info, tmp_path, **fields)
    assert plan.max_seq_len == longest
    assert {name: getattr(plan, name) for name in fields} == fields
    with pytest.raises(EngineError, match=f"over the model's {longest}"):
        planned(info, tmp_path, max_seq_len=longest + 1, **fields)


@pytest.mark.parametrize(
    ("scaling", "field", "said"),
    [
        (
            {"rope_type": "linear", "factor": 2},
            "rope_scale",
            "linear scaling of its own",
        ),
        ({"rope_type": "llama3", "factor": 8}, "yarn_factor", "has llama3 scaling"),
        ({"type": "mrope", "mrope_section": [4]}, "yarn_factor", "has mrope scaling"),
        ({"type": "mrope", "mrope_section": [4]}, "rope_scale", "rows and columns"),
    ],
)
def test_extensions_that_contradict_the_model(
    tmp_path: Path, scaling: dict[str, Any], field: str, said: str
) -> None:
    info = hollow.write_llama(tmp_path / "m", rope_scaling=scaling)
    request: dict[str, Any] = {field: 2}
    with pytest.raises(EngineError, match=said) as caught:
        planned(info, tmp_path, **request)
    assert caught.value.param == field


def test_window_that_split_layers_ignore_bounds_the_context(tmp_path: Path) -> None:
    info = hollow.write_llama(
        tmp_path / "m", WIDE, architectures=["MistralForCausalLM"], sliding_window=512
    )
    assert planned(info, tmp_path).max_seq_len == 1024
    two = {0: GIB, 1: GIB}
    assert planned(info, tmp_path, two, tensor_parallel=True).max_seq_len == 512
    with pytest.raises(EngineError, match="over the model's 512"):
        planned(info, tmp_path, two, tensor_parallel=True, max_seq_len=513)


def test_draft_is_counted_and_checked(tmp_path: Path) -> None:
    info = hollow.write_llama(tmp_path / "m", BIG)
    fields: dict[str, Any] = {"max_seq_len": 1024, "cache_tokens": 4096}
    draft = hollow.write_llama(tmp_path / "d", replace(SMALL, vocab=BIG.vocab))
    plan = planned(info, tmp_path, guesser=draft, **fields, draft="d")
    assert plan.fits
    assert (plan.draft, plan.draft_tokens) == ("d", 4)
    assert plan.parts["draft"] > Description.of(draft).modules[-1].arena_bytes
    with pytest.raises(EngineError, match="trained for 1024 tokens") as caught:
        planned(info, tmp_path, guesser=draft, draft="d", max_seq_len=2048)
    assert caught.value.param == "draft"
    other = hollow.write_llama(tmp_path / "o", SMALL)
    with pytest.raises(EngineError, match="'o' has 1000 tokens"):
        planned(info, tmp_path, guesser=other, draft="o", **fields)
    tokenizer = (draft.path / "tokenizer.json").read_text().replace("t3", "u3")
    (draft.path / "tokenizer.json").write_text(tokenizer)
    difference = "token 3 is 'u3' for 'd' and 't3' for 'm'"
    with pytest.raises(EngineError, match=difference) as caught:
        planned(info, tmp_path, guesser=draft, draft="d", **fields)
    assert caught.value.param == "draft"


@pytest.mark.parametrize("likelihood", [-1.5, -2])
def test_tokens_of_a_draft_with_likelihoods(tmp_path: Path, likelihood: float) -> None:
    """Which tokens there are counts, not how a prompt is cut into them."""
    info = hollow.write_llama(tmp_path / "m")
    draft = hollow.write_llama(tmp_path / "d")
    fields: dict[str, Any] = {"max_seq_len": 1024, "cache_tokens": 4096, "draft": "d"}

    def write(model: ModelInfo, *vocab: tuple[str, float]) -> None:
        tokenizer = {"model": {"type": "Unigram", "vocab": vocab}}
        (model.path / "tokenizer.json").write_text(json.dumps(tokenizer))

    write(info, ("<s>", 0.0), ("a", -1.5), ("b", -2.0))
    write(draft, ("<s>", 0.0), ("a", likelihood), ("b", -2.0))
    assert planned(info, tmp_path, guesser=draft, **fields).draft == "d"
    write(draft, ("<s>", 0.0), ("a", likelihood))
    with pytest.raises(EngineError, match="token 2 is None for 'd' and 'b' for 'm'"):
        planned(info, tmp_path, guesser=draft, **fields)


def test_tensor_parallel_halves_what_each_takes(tmp_path: Path) -> None:
    info = hollow.write_llama(tmp_path / "m", BIG)
    vram = {0: 40 * GIB, 1: 40 * GIB}
    fields: dict[str, Any] = {"max_seq_len": 4096, "cache_tokens": 32768}
    alone = planned(info, tmp_path, vram, **fields)
    both = planned(info, tmp_path, vram, **fields, tensor_parallel=True)
    assert both.fits
    assert both.devices == [0, 1]
    assert both.device_bytes[0] == both.device_bytes[1]
    assert both.parts["cache"] == alone.parts["cache"]
    assert both.parts["weights"] == pytest.approx(alone.parts["weights"], rel=0.12)


@pytest.mark.parametrize(
    ("changes", "kind", "said"),
    [
        ({"architectures": ["Qwen3ForCausalLM"]}, "exl2", "cannot split Qwen3"),
        ({}, "gptq", "splits EXL2 models, not gptq"),
        ({"intermediate_size": 544}, "exl2", "544 is no multiple of 128"),
        ({"mlp_bias": True}, "exl2", "biases to other columns"),
    ],
)
def test_splits_that_the_library_cannot_do(
    tmp_path: Path, changes: dict[str, Any], kind: str, said: str
) -> None:
    info = hollow.write_llama(tmp_path / "m", WIDE, kind, **changes)
    with pytest.raises(EngineError, match=said) as caught:
        planned(info, tmp_path, {0: GIB, 1: GIB}, tensor_parallel=True)
    assert caught.value.param == "tensor_parallel"


@pytest.mark.parametrize(
    ("shape", "said"),
    [
        (replace(SMALL, hidden=512), "8 heads of 32 are 256 .* hidden_size, 512"),
        (SMALL, "a width of 256 cannot be split over 2"),
        (replace(WIDE, intermediate=384), "a width of 384 cannot be split over 2"),
    ],
)
def test_widths_that_the_library_splits_wrong(
    tmp_path: Path, shape: ModelShape, said: str
) -> None:
    info = hollow.write_llama(tmp_path / "m", shape)
    with pytest.raises(EngineError, match=said) as caught:
        planned(info, tmp_path, {0: GIB, 1: GIB}, tensor_parallel=True)
    assert caught.value.param == "tensor_parallel"


def test_more_gpus_than_heads(tmp_path: Path) -> None:
    info = hollow.write_llama(tmp_path / "m")
    vram = dict.fromkeys(range(3), GIB)
    with pytest.raises(EngineError, match="2 key-value heads cannot be split over 3"):
        planned(info, tmp_path, vram, tensor_parallel=True)


def test_segments_of_the_allocator() -> None:
    mib = 1 << 20
    assert reserved_bytes([]) == 0
    assert reserved_bytes([1]) == 2 * mib
    assert reserved_bytes([mib, mib]) == 2 * mib
    assert reserved_bytes([mib, mib, 1]) == 4 * mib
    assert reserved_bytes([mib + 1]) == 20 * mib
    assert reserved_bytes([5 * mib] * 4) == 20 * mib
    assert reserved_bytes([7 * mib] * 3) == 40 * mib
    assert reserved_bytes([10 * mib]) == 10 * mib
    assert reserved_bytes([10 * mib + 1]) == 12 * mib
    # The 2 MiB segment's rest is too small to be cut off, and stays with the tensor.
    assert reserved_bytes([11 * mib, mib + 1]) == 32 * mib
