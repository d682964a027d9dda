"""Loading models and running requests to their end."""

import json
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from neuron.engines.base import (
    EngineEvent,
    Failed,
    Finished,
    GenerationRequest,
    HostMemory,
    LoadSpec,
    PrefillProgress,
    PromptLogprobs,
    SamplingParams,
    Started,
    TokenEvent,
    TokenLogprobs,
)
from neuron.engines.reference.attention import Span
from neuron.engines.reference.cache import PageTable, pages_for
from neuron.engines.reference.config import read_config
from neuron.engines.reference.engine import ReferenceEngine
from neuron.engines.reference.forward import Forward
from neuron.engines.reference.weights import Loader
from neuron.exl2 import open_model
from neuron.models.bundled import bundled_root
from neuron.models.info import ModelInfo
from neuron.protocol.types import LoadPlan, LoadRequest
from tests.goldens.tiny_models import TINY_MODELS, TinyModel

BUNDLED = bundled_root() / "tinystories-15m"
GREEDY = SamplingParams(temperature=0)


def tiny(name: str) -> TinyModel:
    """The tiny model of that name."""
    return next(model for model in TINY_MODELS if model.name == name)


def info_of(folder: Path) -> ModelInfo:
    """Of any model folder; the engine looks at id, path and nothing else."""
    config = json.loads((folder / "config.json").read_text(encoding="utf-8"))
    return ModelInfo(
        id=folder.name,
        path=folder,
        format="fp16",
        architecture=config["architectures"][0],
        bpw=16,
        head_bits=None,
        layers=config["num_hidden_layers"],
        hidden_size=config["hidden_size"],
        intermediate_size=config["intermediate_size"],
        heads=config["num_attention_heads"],
        kv_heads=config["num_key_value_heads"],
        head_dim=config["head_dim"],
        vocab_size=config["vocab_size"],
        context=config["max_position_embeddings"],
        weight_bytes=0,
        eos_ids=(2,),
        bos_id=1,
        has_chat_template=False,
    )


def spec_of(folder: Path, **fields: Any) -> LoadSpec:
    """A load as the plan for `fields` (of LoadRequest) says."""
    info = info_of(folder)
    request = LoadRequest(model=info.id, **fields)
    plan = ReferenceEngine.plan(info, request, HostMemory(None))
    return planned(info, plan)


def planned(info: ModelInfo, plan: LoadPlan) -> LoadSpec:
    """The load that the plan describes."""
    assert plan.max_seq_len is not None
    assert plan.slots is not None
    assert plan.cache_mode is not None
    assert plan.cache_tokens is not None
    return LoadSpec(
        info, plan.max_seq_len, plan.slots, plan.cache_mode, plan.cache_tokens
    )


@contextmanager
def loaded(folder: Path, **fields: Any) -> Iterator[ReferenceEngine]:
    """An engine with the model loaded; `fields` are those of LoadRequest."""
    engine = ReferenceEngine()
    engine.load(spec_of(folder, **fields), lambda *_: None, lambda: False)
    try:
        yield engine
    finally:
        engine.unload()


def logits_of(
    folder: Path, prompt: Sequence[int], chunks: Iterable[int], pages: Sequence[int]
) -> NDArray[np.float32]:
    """[tokens, vocab], computed in chunks of the given sizes on the given pages."""
    config = read_config(folder)
    source = open_model(folder)
    weights = Loader(source, config, lambda *_: None, lambda: False).load()
    forward = Forward(
        config,
        weights,
        pages=max(pages) + 1,
        context=config.context,
        rows=len(prompt),
        wanted=len(prompt),
    )
    assert len(pages) >= pages_for(len(prompt))
    results, start = [], 0
    try:
        for count in chunks:
            span = Span(start, count, PageTable(pages))
            part = prompt[start : start + count]
            logits, is_finite = forward.run(part, [span], range(count))
            assert is_finite
            results.append(logits.copy())
            start += count
    finally:
        forward.close()
    return np.concatenate(results)


@dataclass(slots=True)
class Output:
    """What became of one request."""

    cached: int | None = None
    prefilled: list[int] = field(default_factory=list)
    scored_ids: list[int] = field(default_factory=list)
    """Tokens of the prompt whose log-probabilities came."""
    scores: list[TokenLogprobs] = field(default_factory=list)
    tokens: list[int] = field(default_factory=list)
    logprobs: list[TokenLogprobs | None] = field(default_factory=list)
    reason: str | None = None
    error: Exception | None = None

    def take(self, event: EngineEvent) -> None:
        match event:
            case Started(cached_tokens=cached):
                assert self.cached is None
                self.cached = cached
            case PrefillProgress(done=done):
                self.prefilled.append(done)
            case PromptLogprobs(start=start, token_ids=ids, logprobs=logprobs):
                assert start == 1 + len(self.scores)
                assert not self.tokens
                self.scored_ids += ids
                self.scores += logprobs
            case TokenEvent(token_id=token, logprobs=logprobs):
                self.tokens.append(token)
                self.logprobs.append(logprobs)
            case Finished(reason=reason):
                self.reason = reason
            case Failed(error=error):
                self.error = error


class Runs(Protocol):
    """What runs requests, be it an engine or what drives one."""

    def submit(self, request: GenerationRequest) -> None: ...
    def step(self) -> list[EngineEvent]: ...
    def has_work(self) -> bool: ...


class Outputs(dict[str, Output]):
    """By request id; `step` takes the events of one step."""

    def step(self, engine: Runs) -> list[EngineEvent]:
        events = engine.step()
        for event in events:
            self.setdefault(event.id, Output()).take(event)
        return events

    def run(self, engine: Runs) -> "Outputs":
        """Step until nothing is left to do."""
        for _ in range(10_000):
            if not engine.has_work():
                return self
            self.step(engine)
        raise AssertionError("the engine does not come to an end")


def request(
    name: str, prompt: Sequence[int], count: int = 8, **fields: Any
) -> GenerationRequest:
    fields.setdefault("sampling", GREEDY)
    return GenerationRequest(name, tuple(prompt), count, **fields)


def generate(engine: Runs, *requests: GenerationRequest) -> Outputs:
    """Submit them together and run to the end."""
    for each in requests:
        engine.submit(each)
    return Outputs().run(engine)
