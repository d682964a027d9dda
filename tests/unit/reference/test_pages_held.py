"""Whatever happens to requests, no page stays behind."""

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings, strategies as st

from neuron.engines.base import Failed
from neuron.engines.reference import scheduler, sequence
from neuron.engines.reference.cache import PAGE
from neuron.engines.reference.engine import ReferenceEngine
from tests.unit.reference.support import Output, Outputs, loaded, request


@pytest.fixture(scope="module")
def small(long_folder: Path) -> Iterator[ReferenceEngine]:
    """Three slots, and fewer pages than three requests may want."""
    with (
        pytest.MonkeyPatch.context() as patch,
        loaded(long_folder, slots=3, cache_tokens=10 * PAGE) as engine,
    ):
        patch.setattr(scheduler, "CHUNK", 24)
        patch.setattr(sequence, "PIECE", 1)
        yield engine


@dataclass(frozen=True, slots=True)
class Step:
    pass


@dataclass(frozen=True, slots=True)
class Cancel:
    name: str


@dataclass(frozen=True, slots=True)
class Submit:
    which: int
    """Prompts of one kind share their beginning."""
    length: int
    count: int


Action = Step | Cancel | Submit

ACTIONS = st.lists(
    st.one_of(
        st.builds(Step),
        st.builds(Cancel, st.integers(0, 7).map(str)),
        st.builds(Submit, st.integers(0, 2), st.integers(1, 70), st.integers(1, 20)),
    ),
    max_size=30,
)


@settings(
    max_examples=60,
    deadline=None,
    suppress_health_check=[HealthCheck.function_scoped_fixture],
)
@given(actions=ACTIONS)
def test_any_order_of_submit_step_and_cancel(
    small: ReferenceEngine, actions: list[Action]
) -> None:
    outputs, alive, submitted = Outputs(), dict[str, int](), 0
    for action in actions:
        match action:
            case Step():
                events = outputs.step(small)
                assert {event.id for event in events} <= alive.keys()
                assert not any(isinstance(event, Failed) for event in events)
                for name in [n for n in alive if outputs[n].reason is not None]:
                    assert len(outputs[name].tokens) == alive.pop(name)
            case Cancel(name):
                small.cancel(name)
                alive.pop(name, None)
            case Submit(which, length, count):
                name, submitted = str(submitted), submitted + 1
                prompt = [(which + token * token) % 90 for token in range(length)]
                small.submit(request(name, prompt, count))
                outputs[name] = Output()
                alive[name] = count
        stats = small.stats()
        assert stats.running + stats.waiting == len(alive)
        assert stats.kv_pages_used <= stats.kv_pages_total == 10
        assert (stats.kv_pages_used == 0) == (stats.running == 0)
    for name in alive:
        small.cancel(name)
    assert not small.has_work()
    assert small.stats().kv_pages_used == 0
