"""The store holds what the gateway told it last, in whatever order it came."""

import math

from hypothesis import given, strategies as st

from cortex_tui.store import PENDING_EXPIRES_S, FleetStore, Link
from neuron.protocol.types import Device, DeviceHealth, ModelState
from services.schema import (
    FleetDelta,
    FleetEvent,
    FleetSnapshot,
    GatewayView,
    ModelView,
    NodeState,
    NodeView,
    Operation,
    OperationState,
    RequestView,
    Sample,
)

NAMES = ("a", "b", "c", "d")
State = dict[str, int]
"""A fleet in miniature: model id → requests served."""


def snapshot(state: State, seq: int, **fields: object) -> FleetSnapshot:
    return FleetSnapshot.model_validate(
        {
            "seq": seq,
            "gateway": GatewayView(pid=1, started_at=1),
            "models": [ModelView(id=k, requests=v) for k, v in state.items()],
            "nodes": [NodeView(name=k, running=v) for k, v in state.items()],
            "requests": [RequestView(id=k, tokens=v) for k, v in state.items()],
            "events": [FleetEvent(seq=n) for n in range(max(1, seq - 3), seq + 1)],
            "history": [Sample(time=n, tok_s=n) for n in range(max(0, seq - 3), seq)],
            **fields,
        }
    )


def difference(before: State, after: State, seq: int) -> FleetDelta:
    changed = {k: v for k, v in after.items() if before.get(k) != v}
    gone = sorted(before.keys() - after.keys())
    return FleetDelta(
        seq=seq,
        models=[ModelView(id=k, requests=v) for k, v in changed.items()],
        nodes=[NodeView(name=k, running=v) for k, v in changed.items()],
        requests=[RequestView(id=k, tokens=v) for k, v in changed.items()],
        removed_models=gone,
        removed_nodes=gone,
        removed_requests=gone,
        history=[Sample(time=seq - 1, tok_s=seq - 1)],
    )


@given(
    st.lists(
        st.tuples(
            st.dictionaries(st.sampled_from(NAMES), st.integers(0, 3)),
            st.sampled_from(("delta", "snapshot", "reconnect", "replay")),
        ),
        min_size=1,
        max_size=30,
    )
)
def test_any_interleaving_equals_the_snapshot(steps: list[tuple[State, str]]) -> None:
    store = FleetStore()
    known: State = {}
    store.apply_snapshot(snapshot(known, 1), 0.0)
    for seq, (state, how) in enumerate(steps, 2):
        if how == "delta":
            store.apply_delta(difference(known, state, seq), seq)
        else:
            if how == "reconnect":
                store.lost("gone", None)
            store.apply_snapshot(snapshot(state, seq), seq)
        store.apply_event(FleetEvent(seq=seq), seq)
        if how == "replay":
            store.apply_event(FleetEvent(seq=max(1, seq - 1)), seq)
        known = state

    assert {k: m.requests for k, m in store.models.items()} == known
    assert {k: n.running for k, n in store.nodes.items()} == known
    assert {k: r.tokens for k, r in store.requests.items()} == known
    assert store.link is Link.LIVE
    seqs = [event.seq for event in store.events]
    assert seqs == sorted(set(seqs))
    assert store.last_event_id == seqs[-1] == len(steps) + 1
    times = [sample.time for sample in store.history]
    assert times == sorted(set(times))


def test_a_restarted_gateway_begins_a_new_story() -> None:
    store = FleetStore()
    store.apply_snapshot(snapshot({"a": 1}, 40), 0.0)
    store.begin("load", "a", 0.0)
    store.apply_snapshot(snapshot({"a": 0}, 2, gateway=GatewayView(pid=2)), 9.0)
    assert [event.seq for event in store.events] == [1, 2]
    assert not store.pending


def test_what_is_known_stays_while_the_gateway_is_gone() -> None:
    store = FleetStore()
    store.apply_snapshot(snapshot({"a": 1}, 3), 100.0)
    version = store.version
    store.lost("connection refused", retry_at=105.0)
    assert (store.link, store.problem, store.heard_at) == (
        Link.LOST,
        "connection refused",
        100.0,
    )
    assert store.models
    assert store.version > version
    store.heard(110.0)
    assert (store.link, store.problem, store.heard_at) == (Link.LIVE, None, 110.0)


def operation(id_: str, state: OperationState, kind: str = "load") -> Operation:
    return Operation.model_validate(
        {"id": id_, "state": state, "kind": kind, "model": "a"}
    )


def test_a_change_is_pending_until_the_stream_shows_it() -> None:
    store = FleetStore()
    pending = store.begin("load", "a", 0.0)
    assert store.under_way("a") == "load"
    store.accepted(pending, operation("op-1", OperationState.RUNNING), 0.1)
    assert store.under_way("a") == "load"

    store.apply_delta(
        FleetDelta(operations=[operation("op-1", OperationState.RUNNING)]), 0.2
    )
    assert not store.pending
    assert store.under_way("a") == "load", "now as the gateway's own word"

    store.apply_delta(
        FleetDelta(operations=[operation("op-1", OperationState.DONE)]), 0.3
    )
    assert store.under_way("a") is None


def test_an_operation_that_begins_and_ends_between_two_deltas_settles() -> None:
    store = FleetStore()
    store.apply_delta(
        FleetDelta(operations=[operation("op-1", OperationState.DONE)]), 0.1
    )
    pending = store.begin("load", "a", 0.0)
    store.accepted(pending, operation("op-1", OperationState.RUNNING), 0.2)
    assert store.under_way("a") is None


def test_another_consoles_operation_shows_too() -> None:
    store = FleetStore()
    running = operation("op-7", OperationState.RUNNING, "unload")
    store.apply_snapshot(snapshot({"a": 1}, 3, operations=[running]), 0.0)
    assert store.under_way("a") == "unload"


def test_a_refused_change_and_one_that_nobody_confirms_are_dropped() -> None:
    store = FleetStore()
    store.refused(store.begin("pin", "a", 0.0))
    assert store.under_way("a") is None
    store.begin("load", "a", 0.0)
    store.expire(PENDING_EXPIRES_S - 1)
    assert store.under_way("a") == "load"
    store.expire(PENDING_EXPIRES_S + 1)
    assert store.under_way("a") is None


def test_an_answer_that_is_final_needs_no_event() -> None:
    store = FleetStore()
    pending = store.begin("pin", "a", 0.0)
    store.accepted(pending, operation("op-1", OperationState.DONE, "pin"), 0.1)
    assert not store.pending


def test_totals_add_up_and_keep_unknown_apart_from_zero() -> None:
    store = FleetStore()
    assert store.totals().memory_total is None
    gpu = NodeView(
        name="gpu",
        state=NodeState.READY,
        devices=[Device(vram_total_mb=1000), Device(index=1, vram_total_mb=1000)],
        live=[DeviceHealth(vram_used_mb=300), DeviceHealth(index=1, vram_used_mb=0)],
    )
    cpu = NodeView(name="cpu", state=NodeState.STALE, ram_total_mb=500, ram_free_mb=100)
    blind = NodeView(name="blind", state=NodeState.DOWN)
    store.apply_snapshot(
        FleetSnapshot(
            nodes=[gpu, cpu, blind],
            models=[
                ModelView(id="a", state=ModelState.READY, running=2, waiting=1),
                ModelView(id="b", state=ModelState.FAILED),
            ],
        ),
        0.0,
    )
    totals = store.totals()
    assert (totals.nodes_ready, totals.nodes) == (1, 3)
    assert (totals.loaded, totals.models) == (1, 2)
    assert (totals.running, totals.waiting) == (2, 1)
    assert (totals.memory_used, totals.memory_total) == (700, 2500)
    assert totals.alerts == 3


def test_speed_is_the_last_seconds_and_ttft_the_last_measured() -> None:
    store = FleetStore()
    assert (store.tok_s(), store.ttft_s()) == (None, None)
    store.apply_snapshot(
        FleetSnapshot(
            history=[
                Sample(time=1, tok_s=10, ttft_s=0.3),
                Sample(time=2, tok_s=20, ttft_s=None),
            ]
        ),
        0.0,
    )
    assert store.tok_s() == 20
    assert math.isclose(store.ttft_s() or 0, 0.3)
