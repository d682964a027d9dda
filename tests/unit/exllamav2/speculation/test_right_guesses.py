"""Guesses that come true."""

from collections.abc import Sequence
from functools import partial

import pytest

from tests.support import cuda_stack

cuda_stack.require("torch", "triton", "exllamav2")
cuda_stack.use_cpu_extension()

import torch

from neuron.engines.base import EngineError, SamplingParams, TokenEvent
from neuron.engines.exllamav2.sampling.batch import Sampled
from neuron.engines.exllamav2.sampling.choosing import Chooser, Place
from tests.unit.exllamav2.speculation.support import (
    GUESSES,
    PROMPT,
    TIMEOUT,
    Driving,
    guesses,
)
from tests.unit.exllamav2.torch_engine import assert_page_table_holds
from tests.unit.reference.support import Outputs, generate, request
from tests.unit.reference.test_constraints import Steps

pytestmark = TIMEOUT


def test_all_of_them_count(by_itself: Driving) -> None:
    with by_itself() as driver:
        output = generate(driver, request("a", PROMPT, 61))["a"]
        right, wrong = guesses(driver)
        # The first step prefills, too; each of the others gives one token more.
        assert driver.stats().steps == -(-61 // (1 + GUESSES))
    assert wrong == 0
    assert right == 61 - driver.stats().steps
    assert len(output.tokens) == 61


def test_several_events_in_a_step(by_itself: Driving) -> None:
    with by_itself() as driver:
        driver.submit(request("a", PROMPT, 20))
        events = [e for e in driver.step() if isinstance(e, TokenEvent)]
    assert len(events) == 1 + GUESSES


@pytest.mark.parametrize("position", range(1, 12))
def test_a_stop_among_them(by_itself: Driving, position: int) -> None:
    asked = partial(request, "a", PROMPT, 40, sampling=SamplingParams(seed=5))
    with by_itself() as driver:
        tokens = generate(driver, asked())["a"].tokens
        stop = tokens[position]
        output = generate(driver, asked(stop_ids=frozenset({stop})))["a"]
        assert output.tokens == tokens[: tokens.index(stop) + 1]
        assert output.reason == "stop"
        assert driver.stats().kv_pages_used == 0
        assert_page_table_holds(driver)


def test_a_constraint_that_ends_among_them(by_itself: Driving) -> None:
    with by_itself() as driver:
        tokens = generate(driver, request("a", PROMPT, 7))["a"].tokens
        constraint = Steps([{token, 90} for token in tokens])
        bound = request("b", PROMPT, 40, constraint=constraint)
        output = generate(driver, bound)["b"]
    assert output.tokens == tokens
    assert output.reason == "stop"
    assert constraint.accepted == tokens


def test_a_constraint_that_lets_go_among_them(by_itself: Driving) -> None:
    """From there on, what is left of the guesses is looked at in one go."""
    with by_itself() as driver, pytest.MonkeyPatch.context() as patch:
        places: list[int] = []
        choose = Chooser.choose

        def counted(
            chooser: Chooser, logits: torch.Tensor, wanted: Sequence[Place]
        ) -> list[Sampled | EngineError]:
            places.append(len(wanted))
            return choose(chooser, logits, wanted)

        patch.setattr(Chooser, "choose", counted)
        free = generate(driver, request("a", PROMPT, 15))["a"].tokens
        assert places == [1 + GUESSES] * 3
        places.clear()
        opening = Steps([{token} for token in free[:2]] + [()] * 90, free_from=2)
        bound = request("b", PROMPT, 15, constraint=opening)
        assert generate(driver, bound)["b"].tokens == free
    assert places == [1, 1, GUESSES - 1, 1 + GUESSES, 1 + GUESSES]
    assert opening.accepted == free[:2]


def test_one_is_cancelled_between_steps(by_itself: Driving) -> None:
    with by_itself() as driver:
        alone = generate(driver, request("a", PROMPT, 60))["a"].tokens
        driver.submit(request("a", PROMPT, 60))
        driver.submit(request("b", PROMPT[4:], 60))
        outputs = Outputs()
        for _ in range(3):
            outputs.step(driver)
        driver.cancel("b")
        assert_page_table_holds(driver)
        outputs.run(driver)
        assert outputs["a"].tokens == alone
        assert driver.stats().kv_pages_used == 0
