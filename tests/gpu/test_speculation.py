"""Guessed tokens are the ones that would have come anyway, or are thrown away."""

from collections.abc import Callable
from pathlib import Path

import pytest

from neuron.engines.base import Engine
from tests.gpu.agreement import FP16, Reference
from tests.gpu.loads import loaded
from tests.gpu.prompts import prompt_of
from tests.unit.reference.support import generate, request

TOKENS = 80
GUESSERS = {
    "itself": {"seed": 0},
    "another": {"seed": 5, "layers": 1},
}
"""Changes of the plain model that make the draft: always right, and nearly never."""


def _check(engine: Engine, folder: Path, reference: Reference) -> None:
    prompts = {f"r{n}": prompt_of(50 + 220 * n, seed=200 + n) for n in range(3)}
    # What was said already comes again, for who guesses by that.
    prompts["r3"] = 3 * prompts["r0"]
    wanted = [request(k, p, TOKENS, top_logprobs=0) for k, p in prompts.items()]
    for name, output in generate(engine, *wanted).items():
        assert len(output.tokens) == TOKENS
        assert output.reason == "length"
        reference.judge(folder, prompts[name], output, FP16).check(FP16)


def test_by_what_was_said(
    engine_class: type[Engine], tiny: Callable[..., Path], reference: Reference
) -> None:
    with loaded(engine_class, tiny(), slots=4, ngram=True, draft_tokens=4) as engine:
        _check(engine, tiny(), reference)
        assert engine.stats().accepted_draft_tokens


@pytest.mark.parametrize("guesser", GUESSERS)
def test_by_a_smaller_model(
    engine_class: type[Engine],
    tiny: Callable[..., Path],
    reference: Reference,
    guesser: str,
) -> None:
    draft = tiny(**GUESSERS[guesser])
    with loaded(engine_class, tiny(), draft=draft, slots=4, draft_tokens=4) as engine:
        _check(engine, tiny(), reference)
        if guesser == "itself":
            stats = engine.stats()
            assert stats.accepted_draft_tokens > 4 * stats.rejected_draft_tokens
            generate(engine, request("alone", prompt_of(30, seed=9), TOKENS))
            assert engine.stats().steps - stats.steps < TOKENS // 2
