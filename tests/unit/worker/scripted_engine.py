"""An engine that says what a test tells it to, one token a step."""

import threading
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import ClassVar

from neuron.engines.base import (
    EngineError,
    EngineEvent,
    EngineStats,
    Finished,
    GenerationRequest,
    HostMemory,
    LoadCancelledError,
    LoadSpec,
    PrefillProgress,
    ProgressCallback,
    PromptLogprobs,
    Started,
    TokenEvent,
    TokenLogprobs,
)
from neuron.models.info import ModelInfo
from neuron.protocol.types import EngineInfo, LoadPlan, LoadRequest

INFO = ModelInfo(
    id="scripted",
    path=Path("/nowhere"),
    format="exl2",
    architecture="LlamaForCausalLM",
    bpw=4.0,
    head_bits=6.0,
    layers=1,
    hidden_size=1,
    intermediate_size=1,
    heads=1,
    kv_heads=1,
    head_dim=1,
    vocab_size=8599,
    context=256,
    weight_bytes=1,
    eos_ids=(2,),
    bos_id=1,
    has_chat_template=False,
)
SPEC = LoadSpec(INFO, max_seq_len=256, slots=2, cache_mode="fp16", cache_tokens=512)

Script = Callable[[GenerationRequest], Sequence[int]]


class ScriptedEngine:
    """Prefill takes one step; then come the script's tokens.

    With `manual` a step happens only after `allow` said so.
    """

    name: ClassVar[str] = "scripted"

    def __init__(self, script: Script, *, manual: bool = False) -> None:
        self._script = script
        self._allowed = threading.Semaphore(0) if manual else None
        self._tokens: dict[str, list[int]] = {}
        self._requests: dict[str, GenerationRequest] = {}
        self._started: set[str] = set()
        self.seen: list[GenerationRequest] = []
        self.threads: set[int] = set()
        self.steps = 0
        self.cancelled: list[str] = []
        self.refuse: EngineError | None = None
        self.break_at: int | None = None
        self.unloaded = False

    def allow(self, steps: int = 1) -> None:
        assert self._allowed is not None
        self._allowed.release(steps)

    @classmethod
    def probe(cls) -> EngineInfo:
        return EngineInfo(name=cls.name, available=True)

    @classmethod
    def supports(cls, info: ModelInfo) -> str | None:
        return None

    @classmethod
    def plan(
        cls,
        info: ModelInfo,
        request: LoadRequest,
        memory: HostMemory,
        draft: ModelInfo | None = None,
    ) -> LoadPlan:
        return LoadPlan(model=info.id, engine=cls.name, fits=True)

    def load(
        self,
        spec: LoadSpec,
        progress: ProgressCallback,
        cancelled: Callable[[], bool],
    ) -> None:
        self.threads.add(threading.get_ident())
        progress("weights", 1, 1)
        if self._allowed is not None:
            while not self._allowed.acquire(timeout=0.01):
                if cancelled():
                    raise LoadCancelledError

    def submit(self, request: GenerationRequest) -> None:
        self.threads.add(threading.get_ident())
        if self.refuse is not None:
            raise self.refuse
        self.seen.append(request)
        self._requests[request.id] = request
        self._tokens[request.id] = list(self._script(request))

    def cancel(self, request_id: str) -> None:
        self.threads.add(threading.get_ident())
        self.cancelled.append(request_id)
        self._forget(request_id)

    def _forget(self, request_id: str) -> None:
        self._tokens.pop(request_id, None)
        self._requests.pop(request_id, None)
        self._started.discard(request_id)

    def step(self) -> list[EngineEvent]:
        self.threads.add(threading.get_ident())
        if self._allowed is not None:
            self._allowed.acquire()
        self.steps += 1
        if self.steps == self.break_at:
            raise RuntimeError("out of order")
        events: list[EngineEvent] = []
        for request_id in list(self._tokens):
            events += self._advance(request_id)
        return events

    def _advance(self, request_id: str) -> list[EngineEvent]:
        request = self._requests[request_id]
        total = len(request.prompt_ids)
        if request_id not in self._started:
            self._started.add(request_id)
            begin: list[EngineEvent] = [
                Started(request_id, 1),
                PrefillProgress(request_id, total, total),
            ]
            if request.prompt_logprobs is not None:
                begin.append(_scored_prompt(request))
            if not request.max_new_tokens:
                begin.append(Finished(request_id, "length"))
                self._forget(request_id)
            return begin
        tokens = self._tokens[request_id]
        token = tokens.pop(0)
        scores = None
        if request.top_logprobs is not None:
            top = tuple((token, -0.5) for _ in range(min(1, request.top_logprobs)))
            scores = TokenLogprobs(-0.5, top)
        events: list[EngineEvent] = [TokenEvent(request_id, token, scores)]
        if token in request.stop_ids or not tokens:
            reason = "stop" if token in request.stop_ids else "length"
            events.append(
                Finished(request_id, "stop" if reason == "stop" else "length")
            )
            self._forget(request_id)
        return events

    def has_work(self) -> bool:
        return bool(self._tokens)

    def stats(self) -> EngineStats:
        return EngineStats(running=len(self._tokens), steps=self.steps)

    def unload(self) -> None:
        self.unloaded = True


def _scored_prompt(request: GenerationRequest) -> PromptLogprobs:
    ids = request.prompt_ids[1:]
    scores = [TokenLogprobs(-0.25, ((token, -0.25),)) for token in ids]
    return PromptLogprobs(request.id, 1, ids, tuple(scores))
