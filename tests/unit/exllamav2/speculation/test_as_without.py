"""With guesses at what comes next, every request gets what it gets without them."""

from collections.abc import Iterator
from functools import partial
from pathlib import Path

import pytest

from tests.support import cuda_stack

cuda_stack.require("torch", "triton", "exllamav2")
cuda_stack.use_cpu_extension()

from hypothesis import HealthCheck, given, settings, strategies as st

from neuron.engines.base import GenerationRequest, SamplingParams
from tests.unit.exllamav2.speculation.support import (
    DRAFT,
    NGRAM,
    PAGE,
    PROMPT,
    TIMEOUT,
    Driving,
    guesses,
    made,
)
from tests.unit.exllamav2.test_driver import assert_close, story
from tests.unit.exllamav2.test_driver_preemption import requests
from tests.unit.exllamav2.torch_engine import (
    GenerationDriver,
    assert_page_table_holds,
    driving,
)
from tests.unit.reference.support import BUNDLED, Outputs, generate, request
from tests.unit.reference.test_constraints import Opening, Steps

pytestmark = TIMEOUT

SMALL = 8


def variety() -> list[GenerationRequest]:
    """One request for each thing that matters for a token."""
    sampled = SamplingParams(temperature=0.8, seed=7)
    cut = SamplingParams(top_k=20, top_p=0.9, min_p=0.02, seed=3)
    penalized = SamplingParams(
        temperature=0, repetition_penalty=1.2, frequency_penalty=0.3
    )
    biased = SamplingParams(
        seed=4, presence_penalty=0.4, logit_bias={5: 3.0, 17: -2.0, 60: 2.5}
    )
    return [
        request("greedy", PROMPT, 60, top_logprobs=2),
        request("sampled", PROMPT[:7], 60, sampling=sampled),
        request("cut", PROMPT[3:], 45, sampling=cut, top_logprobs=0),
        request("penalized", PROMPT[5:], 50, sampling=penalized),
        request("biased", PROMPT[1:], 40, sampling=biased),
        request("stopped", PROMPT, 80, sampling=sampled, min_new_tokens=9,
                stop_ids=frozenset(range(0, 96, 4))),
        request("scored", PROMPT, 30, prompt_logprobs=1),
        request("single", [9], 30),
    ]  # fmt: skip


def test_whatever_is_asked(folder: Path, guessing: Driving) -> None:
    with driving(folder, slots=8, page_size=PAGE) as plain:
        expected = generate(plain, *variety())
    with guessing(folder, slots=8, page_size=PAGE) as driver:
        found = generate(driver, *variety())
        assert_page_table_holds(driver)
        assert sum(guesses(driver)) > 0
        assert driver.stats().generated_tokens == plain.stats().generated_tokens
        assert driver.stats().kv_pages_used == 0
    assert found.keys() == expected.keys()
    for name, output in found.items():
        assert_close(output, expected[name])


def test_stories() -> None:
    asked = [
        story("Once upon a time", "greedy", 90, top_logprobs=1),
        story("Tom saw a cat", "sampled", 60,
              sampling=SamplingParams(temperature=0.5, seed=7)),
        story("The cat sat. The cat sat. The cat", "again", 60),
    ]  # fmt: skip
    with driving(BUNDLED) as plain:
        expected = generate(plain, *asked)
    for options, draft in ((NGRAM, None), (DRAFT, BUNDLED)):
        with driving(BUNDLED, options=options, draft=draft) as driver:
            found = generate(driver, *asked)
            assert guesses(driver)[0] > 0
            assert driver.stats().steps < plain.stats().steps
        for name, output in found.items():
            assert_close(output, expected[name])


def test_with_hardly_any_pages(folder: Path, guessing: Driving) -> None:
    asked = [request(name, (*PROMPT, ord(name) % 90), 150) for name in "abc"]
    with driving(folder, page_size=PAGE) as plain:
        expected = generate(plain, *asked)
    with guessing(folder, cache_tokens=13 * PAGE, page_size=PAGE) as driver:
        found = generate(driver, *asked)
        assert driver.stats().preemptions > 0
        assert_page_table_holds(driver)
    for name, output in found.items():
        assert_close(output, expected[name])


def test_what_was_said_is_found_again(folder: Path, guessing: Driving) -> None:
    first = request("first", PROMPT, 100)
    with driving(folder, page_size=PAGE) as plain:
        said = generate(plain, first)["first"].tokens
        second = request("second", [*PROMPT, *said, 7, 8], 50)
        expected = generate(plain, second)["second"]
    with guessing(folder, page_size=PAGE) as driver:
        assert generate(driver, first)["first"].tokens == said
        found = generate(driver, second)["second"]
    assert_close(found, expected)
    assert found.cached is not None
    assert found.cached >= (len(PROMPT) + 99) // PAGE * PAGE


def test_up_to_the_end_of_the_context(tmp_path: Path, guessing: Driving) -> None:
    """No pass goes on to positions for which there are no rotations."""
    folder = made(tmp_path / "short", context=7 * PAGE)
    asked = [
        request("a", PROMPT, 7 * PAGE - len(PROMPT)),
        request("b", PROMPT[:9], 7 * PAGE - 9),
    ]
    with driving(folder, page_size=PAGE) as plain:
        expected = generate(plain, *asked)
    with guessing(folder, page_size=PAGE) as driver:
        found = generate(driver, *asked)
        assert guesses(driver)[0] > 0
    for name, output in found.items():
        assert_close(output, expected[name])


@pytest.mark.parametrize("count", range(1, 13))
def test_exactly_as_many_as_asked(by_itself: Driving, folder: Path, count: int) -> None:
    """The library ends so many tokens early as it may guess in a step."""
    with by_itself() as driver:
        output = generate(driver, request("a", PROMPT, count))["a"]
    assert len(output.tokens) == count
    assert output.reason == "length"


def test_a_constraint(folder: Path, guessing: Driving) -> None:
    steps = [{40 + number % 50, 41, 5} for number in range(60)]
    samplings = [SamplingParams(temperature=0), SamplingParams(seed=2)]
    for sampling in samplings:
        outputs = []
        for make in (driving, guessing):
            constraint = Steps(steps)
            bound = request("b", PROMPT, 90, constraint=constraint,
                            sampling=sampling)  # fmt: skip
            with make(folder, page_size=PAGE) as driver:
                found = generate(driver, request("a", PROMPT, 50), bound)
            assert constraint.accepted == found["b"].tokens
            assert found["b"].reason == "stop"
            outputs.append(found)
        for name in "ab":
            assert_close(outputs[1][name], outputs[0][name])


@pytest.mark.parametrize("odd", [1, 3, 5])
def test_a_constraint_that_lets_go(folder: Path, guessing: Driving, odd: int) -> None:
    """Within the guesses of a step, too."""
    for sampling in (SamplingParams(temperature=0), SamplingParams(seed=2)):
        outputs = []
        for make, lets_go in ((driving, False), (driving, True), (guessing, True)):
            constraint = Opening(odd, lets_go=lets_go)
            bound = request("a", PROMPT, 50, constraint=constraint,
                            sampling=sampling)  # fmt: skip
            with make(folder, page_size=PAGE) as driver:
                outputs.append(generate(driver, bound)["a"])
            assert len(constraint.accepted) == (odd if lets_go else 50)
        for found in outputs[1:]:
            assert_close(found, outputs[0])


@pytest.fixture
def pair(
    folder: Path, other: Path
) -> Iterator[tuple[GenerationDriver, GenerationDriver, GenerationDriver]]:
    """One without guesses, and two with hardly any room that guess."""
    tight = partial(driving, folder, cache_tokens=9 * SMALL, page_size=SMALL, chunk=24)
    with (
        driving(folder, cache_tokens=512, page_size=SMALL, chunk=24) as plain,
        tight(options=NGRAM) as ngram,
        tight(options=DRAFT, draft=other) as drafting,
    ):
        yield plain, ngram, drafting


@settings(
    max_examples=8,
    deadline=None,
    suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow],
)
@given(wanted=requests(), gap=st.integers(0, 9), cancelled=st.booleans())
def test_nobody_can_tell(
    pair: tuple[GenerationDriver, GenerationDriver, GenerationDriver],
    wanted: list[GenerationRequest],
    gap: int,
    cancelled: bool,
) -> None:
    def outputs_of(driver: GenerationDriver) -> Outputs:
        outputs = Outputs()
        for each in wanted:
            driver.submit(each)
            for _ in range(gap):
                outputs.step(driver)
                assert_page_table_holds(driver)
        if cancelled:
            driver.cancel(wanted[0].id)
            assert_page_table_holds(driver)
        while driver.has_work():
            outputs.step(driver)
            assert_page_table_holds(driver)
        assert driver.stats().kv_pages_used == 0
        return outputs

    plain, *others = map(outputs_of, pair)
    for each in wanted[1 if cancelled else 0 :]:
        for found in others:
            assert_close(found[each.id], plain[each.id])
