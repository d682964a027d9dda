"""With guesses at what comes next, every request gets what it gets without them."""

from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import pytest

from tests.support import cuda_stack

cuda_stack.require("torch", "triton", "exllamav2")
cuda_stack.use_cpu_extension()

import numpy as np
import torch
from exllamav2.attn import ExLlamaV2Attention
from hypothesis import HealthCheck, given, settings, strategies as st

from neuron.engines.base import (
    EngineError,
    GenerationRequest,
    SamplingParams,
    TokenEvent,
)
from neuron.engines.exllamav2.levers import Levers
from neuron.engines.exllamav2.sampling.batch import Sampled
from neuron.engines.exllamav2.sampling.choosing import Chooser, Place
from neuron.engines.exllamav2.speculation.draft_proposer import FAR_BEHIND
from neuron.engines.exllamav2.steps.decode_graphs import DecodeGraphs
from neuron.engines.exllamav2.steps.graph_shapes import GraphShapes
from neuron.protocol.types import LoadOptions
from tests.goldens.tiny_models import tensors, write_folder
from tests.unit.exllamav2.test_decode_graphs import AgainRecorder
from tests.unit.exllamav2.test_driver import assert_close, story
from tests.unit.exllamav2.test_driver_preemption import requests
from tests.unit.exllamav2.torch_engine import (
    GenerationDriver,
    TorchLoaded,
    assert_page_table_holds,
    driving,
)
from tests.unit.reference.support import (
    BUNDLED,
    Outputs,
    generate,
    request,
    tiny,
)
from tests.unit.reference.test_constraints import Opening, Steps

pytestmark = [
    pytest.mark.cuda_stack,
    pytest.mark.timeout(2 * cuda_stack.BUILD_DEADLINE_S),
]

PAGE = 16
SMALL = 8
CONTEXT = 640
PROMPT = tuple(range(3, 23))
GUESSES = 4
NGRAM = LoadOptions(ngram=True, draft_tokens=GUESSES)
DRAFT = LoadOptions(draft="draft", draft_tokens=GUESSES)

Driving = Callable[..., AbstractContextManager[GenerationDriver]]


def made(
    folder: Path, *, layers: int = 2, vocab: int = 96, context: int = CONTEXT
) -> Path:
    """A tiny model; with fewer layers, or an embedding that is cut off or padded, it is
    another one with the same tokens."""
    model = tiny("llama-gqa-tied-linear")
    changed = {
        "max_position_embeddings": context,
        "num_hidden_layers": layers,
        "vocab_size": vocab,
    }
    contents = tensors(model)
    embedding = contents["model.embed_tokens.weight"]
    contents["model.embed_tokens.weight"] = np.resize(embedding, (vocab, 64))
    return write_folder(folder, model.config | changed, contents)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return made(tmp_path_factory.mktemp("tiny"))


@pytest.fixture(scope="module")
def other(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A model that often guesses wrong."""
    return made(tmp_path_factory.mktemp("other"), layers=1)


@pytest.fixture(scope="module")
def stranger(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A model that knows nothing of the other one."""
    model = replace(tiny("llama-gqa-tied-linear"), name="stranger")
    config = model.config | {"max_position_embeddings": CONTEXT}
    return write_folder(tmp_path_factory.mktemp("odd"), config, tensors(model))


@pytest.fixture(params=["ngram", "itself", "other"])
def guessing(request: pytest.FixtureRequest, folder: Path, other: Path) -> Driving:
    """`driving`, with guesses."""
    if request.param == "ngram":
        return partial(driving, options=NGRAM)
    draft = folder if request.param == "itself" else other
    return partial(driving, options=DRAFT, draft=draft)


@pytest.fixture
def by_itself(folder: Path) -> Driving:
    """Drafts by the model itself: every guess is right."""
    return partial(driving, folder, options=DRAFT, draft=folder, page_size=PAGE)


def guesses(driver: GenerationDriver) -> tuple[int, int]:
    """Right and wrong ones."""
    stats = driver.stats()
    return stats.accepted_draft_tokens, stats.rejected_draft_tokens


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


class TestAsWithoutGuesses:
    def test_whatever_is_asked(self, folder: Path, guessing: Driving) -> None:
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

    def test_stories(self) -> None:
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

    def test_with_hardly_any_pages(self, folder: Path, guessing: Driving) -> None:
        asked = [request(name, (*PROMPT, ord(name) % 90), 150) for name in "abc"]
        with driving(folder, page_size=PAGE) as plain:
            expected = generate(plain, *asked)
        with guessing(folder, cache_tokens=13 * PAGE, page_size=PAGE) as driver:
            found = generate(driver, *asked)
            assert driver.stats().preemptions > 0
            assert_page_table_holds(driver)
        for name, output in found.items():
            assert_close(output, expected[name])

    def test_what_was_said_is_found_again(
        self, folder: Path, guessing: Driving
    ) -> None:
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

    def test_up_to_the_end_of_the_context(
        self, tmp_path: Path, guessing: Driving
    ) -> None:
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
    def test_exactly_as_many_as_asked(
        self, by_itself: Driving, folder: Path, count: int
    ) -> None:
        """The library ends so many tokens early as it may guess in a step."""
        with by_itself() as driver:
            output = generate(driver, request("a", PROMPT, count))["a"]
        assert len(output.tokens) == count
        assert output.reason == "length"

    def test_a_constraint(self, folder: Path, guessing: Driving) -> None:
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
    def test_a_constraint_that_lets_go(
        self, folder: Path, guessing: Driving, odd: int
    ) -> None:
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


class TestGuessesThatAreRight:
    def test_all_of_them_count(self, by_itself: Driving) -> None:
        with by_itself() as driver:
            output = generate(driver, request("a", PROMPT, 61))["a"]
            right, wrong = guesses(driver)
            # The first step prefills, too; each of the others gives one token more.
            assert driver.stats().steps == -(-61 // (1 + GUESSES))
        assert wrong == 0
        assert right == 61 - driver.stats().steps
        assert len(output.tokens) == 61

    def test_several_events_in_a_step(self, by_itself: Driving) -> None:
        with by_itself() as driver:
            driver.submit(request("a", PROMPT, 20))
            events = [e for e in driver.step() if isinstance(e, TokenEvent)]
        assert len(events) == 1 + GUESSES

    @pytest.mark.parametrize("position", range(1, 12))
    def test_a_stop_among_them(self, by_itself: Driving, position: int) -> None:
        asked = partial(request, "a", PROMPT, 40, sampling=SamplingParams(seed=5))
        with by_itself() as driver:
            tokens = generate(driver, asked())["a"].tokens
            stop = tokens[position]
            output = generate(driver, asked(stop_ids=frozenset({stop})))["a"]
            assert output.tokens == tokens[: tokens.index(stop) + 1]
            assert output.reason == "stop"
            assert driver.stats().kv_pages_used == 0
            assert_page_table_holds(driver)

    def test_a_constraint_that_ends_among_them(self, by_itself: Driving) -> None:
        with by_itself() as driver:
            tokens = generate(driver, request("a", PROMPT, 7))["a"].tokens
            constraint = Steps([{token, 90} for token in tokens])
            bound = request("b", PROMPT, 40, constraint=constraint)
            output = generate(driver, bound)["b"]
        assert output.tokens == tokens
        assert output.reason == "stop"
        assert constraint.accepted == tokens

    def test_a_constraint_that_lets_go_among_them(self, by_itself: Driving) -> None:
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

    def test_one_is_cancelled_between_steps(self, by_itself: Driving) -> None:
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


class TestGuessesThatAreWrong:
    def test_they_are_most(self, folder: Path, stranger: Path) -> None:
        asked = request("a", PROMPT, 60, sampling=SamplingParams(seed=1))
        with driving(folder) as plain:
            expected = generate(plain, asked)["a"]
        with driving(folder, options=DRAFT, draft=stranger) as driver:
            found = generate(driver, asked)["a"]
            right, wrong = guesses(driver)
        assert wrong > 9 * right
        assert_close(found, expected)

    def test_what_they_were_written_over_is_not_found_again(self, folder: Path) -> None:
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

    def test_one_that_makes_no_sense_of_anything(
        self, folder: Path, other: Path
    ) -> None:
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

    def test_one_that_is_right_and_makes_no_sense(self, by_itself: Driving) -> None:
        with by_itself() as driver, pytest.MonkeyPatch.context() as patch:
            tokens = generate(driver, request("a", PROMPT, 40))["a"].tokens
            driver.generator.reset_page_table()
            patch.setattr(driver.generator.model, "poison", tokens[10])
            output = generate(driver, request("a", PROMPT, 40))["a"]
        assert output.tokens == tokens[: tokens.index(tokens[10]) + 1]
        assert "not finite" in str(output.error)


class TestWhenToGuess:
    def test_not_for_a_large_batch(self, by_itself: Driving) -> None:
        with by_itself(levers=Levers(speculate_up_to=2)) as driver:
            two = [request(name, PROMPT, 20) for name in "ab"]
            generate(driver, *two)
            assert guesses(driver)[0] > 0
            before = guesses(driver)
            for name in "abc":
                driver.submit(request(name, PROMPT, 20))
            while driver.stats().running + driver.stats().waiting == 3:
                driver.step()
            assert guesses(driver)[0] - before[0] <= 3 * GUESSES  # until all have begun

    def test_never_where_it_is_switched_off(self, by_itself: Driving) -> None:
        with by_itself(levers=Levers(speculate_up_to=0)) as driver:
            generate(driver, request("a", PROMPT, 20))
            assert guesses(driver) == (0, 0)
            assert driver.generator.draft_model is None
            assert driver.stats().steps == 20

    def test_a_draft_has_not_missed_what_passed_meanwhile(self, folder: Path) -> None:
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


class TestDraftsOfOtherSizes:
    @pytest.mark.parametrize("vocab", [64, 128])
    def test_tokens_that_only_one_has(
        self, folder: Path, tmp_path: Path, vocab: int
    ) -> None:
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


def recorded(of: str, loaded: TorchLoaded) -> DecodeGraphs:
    """Batches are filled up to whole shapes, and fillers write to the last page."""
    held = loaded if of == "model" else loaded.draft
    assert held is not None
    model, cache = held.model, held.cache
    pages = cache.max_seq_len // PAGE

    def forward(ids: Any, lengths: Any, table: Any) -> Any:
        assert int(lengths.max()) + ids.shape[1] <= CONTEXT
        params = ExLlamaV2Attention.PagedParams(
            len(ids), table, lengths, int(lengths.max()), PAGE, ids.shape[1]
        )
        return model.forward_chunk(ids, cache, params)["logits"]

    logits = torch.empty(4, 1 + GUESSES, 96)
    shapes = GraphShapes.of(4, CONTEXT // PAGE)
    return DecodeGraphs(forward, AgainRecorder(), shapes, logits, spare_page=pages - 1)


def test_recorded_steps_of_both_models(folder: Path, other: Path) -> None:
    asked = [request(name, (*PROMPT, ord(name) % 90), 150) for name in "abc"]
    with driving(folder, page_size=PAGE) as plain:
        expected = generate(plain, *asked)
    with driving(
        folder,
        cache_tokens=13 * PAGE,
        page_size=PAGE,
        options=DRAFT,
        draft=other,
        steps=partial(recorded, "model"),
        draft_steps=partial(recorded, "draft"),
    ) as driver:
        found = generate(driver, *asked)
        assert driver.stats().preemptions > 0
        assert guesses(driver)[0] > 0
        assert_page_table_holds(driver)
    for name, output in found.items():
        assert_close(output, expected[name])


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
