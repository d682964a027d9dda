"""How likely the model finds a prompt, token by token."""

import numpy as np

from neuron.engines.base import EngineError, PromptLogprobs
from neuron.engines.reference.attention import Span
from neuron.engines.reference.forward import Forward
from neuron.engines.reference.sampler import log_probabilities
from neuron.engines.reference.sequence import Sequence


def score_prompt(
    forward: Forward, sequence: Sequence, span: Span
) -> PromptLogprobs | None:
    """Of the tokens that follow those of a span, which `forward` ran last.

    None where nothing new is known, or nobody asked. Logits are taken in groups as
    large as decoding needs them, not of the whole span at once.

    Raises:
        EngineError: they are not finite.
    """
    top = sequence.request.prompt_logprobs
    prompt = sequence.request.prompt_ids
    first = max(span.start, sequence.prefilled)
    last = min(span.start + span.count, len(prompt) - 1)
    if top is None or first >= last:
        return None
    scores = []
    for start in range(first, last, forward.wanted):
        group = range(start, min(start + forward.wanted, last))
        logits = forward.logits([position - span.start for position in group])
        if not np.isfinite(logits.max()):
            raise EngineError("the model's output is not finite", code="engine_error")
        scores += [
            log_probabilities(row, prompt[position + 1], top)
            for position, row in zip(group, logits, strict=True)
        ]
    ids = prompt[first + 1 : last + 1]
    return PromptLogprobs(sequence.request.id, first + 1, ids, tuple(scores))
