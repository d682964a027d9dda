"""The engine interface, implemented on a CPU with NumPy alone."""

from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from typing import ClassVar

from neuron.engines.base import (
    EngineError,
    EngineEvent,
    EngineStats,
    GenerationRequest,
    HostMemory,
    LoadSpec,
    ProgressCallback,
)
from neuron.engines.reference.cache import PAGE, PagePool, pages_for
from neuron.engines.reference.config import UnsupportedModelError, read_config
from neuron.engines.reference.forward import Forward
from neuron.engines.reference.planning import CACHE_MODE, plan_load
from neuron.engines.reference.scheduler import CHUNK, Scheduler
from neuron.engines.reference.threads import available_cores
from neuron.engines.reference.weights import Loader
from neuron.engines.validation import check_request
from neuron.exl2 import FormatError, open_model
from neuron.models.info import ModelInfo
from neuron.protocol.types import EngineInfo, LoadPlan, LoadRequest


@dataclass(frozen=True, slots=True)
class _Loaded:
    """A model in memory."""

    spec: LoadSpec
    forward: Forward
    scheduler: Scheduler
    masks: ThreadPoolExecutor


class ReferenceEngine:
    """Llama-family models on any host; deterministic, and the same in any batch."""

    name: ClassVar[str] = "reference"

    def __init__(self) -> None:
        self._loaded: _Loaded | None = None

    @classmethod
    def probe(cls) -> EngineInfo:
        """Always available: NumPy is all it needs."""
        return EngineInfo(
            name=cls.name,
            available=True,
            formats=["exl2", "gptq", "fp16"],
            features=[
                "cancel_prefill",
                "constraints",
                "continuous_batching",
                "deterministic",
                "logprobs",
                "paged",
                "prefix_cache",
                "prompt_logprobs",
            ],
        )

    @classmethod
    def supports(cls, info: ModelInfo) -> str | None:
        """None where the model can be loaded, else why not."""
        try:
            read_config(info.path)
        except UnsupportedModelError as error:
            return str(error)
        return None

    @classmethod
    def plan(
        cls,
        info: ModelInfo,
        request: LoadRequest,
        memory: HostMemory,
        draft: ModelInfo | None = None,
    ) -> LoadPlan:
        """What the load takes from this host's RAM; a `draft` is refused.

        Raises:
            EngineError: a field of the request cannot be honoured; `param` names it.
        """
        return plan_load(cls.name, info, request, memory)

    def load(
        self,
        spec: LoadSpec,
        progress: ProgressCallback,
        cancelled: Callable[[], bool],
    ) -> None:
        """Dequantize the weights into RAM and make the cache.

        Raises:
            LoadCancelledError: `cancelled()` became true between two tensors.
            EngineError: the directory cannot be loaded, or one is loaded already.
        """
        if self._loaded is not None:
            raise EngineError("a model is loaded already", code="already_loaded")
        if spec.cache_mode != CACHE_MODE:
            raise EngineError(
                f"cache_mode {spec.cache_mode!r} is not {CACHE_MODE!r}",
                code="unsupported",
                param="cache_mode",
            )
        pages = pages_for(spec.cache_tokens)
        with _named_errors(spec.info.id):
            config = read_config(spec.info.path)
            source = open_model(spec.info.path)
            forward = Forward(
                config,
                Loader(source, config, progress, cancelled).load(),
                pages=pages,
                context=spec.max_seq_len,
                rows=max(CHUNK, spec.slots),
                wanted=spec.slots,
            )
        masks = ThreadPoolExecutor(available_cores(), "masks")
        scheduler = Scheduler(forward, PagePool(pages), spec.slots, masks)
        self._loaded = _Loaded(spec, forward, scheduler, masks)

    def submit(self, request: GenerationRequest) -> None:
        """Queue a request.

        Raises:
            EngineError: it can never fit, a value is out of range, or its id is in use.
        """
        loaded = self._require()
        check_request(request, loaded.forward.vocab, loaded.spec, PAGE)
        if loaded.scheduler.knows(request.id):
            raise EngineError(
                f"request {request.id!r} is running already", code="invalid_value"
            )
        loaded.scheduler.add(request)

    def cancel(self, request_id: str) -> None:
        """Forget a request, queued or running; no event follows. Any id is fine."""
        if self._loaded is not None:
            self._loaded.scheduler.remove(request_id)

    def step(self) -> list[EngineEvent]:
        """One decode step and one prefill chunk, for whoever is due."""
        return self._require().scheduler.step()

    def has_work(self) -> bool:
        """Whether another step would do something."""
        return self._loaded is not None and self._loaded.scheduler.has_work()

    def stats(self) -> EngineStats:
        """From counters only; any thread may ask."""
        loaded = self._loaded
        return EngineStats() if loaded is None else loaded.scheduler.stats()

    def unload(self) -> None:
        """Give the memory back; requests still there are forgotten."""
        loaded, self._loaded = self._loaded, None
        if loaded is not None:
            loaded.forward.close()
            loaded.masks.shutdown(cancel_futures=True)

    def _require(self) -> _Loaded:
        if self._loaded is None:
            raise EngineError("no model is loaded", code="not_loaded")
        return self._loaded


@contextmanager
def _named_errors(model_id: str) -> Iterator[None]:
    """What a load may meet, as the engine's own error."""
    try:
        yield
    except (UnsupportedModelError, FormatError, OSError) as error:
        raise EngineError(f"{model_id}: {error}", code="load_failed") from error
    except MemoryError as error:
        raise EngineError(
            f"{model_id}: not enough memory: {error}", code="out_of_memory"
        ) from error
