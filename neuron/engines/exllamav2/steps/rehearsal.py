"""What the first requests would be slow for, done before they come."""

from collections.abc import Callable, Iterator
from typing import Final

from neuron.engines.base import EngineError, Failed, GenerationRequest, SamplingParams
from neuron.engines.exllamav2.driver import GenerationDriver

_TOKENS: Final = 4
_SAMPLINGS: Final = (
    SamplingParams(temperature=0),
    SamplingParams(),
    SamplingParams(top_k=40, top_p=0.9, min_p=0.05, repetition_penalty=1.1),
)
"""One of each kind: kernels differ."""


def rehearse(driver: GenerationDriver, longest: int, check: Callable[[], None]) -> None:
    """Answer requests that nobody asked, of every kind.

    Args:
        driver: to be thrown away afterwards: it counts and caches them.
        longest: tokens that a request may have in all.
        check: called before every step, and may raise.

    Raises:
        EngineError: the model computes nothing on this host.
    """
    if longest <= _TOKENS:
        return  # nothing is slow for so little
    # The last token of a prompt belongs to the first decode step.
    whole_chunk = min(driver.generator.max_chunk_size + 1, longest - _TOKENS)
    kinds = [(length, 1, _SAMPLINGS[0]) for length in _prompts(whole_chunk)]
    kinds += [(1, _TOKENS, sampling) for sampling in _SAMPLINGS]
    for number, (length, tokens, sampling) in enumerate(kinds):
        # Prompts that begin alike would be computed once.
        prompt = (number,) * length
        driver.submit(
            GenerationRequest(str(number), prompt, tokens, sampling, top_logprobs=1)
        )
    while driver.has_work():
        check()
        for event in driver.step():
            if isinstance(event, Failed) and event.error.retryable:
                raise EngineError(
                    f"the model cannot be computed: {event.error}", code="load_failed"
                ) from event.error


def _prompts(longest: int) -> Iterator[int]:
    """Lengths of which each has half as much to compute as the one before: kernels are
    compiled, and chosen, by that. The longest first, so that a step computes all of it.
    """
    yield longest
    for power in reversed(range((longest - 1).bit_length())):
        if 1 + (1 << power) < longest:
            yield 1 + (1 << power)
