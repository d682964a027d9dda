"""A snapshot and its deltas always add up to the next snapshot."""

import itertools
from collections.abc import Callable
from typing import TypeVar

from hypothesis import given, settings, strategies as st

from neuron.protocol.types import ModelState, Wire
from services.fleet.deltas import diff, is_empty
from services.schema import (
    FleetDelta,
    FleetSnapshot,
    ModelView,
    NodeState,
    NodeView,
    Operation,
    OperationState,
    RequestView,
    Sample,
)

V = TypeVar("V", bound=Wire)
NAMES = st.sampled_from("abcde")


def unique(
    views: st.SearchStrategy[V], key: Callable[[V], str]
) -> st.SearchStrategy[list[V]]:
    return st.lists(views, max_size=5, unique_by=key)


nodes = st.builds(
    NodeView, name=NAMES, state=st.sampled_from(NodeState), running=st.integers(0, 2)
)
models = st.builds(
    ModelView, id=NAMES, state=st.sampled_from(ModelState), pinned=st.booleans()
)
requests = st.builds(RequestView, id=NAMES, tokens=st.integers(0, 3))
operations = st.builds(Operation, id=NAMES, state=st.sampled_from(OperationState))


@st.composite
def histories(draw: st.DrawFn) -> list[FleetSnapshot]:
    """Snapshots of one fleet, one after another."""
    snapshots: list[FleetSnapshot] = []
    samples: list[Sample] = []
    for seq in range(draw(st.integers(2, 5))):
        for _ in range(draw(st.integers(0, 3))):
            samples = [
                *samples,
                Sample(time=len(samples), running=draw(st.integers(0, 2))),
            ]
        snapshots.append(
            FleetSnapshot(
                seq=seq,
                time=seq,
                nodes=draw(unique(nodes, lambda v: v.name)),
                models=draw(unique(models, lambda v: v.id)),
                requests=draw(unique(requests, lambda v: v.id)),
                operations=draw(unique(operations, lambda v: v.id)),
                history=samples,
            )
        )
    return snapshots


def applied(before: FleetSnapshot, delta: FleetDelta) -> FleetSnapshot:
    """What a subscriber makes of a delta."""

    def merge(
        old: list[V], new: list[V], gone: list[str], key: Callable[[V], str]
    ) -> list[V]:
        merged = {key(v): v for v in old} | {key(v): v for v in new}
        return [v for name, v in merged.items() if name not in gone]

    return before.model_copy(
        update={
            "seq": delta.seq,
            "time": delta.time,
            "nodes": merge(
                before.nodes, delta.nodes, delta.removed_nodes, lambda v: v.name
            ),
            "models": merge(
                before.models, delta.models, delta.removed_models, lambda v: v.id
            ),
            "requests": merge(
                before.requests, delta.requests, delta.removed_requests, lambda v: v.id
            ),
            "operations": merge(
                before.operations,
                delta.operations,
                delta.removed_operations,
                lambda v: v.id,
            ),
            "history": [*before.history, *delta.history],
        }
    )


def as_sets(snapshot: FleetSnapshot) -> dict[str, object]:
    return {
        "seq": snapshot.seq,
        "nodes": {v.name: v for v in snapshot.nodes},
        "models": {v.id: v for v in snapshot.models},
        "requests": {v.id: v for v in snapshot.requests},
        "operations": {v.id: v for v in snapshot.operations},
        "history": snapshot.history,
    }


@given(histories())
@settings(deadline=None)
def test_snapshot_and_deltas_make_the_next_snapshot(
    snapshots: list[FleetSnapshot],
) -> None:
    held = snapshots[0]
    for before, after in itertools.pairwise(snapshots):
        wire = diff(before, after).model_dump_json(exclude_defaults=True)
        held = applied(held, FleetDelta.model_validate_json(wire))
        assert as_sets(held) == as_sets(after)


@given(histories())
@settings(deadline=None)
def test_states_may_be_skipped(snapshots: list[FleetSnapshot]) -> None:
    first, last = snapshots[0], snapshots[-1]
    assert as_sets(applied(first, diff(first, last))) == as_sets(last)


@given(histories())
@settings(deadline=None)
def test_no_change_is_an_empty_delta(snapshots: list[FleetSnapshot]) -> None:
    first = snapshots[0]
    later = first.model_copy(update={"seq": 9, "time": 9.0})
    assert is_empty(diff(first, later))
