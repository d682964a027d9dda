"""Guesses that come to nothing."""

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from tests.support import cuda_stack

cuda_stack.require("torch", "triton", "exllamav2")
cuda_stack.use_cpu_extension()

from neuron.engines.base import SamplingParams
from tests.goldens.tiny_models import tensors, write_folder
from tests.unit.exllamav2.speculation.support import (
    CONTEXT,
    DRAFT,
    NGRAM,
    PAGE,
    PROMPT,
    TIMEOUT,
    Driving,
    guesses,
)
from tests.unit.exllamav2.test_driver import assert_close
from tests.unit.exllamav2.torch_engine import assert_page_table_holds, driving
from tests.unit.reference.support import generate, request, tiny

pytestmark = TIMEOUT


@pytest.fixture(scope="module")
def stranger(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A model that knows nothing of the other one."""
    model = replace(tiny("llama-gqa-tied-linear"), name="stranger")
    config = model.config | {"max_position_embeddings": CONTEXT}
    return write_folder(tmp_path_factory.mktemp("odd"), config, tensors(model))


def test_they_are_most(folder: Path, stranger: Path) -> None:
    asked = request("a", PROMPT, 60, sampling=SamplingParams(seed=1))
    with driving(folder) as plain:
        expected = generate(plain, asked)["a"]
    with driving(folder, options=DRAFT, draft=stranger) as driver:
        found = generate(driver, asked)["a"]
        right, wrong = guesses(driver)
    assert wrong > 9 * right
    assert_close(found, expected)


def test_what_they_were_written_over_is_not_found_again(folder: Path) -> None:
    """A page that is taken and not reached gets back the name of its contents,
    which must not be once a guess was written there."""
    with driving(
        folder, cache_tokens=6 * PAGE, page_size=PAGE, options=NGRAM
    ) as driver:
        known = request("known", PROMPT * 3, 1)
        expected = generate(driver, known)["known"].tokens
        repeating = [5, 6, 7] * 5 + [5]  # its page is full after a token
        generate(driver, request("repeating", repeating, 3))
        assert sum(guesses(driver)) > 0
        assert_page_table_holds(driver)
        assert generate(driver, known)["known"].tokens == expected


def test_one_that_makes_no_sense_of_anything(folder: Path, other: Path) -> None:
    """No request fails for a guess that it would never have come to."""
    asked = [request("a", PROMPT, 60), request("b", PROMPT[2:], 60)]
    with driving(folder, page_size=PAGE) as plain:
        expected = generate(plain, *asked)
        said = {t for output in expected.values() for t in output.tokens}
    with (
        driving(folder, page_size=PAGE, options=DRAFT, draft=other) as driver,
        pytest.MonkeyPatch.context() as patch,
    ):
        model, draft = driver.generator.model, driver.generator.draft_model
        unsaid = next(t for t in range(96) if t not in said and t not in PROMPT)
        patch.setattr(model, "poison", unsaid)
        forward = draft.forward_chunk

        def guess(**arguments: Any) -> dict[str, Any]:
            result = forward(**arguments)
            if "logits" in result and len(model.calls) % 3 == 0:
                result["logits"][..., unsaid] = 1000
            return dict(result)

        patch.setattr(draft, "forward_chunk", guess)
        found = generate(driver, *asked)
        for tensor in driver.generator.cache.all_tensors():
            assert bool(tensor.isfinite().all())
    for name, output in found.items():
        assert_close(output, expected[name])


def test_one_that_is_right_and_makes_no_sense(by_itself: Driving) -> None:
    with by_itself() as driver, pytest.MonkeyPatch.context() as patch:
        tokens = generate(driver, request("a", PROMPT, 40))["a"].tokens
        driver.generator.reset_page_table()
        patch.setattr(driver.generator.model, "poison", tokens[10])
        output = generate(driver, request("a", PROMPT, 40))["a"]
    assert output.tokens == tokens[: tokens.index(tokens[10]) + 1]
    assert "not finite" in str(output.error)
