"""What the first requests would be slow for, done before they come."""

from collections.abc import Callable
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
    """Answer requests that nobody asked, one with a prompt of a whole chunk.

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
    for sampling, tokens in zip(_SAMPLINGS, (whole_chunk, 1, 1), strict=True):
        driver.submit(
            GenerationRequest(
                str(sampling), (0,) * tokens, _TOKENS, sampling, top_logprobs=1
            )
        )
    while driver.has_work():
        check()
        for event in driver.step():
            if isinstance(event, Failed) and event.error.retryable:
                raise EngineError(
                    f"the model cannot be computed: {event.error}", code="load_failed"
                ) from event.error
