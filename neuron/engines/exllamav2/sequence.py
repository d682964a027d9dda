"""One request while the engine knows it."""

from dataclasses import dataclass
from typing import Final

import torch

from neuron.engines.base import GenerationRequest
from neuron.engines.constrained import Constrained
from neuron.engines.exllamav2.generator import PagedGenerator
from neuron.engines.exllamav2.job import PagedJob
from neuron.engines.exllamav2.sampling.uniforms import Uniforms
from neuron.engines.exllamav2.vision.eyes import SeenImage
from neuron.engines.validation import pages_for, tokens_cached_at_most

PIECE: Final = 1
"""Pages that a sequence takes at a time beyond those it can fill at once."""


@dataclass(slots=True, eq=False, weakref_slot=True)
class Sequence:
    """Prompt and output so far, and the run that computes them.

    One that is preempted loses its run and is otherwise as it was: the next one
    prefills prompt and output together, as far as they are not in the cache.
    """

    request: GenerationRequest
    uniforms: Uniforms
    constrained: Constrained | None
    tokens: list[int]
    """With ids of their own where the prompt has images."""
    page_size: int
    images: tuple[SeenImage, ...] = ()
    job: PagedJob | None = None
    """Made when it is first in the queue; has pages while it runs."""
    started: bool = False
    """Whether it ever had pages."""
    prefilled: int = 0
    """Tokens of the prompt that were computed, be it before it was preempted."""
    distinct_prompt: torch.Tensor | None = None
    """Tokens of the prompt, each once, where the logits are; once they are needed."""
    retried: bool = False
    """Whether it was queued again after the generator failed."""

    @property
    def run(self) -> PagedJob:
        """The job of a sequence that has one."""
        assert self.job is not None
        return self.job

    @property
    def prompt_tokens(self) -> int:
        return len(self.request.prompt_ids)

    @property
    def generated(self) -> int:
        return len(self.tokens) - self.prompt_tokens

    @property
    def scores_prompt(self) -> bool:
        """Whether log-probabilities of its prompt are still to be given."""
        wanted = self.request.prompt_logprobs is not None
        return wanted and self.prefilled < self.prompt_tokens - 1

    @property
    def most_pages(self) -> int:
        """Pages that it can ever want."""
        return pages_for(tokens_cached_at_most(self.request), self.page_size)

    @property
    def may_take(self) -> int:
        """Pages that it may still want, at most a piece."""
        return min(PIECE, self.most_pages - self.run.held)

    @property
    def room(self) -> int:
        """Tokens that its pages can still take."""
        return self.run.held * self.page_size - self.run.computed

    def close(self) -> None:
        """Let go of its constraint: the request is over."""
        if self.constrained is not None:
            self.constrained.close()

    def forget_images(self) -> None:
        """What its images look like is in the KV cache now."""
        for image in self.images:
            image.embeddings = None
        self.run.forget_tables()

    def prepare(self, generator: PagedGenerator) -> PagedJob:
        """A run of all tokens so far, as it will start; the same until it has."""
        if self.job is None:
            held = pages_for(len(self.tokens), self.page_size) + PIECE
            pages = min(self.most_pages, held)
            job = generator.job(self.tokens, pages, self.images)
            if self.scores_prompt:
                job.limit_reuse(self.prefilled // self.page_size)
            self.job = job
        return self.job
