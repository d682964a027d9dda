"""The library's own forward pass, from its kernels, against the CPU engine's."""

from collections.abc import Sequence
from typing import Any, Final

import numpy as np
import pytest

from neuron.text.tokenizer import TextTokenizer
from tests.gpu.agreement import TRAINED
from tests.support import cuda_stack
from tests.support.triton_interpreter import interpreter
from tests.unit.reference import support

cuda_stack.require("torch", "triton", "exllamav2")

from tests.unit.exllamav2 import model_checks
from tests.unit.exllamav2.model_checks import FOLDER

pytestmark = pytest.mark.timeout(cuda_stack.BUILD_DEADLINE_S + 60)

STORY: Final = (
    "Once upon a time, there was a little girl named Lily. She loved to play outside "
    "in the park with her friends. One day, she saw a big dog."
)


@pytest.fixture(scope="module")
def prompt() -> list[int]:
    return TextTokenizer.load(FOLDER).encode(STORY, add_bos=True)


def check_logits(prompt: Sequence[int], read: int, found: Any) -> None:
    """Log-probabilities of the likeliest tokens after those that were not but read."""
    wanted = support.logits_of(FOLDER, prompt, [len(prompt)], range(8))[read:]
    likeliest = np.argsort(-wanted)[:, :20]
    off = np.abs(
        np.take_along_axis(_log_probabilities(found), likeliest, 1)
        - np.take_along_axis(_log_probabilities(wanted), likeliest, 1)
    )
    assert off.mean() <= TRAINED.mean
    assert off.max() <= TRAINED.most


def _log_probabilities(logits: Any) -> Any:
    logits = logits - logits.max(axis=1, keepdims=True)
    return logits - np.log(np.exp(logits).sum(axis=1, keepdims=True))


@pytest.mark.parametrize(("read", "count"), [(0, 16), (4, 1), (34, 2)])
def test_logits_are_those_of_the_cpu_engine(
    prompt: list[int], read: int, count: int
) -> None:
    """Of many tokens, over which matrices are unpacked, and of few."""
    prompt = prompt[: read + count]
    check_logits(prompt, read, model_checks.logits_of(prompt[:read], prompt[read:]))


def test_attention_by_our_kernels_is_as_good(prompt: list[int]) -> None:
    prompt, read = prompt[:13], 12
    with interpreter("tests.unit.exllamav2.model_checks") as process:
        found = process.run("logits_of", prompt[:read], prompt[read:])
    check_logits(prompt, read, found)


def test_the_bundled_model_tells_the_same_story(prompt: list[int]) -> None:
    story = support.request("a", prompt, 24)
    with support.loaded(FOLDER, slots=1) as engine:
        wanted = support.generate(engine, story)["a"].tokens
    assert model_checks.continuation_of(prompt, 24) == wanted
