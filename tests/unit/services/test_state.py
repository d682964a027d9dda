"""What watchers report becomes states, events and views."""

import time
from pathlib import Path

import pytest

from neuron.protocol.types import (
    Device,
    DeviceHealth,
    Discovery,
    Health,
    LoadProgress,
    Model,
    ModelLoad,
    ModelState,
    Servable,
)
from services.catalogue import Catalogue, ModelEntry
from services.fleet import views
from services.fleet.node import DOWN_AFTER_S, STALE_AFTER_S, Node, state_at
from services.fleet.state import HISTORY_SAMPLES, FleetState
from services.schema import GatewayView, NodeState, RequestPhase


@pytest.fixture
def state() -> FleetState:
    catalogue = Catalogue({"m": ModelEntry(id="m", pinned=True)}, Path("x"), found=True)
    return FleetState(catalogue)


def texts(state: FleetState) -> list[str]:
    return [event.text for event in state.events.last(100)]


def node_with(state: FleetState, name: str, *models: Model, **health: object) -> Node:
    node = state.add_node(name, f"http://{name}")
    state.has_models(node, list(models))
    state.answered(node, Health.model_validate(health))
    return node


def test_a_node_is_debounced() -> None:
    node = Node("a", health=Health(), seen_at=100.0)
    assert state_at(Node("a"), 100.0) is NodeState.DOWN
    assert state_at(node, 100.0 + STALE_AFTER_S) is NodeState.READY
    assert state_at(node, 100.1 + STALE_AFTER_S) is NodeState.STALE
    assert state_at(node, 100.1 + DOWN_AFTER_S) is NodeState.DOWN
    node.health = Health(status="draining")
    assert state_at(node, 100.0) is NodeState.DRAINING


def test_down_and_up_are_told_once(state: FleetState) -> None:
    node = node_with(state, "a")
    node.seen_at = time.monotonic() - 60
    state.unreachable(node, "connection refused")
    state.unreachable(node, "connection refused")
    state.answered(node, Health())
    state.answered(node, Health())
    assert texts(state) == [
        "a is ready",
        "a is down: connection refused",
        "a is ready",
    ]


@pytest.mark.parametrize(
    ("before", "after", "level", "text"),
    [
        ("unloaded", "loading", "info", "m is loading on a"),
        ("loading", "ready", "info", "m is ready on a"),
        ("ready", "recovering", "warning", "m is being reloaded on a: boom"),
        ("recovering", "ready", "info", "m recovered on a"),
        ("recovering", "failed", "error", "m failed on a: boom"),
        ("ready", "unloading", "info", "m is unloading from a"),
        ("unloading", "unloaded", "info", "m is unloaded from a"),
    ],
)
def test_a_models_change_is_an_event(
    state: FleetState, before: ModelState, after: ModelState, level: str, text: str
) -> None:
    node = node_with(state, "a", Model(id="m", state=before))
    state.model_changed(node, Model(id="m", state=after, error="boom"))
    state.model_changed(node, Model(id="m", state=after, error="boom"))
    (event,) = state.events.last(100)[-1:]
    assert (event.level, event.text, event.model, event.node) == (level, text, "m", "a")
    assert texts(state).count(text) == 1


def test_events_after_a_number_and_the_ring(state: FleetState) -> None:
    state.events.add("info", "x", "one")
    first = state.events.seq
    state.events.add("info", "x", "two")
    state.events.add("info", "x", "three")
    assert [e.text for e in state.events.after(first)] == ["two", "three"]
    assert [e.text for e in state.events.after(0)] == ["one", "two", "three"]
    assert state.events.after(state.events.seq) == []
    for number in range(2000):
        state.events.add("info", "x", str(number))
    assert len(state.events.after(0)) == 1000


def test_an_event_is_one_line_of_the_log(
    state: FleetState, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level("INFO")
    state.events.add("info", "x", "by me\r\n2026-01-01 ERROR forged")
    assert caplog.messages == ["by me | 2026-01-01 ERROR forged"]
    assert "\n" in state.events.last(1)[0].text


def test_the_views_merge_all_nodes(state: FleetState) -> None:
    node_with(
        state,
        "b",
        Model(id="m", state=ModelState.READY, memory_mb=5, capabilities=["chat"]),
        models=[ModelLoad(id="m", in_flight=2, queued=1, decode_tok_s=12.5)],
        devices=[DeviceHealth(index=0, vram_free_mb=100)],
    )
    a = node_with(
        state,
        "a",
        Model(id="m", format="exl2", bpw=4.5, capabilities=["tools"]),
        Model(id="other", servable=Servable(ok=False, reason="no such engine")),
    )
    state.discovered(a, Discovery(version="1", devices=[Device(name="RTX")]))
    snapshot = views.snapshot(state, GatewayView(pid=1))
    assert [node.name for node in snapshot.nodes] == ["a", "b"]
    assert snapshot.nodes[0].devices[0].name == "RTX"
    assert (snapshot.nodes[1].tok_s, snapshot.nodes[1].waiting) == (12.5, 1)
    m, other = snapshot.models
    assert (m.state, m.pinned, m.bpw, m.tok_s) == (ModelState.READY, True, 4.5, 12.5)
    assert m.capabilities == ["chat", "tools"]
    assert [(r.node, r.state, r.running) for r in m.replicas] == [
        ("a", ModelState.UNLOADED, 0),
        ("b", ModelState.READY, 2),
    ]
    assert not other.pinned
    assert [view.id for view in views.servable_models(state)] == ["m"]


def test_nothing_is_loaded_on_a_node_that_is_down(state: FleetState) -> None:
    node = node_with(state, "a", Model(id="m", state=ModelState.READY))
    assert views.health_view(state, stopping=False).status == "ok"
    node.seen_at = time.monotonic() - 60
    state.tick()
    (view,) = views.model_views(state)
    assert view.state is ModelState.UNLOADED
    assert view.replicas[0].error == "a is down"
    assert views.servable_models(state) == []
    assert state.knows("m")
    health = views.health_view(state, stopping=False)
    assert (health.status, health.nodes_ready, health.models_ready) == (
        "degraded",
        0,
        0,
    )
    assert views.health_view(state, stopping=True).status == "draining"


def test_progress_is_shown(state: FleetState) -> None:
    progress = LoadProgress(stage="weights", done=1, total=4)
    loading = Model(id="m", state=ModelState.LOADING, progress=progress)
    node_with(state, "a", loading)
    (view,) = views.model_views(state)
    assert view.state is ModelState.LOADING
    assert view.replicas[0].progress == progress


def test_models_that_vanish_from_disk_vanish(state: FleetState) -> None:
    node = node_with(state, "a", Model(id="m"), Model(id="n"))
    state.has_models(node, [Model(id="n")])
    assert list(node.models) == ["n"]


def test_requests_are_counted_where_they_are(state: FleetState) -> None:
    book = state.requests
    one = book.open("id", "m", "curl", "/v1/completions")
    two = book.open("id", "m", "curl", "/v1/completions")
    assert (one.id, two.id) == ("id", "id-2")
    book.place(one, "a", RequestPhase.WAITING)
    book.place(two, "a", RequestPhase.WAITING)
    book.first_token(two)
    assert book.in_flight("m", "a") == 2
    assert book.phases("m") == (1, 1)
    book.place(one, "b", RequestPhase.WAITING)
    assert book.placed() == {("m", "a"): 1, ("m", "b"): 1}
    book.close(one, failed=True)
    book.close(two, failed=False)
    assert book.placed() == {}
    assert book.active == {}
    stats = book.stats["m"]
    assert (stats.requests, stats.errors) == (2, 1)
    assert stats.ttft_s(time.monotonic()) == two.ttft_s
    assert book.take_fresh_ttft() == two.ttft_s
    assert book.take_fresh_ttft() is None


def test_five_minutes_of_history_are_kept(state: FleetState) -> None:
    for _ in range(HISTORY_SAMPLES + 10):
        state.tick()
    assert len(state.history) == HISTORY_SAMPLES


def test_operations_leave_the_snapshot_a_minute_after_their_end(
    state: FleetState,
) -> None:
    running = state.operations.start("load", "m", None, "me")
    ended = state.operations.start("unload", "m", None, "me")
    state.operations.finish(ended, None)
    now = time.time()
    assert state.operations.shown(now) == [running, ended]
    assert state.operations.shown(now + 61) == [running]
    assert state.operations.get(ended.id) is ended


def test_free_memory_is_vram_where_there_are_devices() -> None:
    assert Node("a").free_mb is None
    assert Node("a", health=Health(ram_free_mb=7)).free_mb == 7
    devices = [
        DeviceHealth(index=0, vram_free_mb=3),
        DeviceHealth(index=1, vram_free_mb=4),
        DeviceHealth(index=2),
    ]
    node = Node("a", health=Health(ram_free_mb=7, devices=devices))
    assert node.free_mb == 7
    assert Node("a", health=Health(devices=[DeviceHealth()])).free_mb is None
