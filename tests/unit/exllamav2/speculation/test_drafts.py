"""A model that drafts: what it misses, lacks or fails at."""

from pathlib import Path

import pytest

from tests.support import cuda_stack

cuda_stack.require("torch", "triton", "exllamav2")
cuda_stack.use_cpu_extension()

from neuron.engines.base import SamplingParams
from neuron.engines.exllamav2.levers import Levers
from neuron.engines.exllamav2.speculation.draft_proposer import FAR_BEHIND
from tests.unit.exllamav2.speculation.support import (
    DRAFT,
    PROMPT,
    TIMEOUT,
    Driving,
    guesses,
    made,
)
from tests.unit.exllamav2.test_driver import assert_close
from tests.unit.exllamav2.torch_engine import assert_page_table_holds, driving
from tests.unit.reference.support import Outputs, generate, request

pytestmark = TIMEOUT


def test_a_draft_that_fails_costs_a_step(by_itself: Driving) -> None:
    """As the model would: who has no token yet is computed again."""
    with by_itself() as driver, pytest.MonkeyPatch.context() as patch:
        tokens = generate(driver, request("a", PROMPT, 20))["a"].tokens
        driver.submit(request("a", PROMPT, 20))
        driver.submit(request("b", PROMPT[4:], 20))

        def fail(*_: object) -> None:
            raise RuntimeError("an illegal instruction")

        with patch.context() as broken:
            broken.setattr(driver.generator, "draft", fail)
            outputs = Outputs()
            outputs.step(driver)
        outputs.run(driver)
        assert outputs["a"].tokens == tokens
        assert outputs["b"].reason == "length"
        assert_page_table_holds(driver)


@pytest.mark.parametrize("vocab", [64, 128])
def test_tokens_that_only_one_has(folder: Path, tmp_path: Path, vocab: int) -> None:
    draft = made(tmp_path / "draft", vocab=vocab)
    asked = [
        request("a", [*PROMPT, 95, 90, 70], 80),
        request("b", [95], 30, sampling=SamplingParams(temperature=2, seed=1)),
    ]
    with driving(folder) as plain:
        expected = generate(plain, *asked)
    with driving(folder, options=DRAFT, draft=draft) as driver:
        found = generate(driver, *asked)
        assert sum(guesses(driver)) > 0
    for name, output in found.items():
        assert_close(output, expected[name])


def test_a_draft_has_not_missed_what_passed_meanwhile(folder: Path) -> None:
    longer = 3 * FAR_BEHIND
    with driving(
        folder,
        options=DRAFT,
        draft=folder,
        levers=Levers(speculate_up_to=1),
    ) as driver:
        driver.submit(request("a", PROMPT, longer + 60))
        driver.submit(request("b", PROMPT[3:], longer))
        outputs = Outputs()
        while not outputs or outputs.get("b") is None or not outputs["b"].reason:
            outputs.step(driver)
        right, wrong = guesses(driver)
        outputs.run(driver)
        again = generate(driver, request("c", [*PROMPT, *outputs["a"].tokens], 40))
        assert guesses(driver)[0] > right + 30 + 20
        assert guesses(driver)[1] == wrong
        assert len(again["c"].tokens) == 40
