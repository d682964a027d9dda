"""Rows say what is known, and keep unknown apart from zero."""

import pytest

from cortex_tui import rows
from cortex_tui.dialogs.load import facts, place_rows
from cortex_tui.format import ASCII, UNICODE
from cortex_tui.store import FleetStore
from cortex_tui.table import Cell, Row
from neuron.protocol.types import Device, DeviceHealth, ModelState, Servable
from services.schema import (
    FleetSnapshot,
    ModelView,
    NodeState,
    NodeView,
    Operation,
    Replica,
    RequestView,
)

NOW = 1000.0


def store(**fields: object) -> FleetStore:
    filled = FleetStore()
    filled.apply_snapshot(FleetSnapshot.model_validate(fields), NOW)
    return filled


def text(cell: Cell) -> str:
    return "".join(part for part, _ in cell)


def texts(row: Row) -> dict[str, str]:
    return {key: text(cell) for key, cell in row.cells.items()}


def only_model(**fields: object) -> dict[str, str]:
    known = store(models=[ModelView.model_validate({"id": "m", **fields})])
    (row,) = rows.model_rows(known, UNICODE, NOW)
    return texts(row)


def test_a_host_without_gpu_shows_its_memory() -> None:
    cpu = NodeView(name="c", state=NodeState.READY, ram_total_mb=2048, ram_free_mb=1024)
    (row,) = rows.node_rows(store(nodes=[cpu]), UNICODE, NOW)
    shown = texts(row)
    assert shown["device"] == "CPU (RAM)"
    assert shown["memory"].split() == ["█████·····", "1.0/2.0G"]
    assert shown["util"] == shown["temp"] == shown["power"] == "–"


def test_an_unknown_host_shows_that_nothing_is_known() -> None:
    (row,) = rows.node_rows(store(nodes=[NodeView(name="x")]), UNICODE, NOW)
    shown = texts(row)
    assert shown["state"] == "✖ down"
    assert shown["device"] == ""
    assert shown["memory"].split() == ["··········", "–/–"]
    assert row.dim


def test_two_gpus_are_one_row_or_three() -> None:
    twin = NodeView(
        name="t",
        state=NodeState.READY,
        devices=[
            Device(index=i, name="NVIDIA GeForce RTX 3090", vram_total_mb=24576)
            for i in (0, 1)
        ],
        live=[
            DeviceHealth(index=0, vram_used_mb=1024, utilization_pct=0, power_w=30.4),
            DeviceHealth(index=1, vram_used_mb=2048, utilization_pct=50,
                         temperature_c=61, power_w=200, power_limit_w=350),
        ],
        last_seen=NOW - 2,
    )  # fmt: skip
    known = store(nodes=[twin])
    (row,) = rows.node_rows(known, UNICODE, NOW)
    shown = texts(row)
    assert shown["device"] == "2x RTX 3090"
    assert shown["memory"].split()[-1] == "3.0/48.0G"
    assert (shown["util"], shown["temp"], shown["power"]) == ("50%", "61C", "230/350W")
    assert shown["seen"] == "2s"
    total, first, second = rows.node_rows(known, UNICODE, NOW, expand=True)
    assert total == row
    assert texts(first)["device"] == "0 NVIDIA GeForce RTX 3090"
    assert (texts(first)["util"], texts(first)["temp"]) == ("0%", "–")
    assert texts(second)["memory"].split()[-1] == "2.0/24.0G"


def test_silent_nodes_say_for_how_long() -> None:
    stale = NodeView(name="s", state=NodeState.STALE, last_seen=NOW - 4)
    (row,) = rows.node_rows(store(nodes=[stale]), UNICODE, NOW)
    assert texts(row)["state"] == "◌ stale 4s"


def test_a_loaded_model() -> None:
    shown = only_model(
        state=ModelState.READY,
        format="exl2",
        bpw=4.25,
        pinned=True,
        running=2,
        waiting=1,
        tok_s=96.0,
        ttft_s=0.24,
        errors=1,
        requests=61,
        last_used=NOW - 48,
        replicas=[
            Replica(node="a", state=ModelState.READY, memory_mb=512, slots=4,
                    max_seq_len=16384),
            Replica(node="b", state=ModelState.READY, memory_mb=512, slots=4),
            Replica(node="c"),
        ],
    )  # fmt: skip
    assert shown == {
        "pin": "⚑",
        "model": "m",
        "state": "● ready",
        "node": "a+1",
        "format": "exl2 4.2",
        "context": "16k",
        "memory": "1.0G",
        "run": "2/8",
        "wait": "1",
        "tok_s": "96",
        "ttft": "0.24s",
        "requests": "61",
        "errors": "1",
        "idle": "–",
    }


def test_a_model_that_nobody_asked_for_yet() -> None:
    shown = only_model(weight_bytes=14_600 * 2**20, context=512)
    assert shown["state"] == "○ unloaded"
    assert (shown["node"], shown["tok_s"], shown["ttft"]) == ("–", "–", "–")
    assert shown["memory"] == "14.3G*", "an estimate is marked"
    assert (shown["run"], shown["requests"], shown["context"]) == ("0", "0", "512")


@pytest.mark.parametrize(
    ("state", "done", "shown"),
    [
        (ModelState.LOADING, 43, "◐ loading 43%"),
        (ModelState.LOADING, 100, "◐ loading"),
        (ModelState.LOADING, None, "◐ loading"),
        (ModelState.RECOVERING, 43, "◐ recovering"),
        (ModelState.FAILED, None, "✖ failed"),
        (ModelState.UNLOADING, None, "◐ unloading"),
    ],
)
def test_states(state: ModelState, done: int | None, shown: str) -> None:
    progress = None if done is None else {"done": done, "total": 100}
    replica = {"node": "a", "state": state, "progress": progress}
    assert only_model(state=state, replicas=[replica])["state"] == shown


def test_what_is_under_way_shows_before_the_state_follows() -> None:
    known = store(
        models=[ModelView(id="m")],
        operations=[Operation(id="o", kind="load", model="m")],
    )
    (row,) = rows.model_rows(known, UNICODE, NOW)
    assert texts(row)["state"] == "◐ loading"


def test_busy_models_come_first_then_by_name() -> None:
    known = store(
        models=[
            ModelView(id="z", state=ModelState.READY),
            ModelView(id="a"),
            ModelView(id="f", state=ModelState.FAILED),
            ModelView(id="l", state=ModelState.LOADING),
            ModelView(id="b", state=ModelState.READY),
        ]
    )
    shown = rows.model_rows(known, UNICODE, NOW)
    assert [row.key for row in shown] == ["b", "z", "l", "f", "a"]


@pytest.mark.parametrize(
    ("query", "found"),
    [
        ("", True),
        ("QWEN", True),
        ("qwen atlas", True),
        ("ready", True),
        ("qwen boreas", False),
        ("!embed", True),
        ("qwen !atlas", False),
        ("!", True),
    ],
)
def test_filter_words(query: str, found: bool) -> None:
    replica = Replica(node="atlas", state=ModelState.READY)
    model = ModelView(id="qwen3-32b", state=ModelState.READY, replicas=[replica])
    assert rows.matches(model, query) is found


def test_requests_are_listed_by_age() -> None:
    known = store(
        requests=[
            RequestView(id="r-2", model="m", started_at=NOW - 1),
            RequestView(id="r-1", model="m", started_at=NOW - 9, tokens=1500, tok_s=96),
        ]
    )
    first, second = rows.request_rows(known, UNICODE, NOW)
    assert texts(first)["id"] == "1"
    assert (texts(first)["age"], texts(first)["tokens"]) == ("9s", "1,500")
    assert (texts(second)["tok_s"], texts(second)["ttft"]) == ("–", "–")


def test_ascii_rows_are_ascii() -> None:
    known = store(
        nodes=[NodeView(name="a")],
        models=[ModelView(id="m", pinned=True)],
        requests=[RequestView(id="r")],
    )
    shown = [
        *rows.node_rows(known, ASCII, NOW),
        *rows.model_rows(known, ASCII, NOW),
        *rows.request_rows(known, ASCII, NOW),
    ]
    assert all(text(cell).isascii() for row in shown for cell in row.cells.values())


def test_what_nothing_can_serve_does_not_look_as_if_it_could_be_loaded() -> None:
    unfit = Replica(node="a", servable=Servable(ok=False, reason="no engine for it"))
    somewhere = Replica(node="b")
    failed = Replica(node="a", servable=unfit.servable, state=ModelState.FAILED)
    models = [
        ModelView(id="1-nowhere", replicas=[unfit]),
        ModelView(id="2-somewhere", replicas=[unfit, somewhere]),
        ModelView(id="3-failed", replicas=[failed], state=ModelState.FAILED),
    ]
    shown = rows.model_rows(store(models=models), UNICODE, NOW)
    states = {row.key: text(row.cells["state"]) for row in shown}
    assert states == {
        "1-nowhere": "✖ unusable",
        "2-somewhere": "○ unloaded",
        "3-failed": "✖ failed",
    }


def test_the_load_dialog_knows_where_a_model_fits() -> None:
    def node(name: str, free: int | None, **fields: object) -> NodeView:
        known = {"ram_total_mb": 4096, "ram_free_mb": free, "state": "ready"}
        return NodeView.model_validate({"name": name, **known, **fields})

    replicas = [
        Replica(node="roomy"),
        Replica(node="tight"),
        Replica(node="blind"),
        Replica(node="away"),
        Replica(node="here", state=ModelState.READY),
        Replica(node="unfit", servable=Servable(ok=False, reason="no engine for it")),
        Replica(node="unheard-of"),
    ]
    model = ModelView(id="m", weight_bytes=2048 * 2**20, replicas=replicas)
    nodes = [
        node("roomy", 3000),
        node("tight", 1024),
        node("blind", None),
        node("away", 3000, state="drained"),
        node("here", 3000),
        node("unfit", 3000),
    ]
    best, *places = place_rows(store(nodes=nodes), model, UNICODE)
    assert best.key == ""
    assert {row.key: text(row.cells["fits"]) for row in places} == {
        "roomy": "yes",
        "tight": "short 1.0G",
        "blind": "–",
        "away": "drained",
        "here": "is ready there",
        "unfit": "no engine for it",
    }
    assert facts(model) == "weights 2.0G"
    assert facts(ModelView(id="m")) == "size unknown"
