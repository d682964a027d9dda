"""The two sides of the comparison: exllamav2's own generator, and our engines."""

from collections.abc import Iterator, Sequence
from typing import Any, Final

from neuron.engines.base import (
    Failed,
    GenerationRequest,
    SamplingParams,
    TokenEvent,
)
from tests.unit.reference.support import Runs

_GREEDY: Final = SamplingParams(temperature=0)


class EngineStreams:
    """A loaded engine behind its interface."""

    def __init__(self, engine: Runs, vocab: int) -> None:
        self.vocab = vocab
        self._engine = engine

    def submit(self, name: str, prompt: Sequence[int], new_tokens: int) -> None:
        self._engine.submit(GenerationRequest(name, tuple(prompt), new_tokens, _GREEDY))

    def step(self) -> Iterator[str]:
        for event in self._engine.step():
            if isinstance(event, Failed):
                raise event.error
            if isinstance(event, TokenEvent):
                yield event.id

    def busy(self) -> bool:
        return self._engine.has_work()


class PlainStreams:
    """exllamav2 as its own documentation drives it."""

    def __init__(self, library: Any, generator: Any, vocab: int) -> None:
        """`library` is `exllamav2.generator`; `generator` its dynamic generator."""
        self.vocab = vocab
        self._library = library
        self._generator = generator
        self._settings = library.ExLlamaV2Sampler.Settings.greedy()

    def submit(self, name: str, prompt: Sequence[int], new_tokens: int) -> None:
        import torch

        job = self._library.ExLlamaV2DynamicJob(
            input_ids=torch.tensor([list(prompt)], dtype=torch.long),
            max_new_tokens=new_tokens,
            gen_settings=self._settings,
            stop_conditions=[],
            identifier=name,
        )
        self._generator.enqueue(job)

    def step(self) -> Iterator[str]:
        for result in self._generator.iterate():
            # One for each token, although a token may be held back until its text is
            # complete.
            if result["stage"] == "streaming":
                yield result["identifier"]

    def busy(self) -> bool:
        return bool(self._generator.num_remaining_jobs())

    def close(self) -> None:
        """Let go of the generator, and of the model and cache that it refers to."""
        self._generator = None
