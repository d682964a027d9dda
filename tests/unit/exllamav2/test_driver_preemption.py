"""Pages are taken piece by piece; who has to give them up does not notice."""

from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.support import cuda_stack

cuda_stack.require("torch", "triton", "exllamav2")
cuda_stack.use_cpu_extension()

from hypothesis import HealthCheck, given, settings, strategies as st

from neuron.engines.base import Finished, GenerationRequest, SamplingParams, Started
from tests.goldens.tiny_models import tensors, write_folder
from tests.unit.exllamav2.torch_engine import (
    GenerationDriver,
    assert_page_table_holds,
    driving,
)
from tests.unit.reference.support import Output, Outputs, generate, request, tiny
from tests.unit.reference.test_constraints import Steps

pytestmark = [
    pytest.mark.cuda_stack,
    pytest.mark.timeout(2 * cuda_stack.BUILD_DEADLINE_S),
]

PAGE = 16
POOL = 12 * PAGE
SMALL = 8
PROMPT = tuple(range(3, 23))


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A tiny model with room for 640 tokens."""
    model = tiny("llama-gqa-tied-linear")
    config = model.config | {"max_position_embeddings": 640}
    return write_folder(tmp_path_factory.mktemp("tiny"), config, tensors(model))


def numbered(name: str, count: int) -> GenerationRequest:
    return request(name, (*PROMPT, ord(name) % 90), count)


def test_an_open_end_does_not_take_the_whole_cache(folder: Path) -> None:
    with driving(folder, cache_tokens=640, page_size=PAGE) as driver:
        for name in "abc":
            driver.submit(numbered(name, 600))
        outputs = Outputs()
        for _ in range(3):
            outputs.step(driver)
        assert driver.stats().running == 3
        assert driver.stats().kv_pages_used == 1 + 3 * 2  # the first is shared
        for _ in range(4 * PAGE):
            outputs.step(driver)
        assert driver.stats().running == 3
        for name in "abc":
            driver.cancel(name)
        assert driver.stats().kv_pages_used == 0


def test_three_that_together_do_not_fit(folder: Path) -> None:
    requests = [numbered(name, 150) for name in "abc"]
    with driving(folder, page_size=PAGE) as roomy:
        wanted = generate(roomy, *requests)
        assert roomy.stats().preemptions == 0
    with driving(folder, cache_tokens=POOL, page_size=PAGE) as driver:
        outputs = generate(driver, *requests)
        stats = driver.stats()
    assert stats.preemptions > 0
    assert stats.generated_tokens == 3 * 150
    assert stats.prompt_tokens == 3 * 21
    for name, output in outputs.items():
        assert output.tokens == wanted[name].tokens
        assert output.prefilled == [21]


def test_the_oldest_is_never_preempted(folder: Path) -> None:
    with driving(folder, cache_tokens=POOL, page_size=PAGE) as driver:
        for name in "abc":
            driver.submit(numbered(name, 170))
        ends: list[tuple[str, int]] = []
        while driver.has_work():
            finished = [e.id for e in driver.step() if isinstance(e, Finished)]
            ends += [(name, driver.stats().steps) for name in finished]
        assert driver.stats().preemptions > 0
    assert [name for name, _ in ends] == ["a", "b", "c"]
    assert ends[0] == ("a", 170)


def test_no_one_is_started_only_to_be_thrown_out(folder: Path) -> None:
    with driving(folder, cache_tokens=POOL, page_size=PAGE) as driver:
        driver.submit(request("a", [5] * (8 * PAGE), 40))
        outputs = Outputs()
        while not outputs.get("a", Output()).tokens:
            outputs.step(driver)
        # Three pages are free, and the first will want two of them.
        driver.submit(request("b", range(2 * PAGE), 40))
        while outputs["a"].reason is None:
            started = [e for e in outputs.step(driver) if isinstance(e, Started)]
            assert not started or outputs["a"].reason
        outputs.run(driver)
        assert driver.stats().preemptions == 0


def test_a_preempted_one_is_not_computed_again_where_the_cache_remembers(
    folder: Path,
) -> None:
    with driving(folder, cache_tokens=POOL, page_size=PAGE) as driver:
        calls = driver.generator.model.calls
        driver.submit(request("a", [5] * 30, 100))
        driver.submit(request("b", [7] * 30, 100))
        outputs = Outputs()
        while not driver.stats().preemptions:
            outputs.step(driver)
        calls.clear()
        outputs.run(driver)
        prefilled = sum(call.tokens for call in calls if not call.logits)
    # All it had is far more; what is left is what the other one needed pages for.
    assert 0 < prefilled <= 4 * PAGE


def test_a_constraint_goes_on_where_it_was(folder: Path) -> None:
    steps = [{40 + number % 50, 41} for number in range(120)]
    with driving(folder, cache_tokens=POOL, page_size=PAGE) as driver:
        constraint = Steps(steps)
        free = numbered("a", 150)
        bound = request("b", PROMPT, 150, constraint=constraint)
        outputs = generate(driver, free, bound)
        assert driver.stats().preemptions > 0
    assert constraint.accepted == outputs["b"].tokens
    assert (len(outputs["b"].tokens), outputs["b"].reason) == (120, "stop")


@pytest.fixture
def drivers(folder: Path) -> Iterator[tuple[GenerationDriver, GenerationDriver]]:
    """One with hardly any room, one with room for everything."""
    with (
        driving(folder, cache_tokens=8 * SMALL, page_size=SMALL, chunk=16) as tight,
        driving(folder, cache_tokens=512, page_size=SMALL, chunk=16) as roomy,
    ):
        yield tight, roomy


@st.composite
def requests(draw: st.DrawFn) -> list[GenerationRequest]:
    """Up to six, some with the same beginning, each fitting into eight small pages."""
    found = []
    for number in range(draw(st.integers(2, 6))):
        which, length = draw(st.integers(0, 2)), draw(st.integers(1, 30))
        count = 8 * SMALL - length - draw(st.integers(0, 30))
        sampling = SamplingParams(
            temperature=draw(st.sampled_from([0.0, 1.0])),
            frequency_penalty=draw(st.sampled_from([0.0, 0.5])),
            seed=number,
        )
        found.append(
            GenerationRequest(
                str(number),
                tuple((which + token * token) % 90 for token in range(length)),
                count,
                sampling,
                top_logprobs=1,
                stop_ids=frozenset(draw(st.lists(st.integers(0, 89), max_size=1))),
                prompt_logprobs=draw(st.sampled_from([None, 1])),
            )
        )
    return found


@settings(
    max_examples=15,
    deadline=None,
    suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow],
)
@given(wanted=requests(), gap=st.integers(0, 9), cancelled=st.booleans())
def test_nobody_can_tell(
    drivers: tuple[GenerationDriver, GenerationDriver],
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
        return outputs

    tight, roomy = map(outputs_of, drivers)
    for each in wanted[1 if cancelled else 0 :]:
        here, there = tight[each.id], roomy[each.id]
        assert here.error is there.error is None
        assert here.tokens == there.tokens
        assert here.reason == there.reason
        assert (
            here.scored_ids
            == there.scored_ids
            == list(each.prompt_ids[1:] if each.prompt_logprobs is not None else [])
        )
        for ours, theirs in zip(
            [*here.scores, *here.logprobs],
            [*there.scores, *there.logprobs],
            strict=True,
        ):
            assert ours is not None
            assert theirs is not None
            assert ours.chosen == pytest.approx(theirs.chosen, abs=1e-3)
        assert here.prefilled == sorted(set(here.prefilled))
        assert here.prefilled[-1] == len(each.prompt_ids)
    for driver in drivers:
        assert driver.stats().kv_pages_used == 0
