"""The life of a loaded engine: load, warm-up, use, unload."""

import threading
from dataclasses import replace
from pathlib import Path
from typing import Any, NoReturn

import pytest

from tests.support import cuda_stack

cuda_stack.require("torch", "triton", "exllamav2")
cuda_stack.use_cpu_extension()

import torch

from neuron.engines.base import EngineError, LoadCancelledError, LoadSpec
from neuron.engines.exllamav2.engine import ExLlamaV2Engine
from neuron.protocol.types import LoadOptions
from tests.goldens.tiny_models import tensors, write_folder
from tests.unit.exllamav2.torch_engine import Call, TorchEngine, model_of
from tests.unit.reference.support import generate, info_of, request, tiny

pytestmark = [
    pytest.mark.cuda_stack,
    pytest.mark.timeout(2 * cuda_stack.BUILD_DEADLINE_S),
]

PROMPT = tuple(range(3, 23))


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A tiny model with room for 1280 tokens."""
    model = tiny("llama-gqa-tied-linear")
    config = model.config | {"max_position_embeddings": 1280}
    return write_folder(tmp_path_factory.mktemp("tiny"), config, tensors(model))


@pytest.fixture
def spec(folder: Path) -> LoadSpec:
    return LoadSpec(info_of(folder), 1280, 4, "fp16", 2048)


class Watched(TorchEngine):
    """Counts what is given back."""

    def __init__(self) -> None:
        super().__init__()
        self.freed: list[object] = []

    def _free(self, loaded: object) -> None:
        self.freed.append(loaded)


def load(engine: ExLlamaV2Engine, spec: LoadSpec, **changes: Any) -> None:
    settings = {"progress": lambda *_: None, "cancelled": lambda: False}
    engine.load(spec, **settings | changes)


def test_a_load_leaves_the_engine_warm_and_empty(spec: LoadSpec) -> None:
    calls = model_of(spec.info.path).calls
    calls.clear()
    engine = Watched()
    load(engine, spec)
    prompts = {call.tokens for call in calls if not call.logits}
    assert {1 << power for power in range(10)} <= prompts
    assert max(prompts) == 512  # a whole chunk
    assert any(call.rows > 1 and call.logits for call in calls)
    stats = engine.stats()
    assert (stats.steps, stats.prompt_tokens, stats.generated_tokens) == (0, 0, 0)
    assert (stats.kv_pages_used, stats.kv_pages_total) == (0, 8)
    assert stats.memory_bytes
    assert not engine.has_work()
    assert generate(engine, request("a", (0,) * 600, 2))["a"].cached == 0
    engine.unload()


def test_guesses_of_the_warm_up_do_not_count(spec: LoadSpec) -> None:
    engine = TorchEngine()
    load(engine, replace(spec, options=LoadOptions(ngram=True)))
    stats = engine.stats()
    assert (stats.accepted_draft_tokens, stats.rejected_draft_tokens) == (0, 0)
    output = generate(engine, request("a", PROMPT * 3, 40))["a"]
    stats = engine.stats()
    assert stats.accepted_draft_tokens + stats.rejected_draft_tokens > 0
    assert len(output.tokens) == 40
    engine.unload()


def test_no_warm_up_where_it_is_switched_off(
    spec: LoadSpec, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("NEURON_EXLLAMAV2_WARMUP", "off")
    calls = model_of(spec.info.path).calls
    calls.clear()
    engine = TorchEngine()
    load(engine, spec)
    assert not calls


def test_a_load_that_is_cancelled_while_it_warms_up(spec: LoadSpec) -> None:
    engine = Watched()
    answers = iter([False, False, True])
    with pytest.raises(LoadCancelledError):
        load(engine, spec, cancelled=lambda: next(answers))
    assert len(engine.freed) == 1
    assert engine.stats().memory_bytes is None


def test_a_model_that_cannot_be_computed_is_not_served(
    spec: LoadSpec, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(call: Call) -> None:
        raise RuntimeError("no kernel image is available for execution on the device")

    monkeypatch.setattr(TorchEngine, "before_call", staticmethod(fail))
    engine = Watched()
    with pytest.raises(EngineError, match="no kernel image") as failed:
        load(engine, spec)
    assert failed.value.code == "load_failed"
    assert len(engine.freed) == 1


@pytest.mark.parametrize(
    ("error", "code"),
    [
        (torch.OutOfMemoryError("CUDA out of memory"), "out_of_memory"),
        (RuntimeError("CUDA error: out of memory"), "out_of_memory"),
        (RuntimeError("CUDA error: an illegal memory access"), "load_failed"),
    ],
)  # fmt: skip
def test_a_warm_up_that_fails_is_a_load_that_failed(
    spec: LoadSpec, monkeypatch: pytest.MonkeyPatch, error: Exception, code: str
) -> None:
    """Be it that nothing can be freed any more, as on a device that is lost."""

    def fail(*_: object) -> NoReturn:
        raise error

    def lost(*_: object) -> NoReturn:
        raise RuntimeError("CUDA error: unspecified launch failure")

    monkeypatch.setattr(TorchEngine, "_decode_steps", fail)
    monkeypatch.setattr(TorchEngine, "_free", lost)
    engine = TorchEngine()
    with pytest.raises(EngineError, match=str(error)) as failed:
        load(engine, spec)
    assert failed.value.code == code
    assert engine.stats().memory_bytes is None


def test_one_model_at_a_time_and_again(spec: LoadSpec) -> None:
    engine = Watched()
    for _ in range(2):
        load(engine, spec)
        with pytest.raises(EngineError, match="loaded already"):
            load(engine, spec)
        engine.submit(request("a", PROMPT))
        engine.step()
        engine.unload()
        engine.cancel("a")
        assert not engine.has_work()
        assert engine.stats().memory_bytes is None
    assert len(engine.freed) == 2
    with pytest.raises(EngineError, match="no model is loaded"):
        engine.submit(request("a", PROMPT))


def test_stats_from_another_thread_while_running(spec: LoadSpec) -> None:
    engine = TorchEngine()
    load(engine, spec)
    over = threading.Event()
    problems: list[Exception] = []

    def watch() -> None:
        try:
            while not over.is_set():
                stats = engine.stats()
                assert 0 <= stats.kv_pages_used <= stats.kv_pages_total
        except Exception as error:
            problems.append(error)

    watcher = threading.Thread(target=watch)
    watcher.start()
    try:
        generate(engine, *(request(str(i), (*PROMPT, i), 9) for i in range(12)))
    finally:
        over.set()
        watcher.join()
    assert not problems
