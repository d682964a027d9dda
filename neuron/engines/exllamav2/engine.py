"""The engine interface, implemented with exllamav2 on CUDA.

Nothing of the library or of torch is imported before `load`.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar

from neuron.engines.base import (
    EngineError,
    EngineEvent,
    EngineStats,
    GenerationRequest,
    HostMemory,
    LoadCancelledError,
    LoadSpec,
    ProgressCallback,
)
from neuron.engines.exllamav2.host import probe
from neuron.engines.exllamav2.levers import Levers
from neuron.engines.exllamav2.memory.plan import plan_load
from neuron.engines.exllamav2.memory.support import unsupported_reason
from neuron.models.info import ModelInfo
from neuron.protocol.types import EngineInfo, LoadPlan, LoadRequest

if TYPE_CHECKING:
    from neuron.engines.exllamav2.driver import GenerationDriver
    from neuron.engines.exllamav2.generator import DecodeSteps
    from neuron.engines.exllamav2.loading.load import LoadedModel


@dataclass(frozen=True, slots=True)
class _Running:
    """A model on the devices, and what drives it."""

    loaded: "LoadedModel"
    driver: "GenerationDriver"


class ExLlamaV2Engine:
    """EXL2, GPTQ and FP16 models on NVIDIA GPUs."""

    name: ClassVar[str] = probe.NAME

    def __init__(self) -> None:
        self._running: _Running | None = None

    @classmethod
    def probe(cls) -> EngineInfo:
        """What this host has and lacks, without importing anything of it."""
        return probe.probe()

    @classmethod
    def supports(cls, info: ModelInfo) -> str | None:
        """None where the model can be loaded, else why not."""
        return unsupported_reason(info)

    @classmethod
    def plan(
        cls,
        info: ModelInfo,
        request: LoadRequest,
        memory: HostMemory,
        draft: ModelInfo | None = None,
    ) -> LoadPlan:
        """What the load takes from each GPU.

        Raises:
            EngineError: a field of the request cannot be honoured; `param` names it.
        """
        return plan_load(cls.name, info, request, memory, draft)

    def load(
        self,
        spec: LoadSpec,
        progress: ProgressCallback,
        cancelled: Callable[[], bool],
    ) -> None:
        """Import the library and put the weights on the devices.

        Raises:
            LoadCancelledError: `cancelled()` became true between two tensors.
            EngineError: the directory cannot be loaded, this host lacks something, or
                one is loaded already.
        """
        if self._running is not None:
            raise EngineError("a model is loaded already", code="already_loaded")
        levers = Levers.read()
        loaded = self._load_model(spec, levers, progress, cancelled)
        try:
            driver = self._drive(loaded, spec, levers, progress, cancelled)
            self._settle(loaded)
        except BaseException as error:
            raise self._given_up(error, spec, loaded) from None
        self._running = _Running(loaded, driver)

    def submit(self, request: GenerationRequest) -> None:
        """Queue a request.

        Raises:
            EngineError: it can never fit, a value is out of range, or its id is in use.
        """
        self._require().driver.submit(request)

    def cancel(self, request_id: str) -> None:
        """Forget a request, queued or running; no event follows. Any id is fine."""
        if self._running is not None:
            self._running.driver.cancel(request_id)

    def step(self) -> list[EngineEvent]:
        """A chunk of prompt tokens, and a token or more for everyone who decodes.

        Raises:
            EngineError: fatal; the process has to be replaced.
        """
        return self._require().driver.step()

    def has_work(self) -> bool:
        """Whether another step would do something."""
        return self._running is not None and self._running.driver.has_work()

    def stats(self) -> EngineStats:
        """From counters only; any thread may ask."""
        running = self._running
        return EngineStats() if running is None else running.driver.stats()

    def unload(self) -> None:
        """Give the memory back; requests still there are forgotten."""
        running, self._running = self._running, None
        if running is not None:
            loaded = running.loaded
            running.driver.close()
            del running  # the driver refers to the cache
            self._free(loaded)

    def _load_model(
        self,
        spec: LoadSpec,
        levers: Levers,
        progress: ProgressCallback,
        cancelled: Callable[[], bool],
    ) -> "LoadedModel":
        from neuron.engines.exllamav2.backend import load_backend
        from neuron.engines.exllamav2.loading import load as loading

        loading.prepare_devices(spec)
        backend = load_backend()
        return loading.load_model(backend, spec, progress, cancelled, levers=levers)

    def _settle(self, loaded: "LoadedModel") -> None:
        """Measure what the load takes now that everything of it is there."""
        from neuron.engines.exllamav2.loading import load as loading

        loading.settle(loaded)

    def _drive(
        self,
        loaded: "LoadedModel",
        spec: LoadSpec,
        levers: Levers,
        progress: ProgressCallback,
        cancelled: Callable[[], bool],
    ) -> "GenerationDriver":
        """With decode steps that are recorded, if they can be, and all of it warm.

        Raises:
            LoadCancelledError: `cancelled()` became true.
            EngineError: the model computes nothing on this host.
        """
        from neuron.engines.exllamav2.driver import GenerationDriver
        from neuron.engines.exllamav2.steps.rehearsal import rehearse

        def check() -> None:
            if cancelled():
                raise LoadCancelledError

        def report(done: int, total: int) -> None:
            check()
            progress("warmup", done, total)

        steps = self._decode_steps(loaded, levers, report)
        if levers.warmup:
            if loaded.eyes is not None:
                loaded.eyes.rehearse()
            longest = min(spec.max_seq_len, spec.cache_tokens)
            rehearse(GenerationDriver(loaded, spec, levers, *steps), longest, check)
        return GenerationDriver(loaded, spec, levers, *steps)

    def _decode_steps(
        self,
        loaded: "LoadedModel",
        levers: Levers,
        report: Callable[[int, int], None],
    ) -> "tuple[DecodeSteps | None, DecodeSteps | None]":
        """Recorded ones of the model and of the one that drafts; None for the library's
        own forward pass."""
        from neuron.engines.exllamav2.backend import load_backend
        from neuron.engines.exllamav2.steps import decoding

        backend = load_backend()
        steps = decoding.recorded_steps(backend, loaded, levers)
        draft_steps = decoding.recorded_draft_steps(backend, loaded, levers)
        if levers.warmup:
            decoding.warm_up(backend, loaded, levers, steps, draft_steps, report)
        return steps, draft_steps

    def _given_up(
        self, error: BaseException, spec: LoadSpec, loaded: "LoadedModel"
    ) -> BaseException:
        """What to raise; nothing is left of the load."""
        from neuron.engines.exllamav2.loading import load as loading

        return loading.given_up(error, spec, lambda: self._free(loaded))

    def _free(self, loaded: "LoadedModel") -> None:
        from neuron.engines.exllamav2.loading import load as loading

        loading.free(loaded)

    def _require(self) -> _Running:
        if self._running is None:
            raise EngineError("no model is loaded", code="not_loaded")
        return self._running
