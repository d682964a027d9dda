"""Where a request goes."""

import pytest

from neuron.protocol.errors import ApiError
from neuron.protocol.types import LoadPlan, Model, ModelState, Servable
from services.catalogue import ModelEntry
from services.fleet.placement import Offer, rank
from services.fleet.routing import (
    Candidate,
    Load,
    Refuse,
    Serve,
    Unknown,
    Wait,
    route,
)
from services.schema import NodeState

ENTRY = ModelEntry(id="m")


def copy(
    node: str,
    state: ModelState,
    *,
    node_state: NodeState = NodeState.READY,
    in_flight: int = 0,
    free_mb: int | None = None,
    servable: str | None = None,
    error: str | None = None,
) -> Candidate:
    """The model on `node`; `servable` is why it is not."""
    return Candidate(
        node=node,
        node_state=node_state,
        node_reason=None if node_state is NodeState.READY else "no answer",
        model=Model(
            id="m",
            state=state,
            weight_bytes=2**30,
            servable=Servable(ok=servable is None, reason=servable),
            error=error,
        ),
        in_flight=in_flight,
        free_mb=free_mb,
    )


def error_of(decision: object) -> ApiError:
    assert isinstance(decision, Refuse)
    return decision.error


def test_nobody_knows_it() -> None:
    assert route(ENTRY, []) == Unknown()


def test_the_least_busy_replica_and_then_the_name() -> None:
    a = copy("a", ModelState.READY, in_flight=2)
    b = copy("b", ModelState.READY, in_flight=1)
    c = copy("c", ModelState.READY, in_flight=1)
    assert route(ENTRY, [c, a, b]) == Serve("b")


def test_a_silent_node_serves_only_where_no_other_can() -> None:
    silent = copy("a", ModelState.READY, node_state=NodeState.STALE)
    busy = copy("b", ModelState.READY, in_flight=50)
    assert route(ENTRY, [silent, busy]) == Serve("b")
    assert route(ENTRY, [silent]) == Serve("a")


@pytest.mark.parametrize("node_state", [NodeState.DOWN, NodeState.DRAINING])
def test_a_node_that_is_gone_or_going_serves_nothing(node_state: NodeState) -> None:
    gone = copy("a", ModelState.READY, node_state=node_state)
    cold = copy("b", ModelState.UNLOADED)
    assert route(ENTRY, [gone, cold]) == Load(("b",))
    error = error_of(route(ENTRY, [gone]))
    assert (error.status, error.code) == (503, "node_unavailable")
    assert error.headers()["Retry-After"]
    assert f"a is {node_state} (no answer)" in error.message


def test_a_replica_that_says_it_cannot_is_passed_over() -> None:
    broken = copy("a", ModelState.READY, servable="poisoned by a CUDA error")
    assert route(ENTRY, [broken, copy("b", ModelState.READY)]) == Serve("b")
    error = error_of(route(ENTRY, [broken]))
    assert error.code == "model_not_servable"
    assert "poisoned by a CUDA error" in error.message


@pytest.mark.parametrize("state", [ModelState.LOADING, ModelState.RECOVERING])
def test_no_second_copy_while_one_is_on_its_way(state: ModelState) -> None:
    coming, cold = copy("b", state), copy("a", ModelState.UNLOADED)
    assert route(ENTRY, [cold, coming]) == Wait("b", state)
    assert route(ENTRY, [coming, copy("c", ModelState.READY)]) == Serve("c")


def test_unloading_is_waited_for_where_nothing_else_can_load() -> None:
    leaving = copy("a", ModelState.UNLOADING)
    assert route(ENTRY, [leaving]) == Wait("a", ModelState.UNLOADING)
    assert route(ENTRY, [leaving, copy("b", ModelState.UNLOADED)]) == Load(("b",))


def test_cold_nodes_are_ranked_by_fit_then_room_then_name() -> None:
    small = copy("a", ModelState.UNLOADED, free_mb=512)
    large = copy("d", ModelState.UNLOADED, free_mb=4096)
    equal = copy("c", ModelState.UNLOADED, free_mb=4096)
    unknown = copy("b", ModelState.UNLOADED)
    expected = Load(("c", "d", "a", "b"))
    assert route(ENTRY, [small, large, equal, unknown]) == expected


def test_place_on_says_where_it_may_be_loaded() -> None:
    entry = ModelEntry(id="m", place_on=("b",))
    a, b = copy("a", ModelState.UNLOADED), copy("b", ModelState.UNLOADED)
    assert route(entry, [a, b]) == Load(("b",))
    error = error_of(route(entry, [a]))
    assert "may be loaded on b only" in error.message
    # What an operator loaded elsewhere by hand serves all the same.
    assert route(entry, [copy("a", ModelState.READY)]) == Serve("a")


def test_a_failed_model_waits_for_an_operator() -> None:
    failed = copy("a", ModelState.FAILED, error="killed three times")
    error = error_of(route(ENTRY, [failed]))
    assert (error.status, error.code) == (503, "model_failed")
    assert "killed three times" in error.message
    assert route(ENTRY, [failed, copy("b", ModelState.UNLOADED)]) == Load(("b",))


def test_after_a_failure_another_replica_or_a_clear_answer() -> None:
    a, b = copy("a", ModelState.READY), copy("b", ModelState.READY)
    assert route(ENTRY, [a, b], frozenset({"a"})) == Serve("b")
    cold = copy("c", ModelState.UNLOADED)
    error = error_of(route(ENTRY, [a, cold], frozenset({"a"})))
    assert (error.status, error.code) == (502, "upstream_failed")
    recovering = copy("a", ModelState.RECOVERING)
    decision = route(ENTRY, [recovering], frozenset({"a"}))
    assert decision == Wait("a", ModelState.RECOVERING)


def test_plans_are_ranked() -> None:
    def plan(fits: bool, available: int) -> LoadPlan:
        return LoadPlan(fits=fits, available_bytes=available)

    offers = [
        Offer("silent"),
        Offer("tight", plan(True, 10)),
        Offer("full", plan(False, 99)),
        Offer("roomy", plan(True, 20)),
        Offer("alike", plan(True, 20)),
        Offer("never", refusal="it has no engine for that"),
    ]
    assert rank(offers) == ["alike", "roomy", "tight", "full", "silent"]
