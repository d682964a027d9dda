"""The judge of the GPU engine: what it lets pass, and what it does not."""

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest

from neuron.engines.base import TokenLogprobs
from tests.gpu.agreement import Bound, Reference
from tests.gpu.models import write_tiny
from tests.gpu.prompts import prompt_of
from tests.unit.reference.support import Output, generate, request

BOUND = Bound(mean=0.01, most=0.02)
PROMPT = prompt_of(40)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_tiny(tmp_path_factory.mktemp("tiny") / "model")


@pytest.fixture(scope="module")
def reference() -> Iterator[Reference]:
    reference = Reference()
    yield reference
    reference.close()


@pytest.fixture
def output(reference: Reference, folder: Path) -> Output:
    wanted = request("a", PROMPT, 12, top_logprobs=0, prompt_logprobs=0)
    return generate(reference.of(folder), wanted)["a"]


def test_the_same_engine_agrees(
    reference: Reference, folder: Path, output: Output
) -> None:
    found = reference.judge(folder, PROMPT, output, BOUND)
    assert len(found.errors) == len(PROMPT) - 1 + 12
    assert found.check(BOUND)["max_error"] < 1e-4


def test_one_log_probability_that_is_off_is_found(
    reference: Reference, folder: Path, output: Output
) -> None:
    said = output.logprobs[5]
    assert said is not None
    output.logprobs[5] = TokenLogprobs(said.chosen + 0.05)
    found = reference.judge(folder, PROMPT, output, BOUND)
    with pytest.raises(AssertionError, match=r"0\.0500 nats is over 0\.02"):
        found.check(BOUND)
    with pytest.raises(AssertionError, match="mean"):
        found.check(replace(BOUND, mean=1e-6))


def test_one_of_the_prompt_s_is_found(
    reference: Reference, folder: Path, output: Output
) -> None:
    output.scores[3] = TokenLogprobs(output.scores[3].chosen - 0.05)
    with pytest.raises(AssertionError, match="nats"):
        reference.judge(folder, PROMPT, output, BOUND).check(BOUND)


def test_a_token_that_was_much_less_likely_is_found(
    reference: Reference, folder: Path, output: Output
) -> None:
    output.tokens[3] = (output.tokens[3] + 1) % 8000
    with pytest.raises(AssertionError, match="token 3 is"):
        reference.judge(folder, PROMPT, output, BOUND)
    # Where the bound is as wide as that, the two were about as likely.
    reference.judge(folder, PROMPT, output, Bound(mean=99, most=99))
