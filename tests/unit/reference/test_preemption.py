"""Pages are taken piece by piece; who has to give them up does not notice."""

from collections.abc import Iterator
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings, strategies as st

from neuron.engines.base import Finished, GenerationRequest, SamplingParams, Started
from neuron.engines.reference import scheduler, sequence
from neuron.engines.reference.cache import PAGE
from neuron.engines.reference.engine import ReferenceEngine
from neuron.engines.reference.sequence import PIECE
from tests.unit.reference.support import Output, Outputs, generate, loaded, request

PROMPT = tuple(range(3, 23))


def test_an_open_end_does_not_take_the_whole_cache(long_folder: Path) -> None:
    with loaded(long_folder, slots=4, cache_tokens=640) as engine:
        for name in "abc":
            engine.submit(request(name, PROMPT, 600))
        outputs = Outputs()
        outputs.step(engine)
        assert engine.stats().running == 3
        assert engine.stats().kv_pages_used <= 3 * (2 + PIECE)
        for _ in range(PAGE * PIECE):
            outputs.step(engine)
        assert engine.stats().running == 3
        for name in "abc":
            engine.cancel(name)
        assert engine.stats().kv_pages_used == 0


def test_three_that_together_do_not_fit(long_folder: Path) -> None:
    requests = [request(name, (*PROMPT, ord(name) % 90), 400) for name in "abc"]
    with loaded(long_folder, slots=4) as roomy:
        wanted = generate(roomy, *requests)
        assert roomy.stats().preemptions == 0
    with loaded(long_folder, slots=4, cache_tokens=640) as engine:
        outputs = generate(engine, *requests)
        stats = engine.stats()
    assert stats.preemptions > 0
    # Each time costs a prefill: that must stay rare.
    assert stats.preemptions <= 6
    assert stats.generated_tokens == 3 * 400
    assert stats.prompt_tokens == 3 * 21
    for name, output in outputs.items():
        assert output.tokens == wanted[name].tokens
        assert output.prefilled == [21]


def test_the_oldest_is_never_preempted(long_folder: Path) -> None:
    with loaded(long_folder, slots=4, cache_tokens=640) as engine:
        for name in "abc":
            engine.submit(request(name, (*PROMPT, ord(name) % 90), 580))
        ends: list[tuple[str, int]] = []
        while engine.has_work():
            finished = [e.id for e in engine.step() if isinstance(e, Finished)]
            ends += [(name, engine.stats().steps) for name in finished]
        assert engine.stats().preemptions > 0
    assert [name for name, _ in ends] == ["a", "b", "c"]
    assert ends[0] == ("a", 580)


def test_no_one_is_started_only_to_be_thrown_out(long_folder: Path) -> None:
    with loaded(long_folder, slots=4, cache_tokens=640) as engine:
        engine.submit(request("a", [5] * (30 * PAGE), 100))
        outputs = Outputs()
        while not outputs.get("a", Output()).tokens:
            outputs.step(engine)
        # Six pages are free, and the first will want three of them.
        engine.submit(request("b", range(4 * PAGE), 100))
        while outputs["a"].reason is None:
            started = [e for e in outputs.step(engine) if isinstance(e, Started)]
            assert not started or outputs["a"].reason
        outputs.run(engine)
        assert engine.stats().preemptions == 0


@pytest.fixture(scope="module")
def engines(long_folder: Path) -> Iterator[tuple[ReferenceEngine, ReferenceEngine]]:
    """One with hardly any room, one with room for everything."""
    with (
        pytest.MonkeyPatch.context() as patch,
        loaded(long_folder, slots=4, cache_tokens=12 * PAGE) as tight,
        loaded(long_folder, slots=4) as roomy,
    ):
        patch.setattr(scheduler, "CHUNK", 24)
        patch.setattr(sequence, "PIECE", 1)
        yield tight, roomy


@st.composite
def requests(draw: st.DrawFn) -> list[GenerationRequest]:
    """Up to six, some with the same beginning, each fitting into twelve pages."""
    found = []
    for number in range(draw(st.integers(2, 6))):
        which, length = draw(st.integers(0, 2)), draw(st.integers(1, 60))
        count = 12 * PAGE - length - draw(st.integers(0, 90))
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
    max_examples=25,
    deadline=None,
    suppress_health_check=[HealthCheck.function_scoped_fixture],
)
@given(wanted=requests(), gap=st.integers(0, 9))
def test_nobody_can_tell(
    engines: tuple[ReferenceEngine, ReferenceEngine],
    wanted: list[GenerationRequest],
    gap: int,
) -> None:
    def outputs_of(engine: ReferenceEngine) -> Outputs:
        outputs = Outputs()
        for each in wanted:
            engine.submit(each)
            for _ in range(gap):
                outputs.step(engine)
                assert engine.stats().kv_pages_used <= engine.stats().kv_pages_total
        return outputs.run(engine)

    tight, roomy = map(outputs_of, engines)
    for each in wanted:
        here, there = tight[each.id], roomy[each.id]
        assert here.tokens == there.tokens
        assert here.logprobs == there.logprobs
        assert here.scores == there.scores
        assert here.reason == there.reason
        assert here.prefilled == sorted(set(here.prefilled))
        assert here.prefilled[-1] == len(each.prompt_ids)
    for engine in engines:
        assert engine.stats().kv_pages_used == 0
