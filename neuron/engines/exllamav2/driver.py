"""What the engine drives: requests in, events out, and failures kept to their reach."""

import logging
import traceback
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from typing import TYPE_CHECKING, Final

import torch

from neuron.engines.base import (
    EngineError,
    EngineEvent,
    EngineStats,
    GenerationRequest,
    LoadSpec,
)
from neuron.engines.constrained import Constrained
from neuron.engines.exllamav2 import failures
from neuron.engines.exllamav2.generator import DecodeSteps, PagedGenerator
from neuron.engines.exllamav2.levers import Levers
from neuron.engines.exllamav2.memory.drafting import draft_tokens
from neuron.engines.exllamav2.sampling.choosing import Chooser
from neuron.engines.exllamav2.sampling.uniforms import Uniforms
from neuron.engines.exllamav2.scheduler import Scheduler
from neuron.engines.exllamav2.sequence import Sequence
from neuron.engines.exllamav2.speculation.draft_proposer import DraftProposer
from neuron.engines.exllamav2.speculation.proposer import NgramProposer, Proposer
from neuron.engines.exllamav2.speculation.speculator import Speculator
from neuron.engines.exllamav2.vision.eyes import with_images
from neuron.engines.validation import check_request

if TYPE_CHECKING:
    from neuron.engines.exllamav2.loading.load import LoadedModel

log = logging.getLogger(__name__)

_FAILURES_IN_A_ROW: Final = 3
"""Steps that may fail one after the other before the process is given up."""
_MASK_THREADS: Final = 8


class GenerationDriver:
    """The requests of one loaded model; everything is called in one thread."""

    def __init__(
        self,
        loaded: "LoadedModel",
        spec: LoadSpec,
        levers: Levers,
        steps: DecodeSteps | None = None,
        draft_steps: DecodeSteps | None = None,
    ) -> None:
        """
        Args:
            loaded: the model.
            spec: how it was loaded.
            levers: those of sampling, speculation and prefill are heeded here.
            steps: compute decode steps; the library's own pass where None.
            draft_steps: those of the draft model, likewise.
        """
        self._loaded = loaded
        self._decode_steps = steps
        self._draft_steps = draft_steps
        self._guesses = draft_tokens(spec.options) if levers.speculate_up_to else 0
        self._masks = ThreadPoolExecutor(_MASK_THREADS, "masks")
        self._slots = spec.slots
        self.generator = self._new_generator()
        room = self.generator.max_pages * self.generator.page_size
        self._spec = replace(spec, cache_tokens=room)
        self._vocab: int = loaded.config.vocab_size
        chooser = Chooser(self._vocab, on_device=levers.device_sampling)
        self._scheduler = Scheduler(
            self.generator,
            chooser,
            Speculator(self._proposer(), self._guesses, levers.speculate_up_to),
            spec.slots,
            levers.prefill_chunk,
            loaded.eyes,
            runs_ahead=levers.async_scheduling
            and levers.device_sampling
            and steps is not None
            and not self._guesses,
        )
        self._steps = 0
        self._failed_in_a_row = 0

    def submit(self, request: GenerationRequest) -> None:
        """Queue a request.

        Raises:
            EngineError: it can never fit, a value is out of range, its id is in use, or
                its constraint fails already.
        """
        eyes = self._loaded.eyes
        vision = None if eyes is None else eyes.vision
        page_size = self.generator.page_size
        check_request(request, self._vocab, self._spec, page_size, vision)
        if self._scheduler.knows(request.id):
            raise EngineError(
                f"request {request.id!r} is running already", code="invalid_value"
            )
        constrained = None
        if request.constraint is not None:
            constrained = Constrained(
                request.constraint, request, self._vocab, self._masks
            )
        images = () if eyes is None else tuple(map(eyes.of, request.images))
        self._scheduler.add(
            Sequence(
                request,
                Uniforms(request.sampling.seed),
                constrained,
                with_images(request.prompt_ids, images),
                page_size,
                images,
            )
        )

    def cancel(self, request_id: str) -> None:
        """Forget a request, queued or running; no event follows. Any id is fine."""
        self._scheduler.remove(request_id)

    def has_work(self) -> bool:
        return bool(self._scheduler.running or self._scheduler.waiting)

    def step(self) -> list[EngineEvent]:
        """One chunk of prompt tokens, and a token or more for everyone who decodes.

        Raises:
            EngineError: fatal; the process has to be replaced.
        """
        events: list[EngineEvent] = []
        try:
            with torch.inference_mode():
                self._scheduler.step(events)
        except Exception as error:
            self._recover(error, events)
        else:
            self._failed_in_a_row = 0
        self._steps += 1
        return events

    def stats(self) -> EngineStats:
        """From counters only; any thread may ask."""
        scheduler, generator = self._scheduler, self.generator
        return EngineStats(
            running=scheduler.running,
            waiting=scheduler.waiting,
            steps=self._steps,
            kv_pages_used=generator.pages_used,
            kv_pages_total=generator.max_pages,
            prompt_tokens=scheduler.prompt_tokens,
            cached_tokens=scheduler.cached_tokens,
            generated_tokens=scheduler.generated_tokens,
            preemptions=scheduler.preemptions,
            accepted_draft_tokens=scheduler.accepted_draft_tokens,
            rejected_draft_tokens=scheduler.rejected_draft_tokens,
            memory_bytes=self._loaded.memory.total,
        )

    def close(self) -> None:
        """Forget everyone; nothing may be called afterwards."""
        self._scheduler.close()
        self._masks.shutdown(cancel_futures=True)

    def _recover(self, error: Exception, events: list[EngineEvent]) -> None:
        """Go on after the library failed in a step, where that is possible.

        Raises:
            EngineError: fatal, where it is not.
        """
        self._failed_in_a_row += 1
        if failures.is_sticky(error) or self._failed_in_a_row >= _FAILURES_IN_A_ROW:
            raise failures.fatal(error) from error
        log.error("a step failed; the generator is made anew", exc_info=error)
        if failures.is_out_of_memory(error):
            traceback.clear_frames(error.__traceback__)  # they hold tensors
            torch.cuda.empty_cache()
        self.generator = self._new_generator()
        self._scheduler.restart(self.generator, error, events)

    def _new_generator(self) -> PagedGenerator:
        return PagedGenerator(
            self._loaded,
            self._slots,
            self._decode_steps,
            self._draft_steps,
            guesses=self._guesses,
        )

    def _proposer(self) -> Proposer | None:
        if not self._guesses:
            return None
        return NgramProposer() if self._loaded.draft is None else DraftProposer()
