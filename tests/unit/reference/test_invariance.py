"""A request's numbers are the same, to the bit, whatever happens around it."""

from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import pytest
from tokenizers import Tokenizer

from neuron.engines.base import GenerationRequest, SamplingParams
from neuron.engines.reference import attention, scheduler, threads
from neuron.engines.reference.engine import ReferenceEngine
from tests.goldens.tiny_models import TINY_MODELS, TinyModel
from tests.unit.reference.support import (
    BUNDLED,
    GREEDY,
    Output,
    Outputs,
    generate,
    loaded,
    logits_of,
    request,
)

TEXTS = (
    "Once upon a time, there was a little girl named Lily. She loved to play",
    "One day, a boy went to the park with his mom. They saw a big dog and",
    "The sun",
    "Tim and Sam are friends. " * 7,
)


@pytest.fixture(scope="module")
def prompts() -> list[tuple[int, ...]]:
    tokenizer = Tokenizer.from_file(str(BUNDLED / "tokenizer.json"))
    return [tuple(tokenizer.encode(text).ids) for text in TEXTS]


@pytest.fixture
def bundled() -> Iterator[ReferenceEngine]:
    with loaded(BUNDLED, slots=16) as engine:
        yield engine


def watched(name: str, prompt: tuple[int, ...], **fields: object) -> GenerationRequest:
    """With log-probabilities of all logits' order, so that equal means equal bits."""
    return request(name, prompt, 40, top_logprobs=5, **fields)


def same(one: Output, other: Output) -> bool:
    return one.tokens == other.tokens and one.logprobs == other.logprobs


SAMPLINGS = (GREEDY, SamplingParams(temperature=0.9, top_p=0.95, seed=11))


@pytest.mark.parametrize("sampling", SAMPLINGS, ids=["greedy", "seeded"])
def test_alone_and_among_others(
    bundled: ReferenceEngine, prompts: list[tuple[int, ...]], sampling: SamplingParams
) -> None:
    alone = [
        generate(bundled, watched("a", prompt, sampling=sampling))["a"]
        for prompt in prompts
    ]
    crowd = [
        watched(f"{turn}.{index}", prompt, sampling=sampling)
        for turn in range(4)
        for index, prompt in enumerate(prompts)
    ]
    together = generate(bundled, *crowd)
    for name, output in together.items():
        assert same(output, alone[int(name.split(".")[1])])


def test_joining_a_running_batch(
    bundled: ReferenceEngine, prompts: list[tuple[int, ...]]
) -> None:
    alone = [generate(bundled, watched("a", prompt))["a"] for prompt in prompts]
    outputs = Outputs()
    for index, prompt in enumerate(prompts):
        bundled.submit(watched(str(index), prompt))
        for _ in range(3):
            outputs.step(bundled)
    outputs.run(bundled)
    assert all(same(outputs[str(i)], alone[i]) for i in range(len(prompts)))


def test_prefix_found_in_the_cache(
    bundled: ReferenceEngine, prompts: list[tuple[int, ...]]
) -> None:
    first = generate(bundled, watched("a", prompts[3]))["a"]
    again = generate(bundled, watched("a", prompts[3]))["a"]
    assert first.cached == 0
    assert again.cached
    assert same(first, again)


def test_prefix_that_was_generated_not_prefilled(
    bundled: ReferenceEngine, prompts: list[tuple[int, ...]]
) -> None:
    story = generate(bundled, request("a", prompts[0], 60))["a"]
    continued = (*prompts[0], *story.tokens)
    cached = generate(bundled, watched("b", continued))["b"]
    assert cached.cached is not None
    assert cached.cached > len(prompts[0])
    with loaded(BUNDLED) as fresh:
        assert same(generate(fresh, watched("b", continued))["b"], cached)


@pytest.mark.parametrize("chunk", [1, 7, 16, 33])
def test_chunks_of_any_size(
    bundled: ReferenceEngine,
    prompts: list[tuple[int, ...]],
    chunk: int,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    whole = generate(bundled, watched("a", prompts[3]))["a"]
    monkeypatch.setattr(scheduler, "CHUNK", chunk)
    with loaded(BUNDLED, slots=2) as fresh:
        assert same(generate(fresh, watched("a", prompts[3]))["a"], whole)


@pytest.mark.parametrize("numbers", [1, 20_000, 200_000])
def test_any_size_of_scratch(
    bundled: ReferenceEngine,
    prompts: list[tuple[int, ...]],
    numbers: int,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    requests = [watched(str(i), prompt) for i, prompt in enumerate(prompts)]
    ample = generate(bundled, *requests)
    monkeypatch.setattr(attention, "SCRATCH", numbers)
    with loaded(BUNDLED, slots=4) as fresh:
        scarce = generate(fresh, *requests)
    assert all(same(scarce[name], ample[name]) for name in ample)


@pytest.mark.parametrize("count", [1, 2, 5])
def test_any_number_of_threads(
    bundled: ReferenceEngine,
    prompts: list[tuple[int, ...]],
    count: int,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    here = generate(bundled, watched("a", prompts[3]))["a"]
    monkeypatch.setattr(threads, "SHARE", 10_000)
    monkeypatch.setattr(threads, "available_cores", lambda: count)
    with loaded(BUNDLED, slots=2) as fresh:
        assert same(generate(fresh, watched("a", prompts[3]))["a"], here)


@pytest.mark.parametrize("model", TINY_MODELS, ids=lambda model: model.name)
def test_every_kind_of_model_in_any_chunks_on_any_pages(
    model: TinyModel, tiny_folder: Callable[[str], Path]
) -> None:
    folder, prompt = tiny_folder(model.name), model.prompt
    whole = logits_of(folder, prompt, [len(prompt)], [0, 1, 2])
    by_one = logits_of(folder, prompt, [1] * len(prompt), [4, 2, 1])
    uneven = logits_of(folder, prompt, [3, 30, 1, len(prompt) - 34], [0, 2, 3])
    np.testing.assert_array_equal(by_one, whole)
    np.testing.assert_array_equal(uneven, whole)
