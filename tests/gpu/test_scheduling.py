"""Batches, the prefix cache, preemption, constraints: on a GPU as on a CPU."""

from collections.abc import Callable
from math import exp, fsum
from pathlib import Path

import pytest

from neuron.engines.base import Engine, SamplingParams
from neuron.engines.exllamav2.levers import Levers
from tests.gpu.agreement import FP16, Reference
from tests.gpu.loads import loaded
from tests.gpu.models import TINY
from tests.gpu.prompts import prompt_of
from tests.unit.reference.support import Outputs, generate, request
from tests.unit.reference.test_constraints import Steps

PAGE = 256
CHUNK = Levers().prefill_chunk
"""Of a prompt, while others decode."""


def test_company_changes_no_text(
    engine: Engine, tiny: Callable[..., Path], reference: Reference
) -> None:
    """Prompts of several lengths, prefilled while others decode."""
    prompts = {f"r{n}": prompt_of(20 + 130 * n, seed=n) for n in range(7)}
    requests = [
        request(name, prompt, 30, top_logprobs=0) for name, prompt in prompts.items()
    ]
    outputs = generate(engine, *requests)
    for name, prompt in prompts.items():
        reference.judge(tiny(), prompt, outputs[name], FP16).check(FP16)


def test_alone_and_in_company(engine: Engine) -> None:
    """The same request's log-probabilities, as long as its text is the same."""
    wanted = request("a", prompt_of(100, seed=50), 40, top_logprobs=0)
    others = [request(f"o{n}", prompt_of(60, seed=60 + n), 60) for n in range(3)]
    alone = generate(engine, wanted)["a"]
    among = generate(engine, wanted, *others)["a"]
    pairs = zip(alone.tokens, among.tokens, strict=True)
    same = next((n for n, (a, b) in enumerate(pairs) if a != b), len(alone.tokens))
    assert same
    for one, other in zip(alone.logprobs[:same], among.logprobs[:same], strict=True):
        assert one is not None
        assert other is not None
        assert one.chosen == pytest.approx(other.chosen, abs=2 * FP16.most)


def test_a_prefix_is_computed_once(
    engine: Engine, tiny: Callable[..., Path], reference: Reference
) -> None:
    prompt = prompt_of(700, seed=70)
    first = generate(engine, request("a", prompt, 20, top_logprobs=0))["a"]
    again = generate(engine, request("b", prompt, 20, top_logprobs=0))["b"]
    assert first.cached == 0
    assert again.cached is not None
    assert again.cached >= 2 * PAGE
    for output in (first, again):
        reference.judge(tiny(), prompt, output, FP16).check(FP16)


def test_a_preempted_request_goes_on_where_it_was(
    engine_class: type[Engine], tiny: Callable[..., Path], reference: Reference
) -> None:
    """Those that start in two pages each, and do not fit once they need four."""
    prompts = {f"r{n}": prompt_of(200, seed=80 + n) for n in range(4)}
    requests = [
        request(name, prompt, 700, top_logprobs=0) for name, prompt in prompts.items()
    ]
    with loaded(engine_class, tiny(), slots=4, cache_tokens=8 * PAGE) as engine:
        outputs = generate(engine, *requests)
        assert engine.stats().preemptions
    for name, prompt in prompts.items():
        reference.judge(tiny(), prompt, outputs[name], FP16).check(FP16)


@pytest.mark.parametrize("temperature", [0.0, 1.5])
def test_a_constraint_is_kept(engine: Engine, temperature: float) -> None:
    steps = [{5, 6, 7}, {888, 8700}, {9}, set(range(4000, 4030))]
    constraint = Steps(steps, bits=TINY.vocab)
    sampling = SamplingParams(temperature=temperature)
    wanted = request("a", prompt_of(20), 9, sampling=sampling, constraint=constraint)
    output = generate(engine, wanted)["a"]
    assert output.reason == "stop"
    assert all(token in step for token, step in zip(output.tokens, steps, strict=True))
    assert constraint.accepted == output.tokens


def test_log_probabilities_are_a_distribution_s(engine: Engine) -> None:
    vocab = TINY.vocab
    wanted = request("a", prompt_of(40), 2, top_logprobs=vocab)
    output = generate(engine, wanted)["a"]
    for said in output.logprobs:
        assert said is not None
        values = [value for _, value in said.top]
        assert sorted(token for token, _ in said.top) == list(range(vocab))
        assert values == sorted(values, reverse=True)
        assert said.top[0][1] == said.chosen
        assert fsum(map(exp, values)) == pytest.approx(1, abs=1e-3)


def test_who_is_cancelled_leaves_its_pages(engine: Engine) -> None:
    engine.submit(request("a", prompt_of(600, seed=90), 300))
    engine.submit(request("b", prompt_of(50, seed=91), 30))
    outputs = Outputs()
    while "a" not in outputs or len(outputs["a"].tokens) < 5:
        outputs.step(engine)
    engine.cancel("a")
    seen = len(outputs["a"].tokens)
    outputs.run(engine)
    assert len(outputs["a"].tokens) == seen
    assert outputs["b"].reason == "length"
    assert engine.stats().kv_pages_used == 0


def test_a_long_prompt_that_is_cancelled_is_computed_no_further(
    engine: Engine,
) -> None:
    engine.submit(request("short", prompt_of(10, seed=93), 20))
    outputs = Outputs()
    while not outputs or not outputs["short"].tokens:
        outputs.step(engine)
    engine.submit(request("long", prompt_of(1200, seed=92), 20))
    while "long" not in outputs or not outputs["long"].prefilled:
        outputs.step(engine)
    engine.cancel("long")
    outputs.run(engine)
    assert outputs["short"].reason == "length"
    assert len(outputs["long"].prefilled) == 1
    assert outputs["long"].prefilled[0] <= CHUNK
    assert not outputs["long"].tokens
    assert engine.stats().kv_pages_used == 0
