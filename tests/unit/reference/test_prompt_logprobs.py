"""Log-probabilities of a prompt's tokens."""

from pathlib import Path

import numpy as np
import pytest

from neuron.engines.base import EngineError, PromptLogprobs
from neuron.engines.reference import scheduler
from neuron.engines.reference.cache import PAGE
from neuron.engines.reference.engine import ReferenceEngine
from tests.unit.reference.support import Outputs, generate, logits_of, request

PROMPT = tuple((7 * token * token + 3) % 90 for token in range(3 * PAGE + 5))


def expected(folder: Path, prompt: tuple[int, ...]) -> list[float]:
    logits = logits_of(folder, prompt, [len(prompt)], range(9)).astype(np.float64)
    logits -= np.log(np.exp(logits).sum(axis=1, keepdims=True))
    return [logits[i, token] for i, token in enumerate(prompt[1:])]


@pytest.mark.parametrize("chunk", [128, 16, 7, 1])
def test_every_token_but_the_first(
    engine: ReferenceEngine,
    long_folder: Path,
    chunk: int,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(scheduler, "CHUNK", chunk)
    output = generate(engine, request("a", PROMPT, 3, prompt_logprobs=2))["a"]
    assert tuple(output.scored_ids) == PROMPT[1:]
    chosen = [score.chosen for score in output.scores]
    np.testing.assert_allclose(chosen, expected(long_folder, PROMPT), rtol=1e-6)
    for token, score in zip(output.scored_ids, output.scores, strict=True):
        assert len(score.top) == 2
        assert score.top[0][1] >= score.top[1][1]
        assert score.chosen <= score.top[0][1]
        assert dict(score.top).get(token, score.chosen) == score.chosen


def test_the_same_bits_as_when_they_are_generated(engine: ReferenceEngine) -> None:
    story = generate(engine, request("a", PROMPT[:5], 30, top_logprobs=3))["a"]
    whole = (*PROMPT[:5], *story.tokens)
    scored = generate(engine, request("b", whole, 1, prompt_logprobs=3))["b"]
    assert scored.scores[4:] == story.logprobs


def test_cached_prefix_is_computed_anew_for_them(engine: ReferenceEngine) -> None:
    first = generate(engine, request("a", PROMPT, 2, prompt_logprobs=1))["a"]
    again = generate(engine, request("b", PROMPT, 2, prompt_logprobs=1))["b"]
    plain = generate(engine, request("c", PROMPT, 2))["c"]
    assert (first.cached, again.cached, plain.cached) == (0, 0, 3 * PAGE)
    assert first.scores == again.scores
    assert first.tokens == again.tokens == plain.tokens
    assert not plain.scores


def test_nothing_but_them(engine: ReferenceEngine) -> None:
    output = generate(engine, request("a", PROMPT, 0, prompt_logprobs=0))["a"]
    assert (output.tokens, output.reason) == ([], "length")
    assert len(output.scores) == len(PROMPT) - 1
    assert {score.top for score in output.scores} == {()}
    assert engine.stats().kv_pages_used == 0
    assert engine.stats().generated_tokens == 0


def test_nothing_to_score(engine: ReferenceEngine) -> None:
    output = generate(engine, request("a", PROMPT[:1], 0, prompt_logprobs=1))["a"]
    assert (output.scores, output.prefilled, output.reason) == ([], [1], "length")


def test_whole_pages_and_no_token_after_them(engine: ReferenceEngine) -> None:
    prompt = PROMPT[: 2 * PAGE]
    outputs = generate(
        engine,
        request("a", prompt, 0, prompt_logprobs=0),
        request("b", prompt, 1, prompt_logprobs=0),
    )
    assert outputs["a"].scores == outputs["b"].scores


def test_they_come_before_the_first_token(engine: ReferenceEngine) -> None:
    engine.submit(request("a", PROMPT, 2, prompt_logprobs=1))
    kinds = [type(event).__name__ for event in engine.step()]
    assert kinds == ["Started", "PromptLogprobs", "PrefillProgress", "TokenEvent"]


def test_some_were_known_before_a_preemption(
    engine: ReferenceEngine, monkeypatch: pytest.MonkeyPatch
) -> None:
    whole = generate(engine, request("a", PROMPT, 2, prompt_logprobs=1))["a"]
    monkeypatch.setattr(scheduler, "CHUNK", 20)
    engine.submit(request("b", PROMPT, 2, prompt_logprobs=1))
    outputs = Outputs()
    outputs.step(engine)
    assert engine._loaded is not None
    schedule = engine._loaded.scheduler
    assert schedule._prefilling is not None
    schedule._preempt(schedule._prefilling)
    events = outputs.step(engine)
    assert [type(event) for event in events][:1] == [PromptLogprobs]
    outputs.run(engine)
    assert outputs["b"].scores == whole.scores
    assert outputs["b"].tokens == whole.tokens


def test_refused(engine: ReferenceEngine) -> None:
    with pytest.raises(EngineError, match="prompt_logprobs: -1 is less than 0"):
        engine.submit(request("a", PROMPT, 1, prompt_logprobs=-1))
    with pytest.raises(EngineError, match="max_new_tokens: 0 is less than 1"):
        engine.submit(request("a", PROMPT, 0))
    with pytest.raises(EngineError, match="max_new_tokens: -1 is less than 0"):
        engine.submit(request("a", PROMPT, -1, prompt_logprobs=0))
