"""What changed between two snapshots. Pure."""

from collections.abc import Callable, Sequence
from typing import TypeVar

from neuron.protocol.types import Wire
from services.schema import FleetDelta, FleetSnapshot

V = TypeVar("V", bound=Wire)


def diff(before: FleetSnapshot, after: FleetSnapshot) -> FleetDelta:
    """The delta that turns `before` into `after`."""
    nodes, removed_nodes = _changes(before.nodes, after.nodes, lambda v: v.name)
    models, removed_models = _changes(before.models, after.models, lambda v: v.id)
    requests, removed_requests = _changes(
        before.requests, after.requests, lambda v: v.id
    )
    operations, removed_operations = _changes(
        before.operations, after.operations, lambda v: v.id
    )
    last = before.history[-1].time if before.history else float("-inf")
    return FleetDelta(
        seq=after.seq,
        time=after.time,
        nodes=nodes,
        models=models,
        requests=requests,
        operations=operations,
        removed_nodes=removed_nodes,
        removed_models=removed_models,
        removed_requests=removed_requests,
        removed_operations=removed_operations,
        history=[sample for sample in after.history if sample.time > last],
    )


def is_empty(delta: FleetDelta) -> bool:
    """Whether it says nothing but the time."""
    return not delta.model_dump(exclude={"seq", "time"}, exclude_defaults=True)


def _changes(
    before: Sequence[V], after: Sequence[V], key: Callable[[V], str]
) -> tuple[list[V], list[str]]:
    old = {key(view): view for view in before}
    new = {key(view): view for view in after}
    changed = [view for name, view in new.items() if old.get(name) != view]
    return changed, sorted(old.keys() - new.keys())
