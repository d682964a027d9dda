"""How likely the model finds a prompt, token by token."""

import torch

from neuron.engines.base import PromptLogprobs, TokenLogprobs
from neuron.engines.exllamav2.failures import NotFiniteError
from neuron.engines.exllamav2.generator import PagedGenerator
from neuron.engines.exllamav2.sequence import Sequence


def score_prompt(
    generator: PagedGenerator, sequence: Sequence, budget: int
) -> PromptLogprobs | None:
    """Compute at most `budget` more tokens of the prompt, with logits after each.

    None where nothing new is known, since it was given before the sequence was
    preempted.

    Raises:
        EngineError: they are not finite.
    """
    prompt, top = sequence.request.prompt_ids, sequence.request.prompt_logprobs
    assert top is not None
    start = sequence.run.computed
    tokens = prompt[start : min(start + budget, len(prompt) - 1)]
    scores: list[TokenLogprobs] = []
    for logits in generator.score(sequence.run, tokens):
        following = prompt[start + 1 + len(scores) :][: len(logits)]
        scores += _scores(logits[:, : generator.vocab], following, top)
    sequence.run.advance(tokens)
    known = max(0, sequence.prefilled - start)
    first = start + known + 1
    new = tuple(scores[known:])
    if not new:
        return None
    ids = prompt[first : first + len(new)]
    return PromptLogprobs(sequence.request.id, first, ids, new)


def _scores(
    logits: torch.Tensor, chosen: tuple[int, ...], top: int
) -> list[TokenLogprobs]:
    """Of the tokens `chosen`, from logits [tokens, vocab].

    Raises:
        EngineError: the logits are not finite.
    """
    values = logits.float().log_softmax(-1)
    ids = torch.tensor(chosen, device=values.device)[:, None]
    own = values.gather(1, ids)[:, 0]
    likeliest = values.topk(min(top, values.shape[1]))
    if not bool(values.amax(-1).isfinite().all()):
        raise NotFiniteError
    return [
        TokenLogprobs(value, tuple(zip(top_ids, top_values, strict=True)))
        for value, top_ids, top_values in zip(
            own.tolist(),
            likeliest.indices.tolist(),
            likeliest.values.tolist(),
            strict=True,
        )
    ]
