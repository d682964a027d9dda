"""One-shot commands: the same verbs as the console's, as plain text or JSON.

They are also the accessible way in: no screen to draw, words beside every glyph.
"""

import json
import sys
import time
from collections.abc import Callable
from typing import Final, Literal

from cortex_tui import format as f, plain_http, rows, table, target
from cortex_tui.identity import operator_name
from cortex_tui.plain_http import Refused
from cortex_tui.store import FleetStore
from services import schema

POLL_S: Final = 0.2
WAIT_DEADLINE_S: Final = 3600.0
WATCH_S: Final = 2.0

_STATUS_NODES = ("node", "state", "device", "util", "memory", "tok_s", "run", "wait")
_STATUS_MODELS = (
    "pin", "model", "state", "node", "format", "context", "memory", "run", "wait",
    "tok_s", "ttft",
)  # fmt: skip
_ROUTES: Final = {
    "load": schema.LOAD,
    "unload": schema.UNLOAD,
    "pin": schema.PIN,
    "unpin": schema.UNPIN,
}
_DONE: Final = {"load": "loaded", "unload": "unloaded"}
Verb = Literal["load", "unload", "pin", "unpin"]


def fleet(where: target.Target) -> schema.FleetSnapshot:
    """The fleet as it is now.

    Raises:
        Unreachable: nobody answers.
        Refused: an error answer, or one that is not a fleet.
    """
    try:
        content = plain_http.request(where, "GET", schema.FLEET)
    except Refused as error:
        raise Refused(f"{where.url}: {error}") from error
    try:
        return schema.FleetSnapshot.model_validate_json(content)
    except ValueError as error:
        raise plain_http.no_gateway(where) from error


def status(where: target.Target, *, as_json: bool, g: f.Glyphs) -> str:
    """Gateway, nodes and models that are in memory or failed."""
    snapshot = fleet(where)
    if as_json:
        return snapshot.model_dump_json(indent=2)
    store = _store(snapshot)
    totals = store.totals()
    gateway = snapshot.gateway
    up = f.age(snapshot.time - gateway.started_at)
    head = [
        f"gateway {gateway.url}  version {gateway.version}  pid {gateway.pid}  up {up}",
        "  ".join(
            (
                f"nodes {totals.nodes_ready}/{totals.nodes}",
                f"loaded {totals.loaded} of {f.plural(totals.models, 'model')}",
                f"running {totals.running}",
                f"waiting {totals.waiting}",
                f"tok/s {f.rate(store.tok_s(), g.unknown)}",
            )
        ),
    ]
    nodes = _plain(rows.NODES, _STATUS_NODES, rows.node_rows(store, g, snapshot.time))
    busy = [
        row
        for row in rows.model_rows(store, g, snapshot.time)
        if store.models[row.key].state != "unloaded" or store.models[row.key].pinned
    ]
    models = _plain(rows.MODELS, _STATUS_MODELS, busy) if busy else ["no model loaded"]
    return "\n".join([*head, "", *nodes, "", *models, *_problems(snapshot)])


def _problems(snapshot: schema.FleetSnapshot) -> list[str]:
    """Why a node is away and a model failed, a line each after a blank one."""
    lines = [
        f"{node.name}: {node.reason}"
        for node in snapshot.nodes
        if node.reason and node.state != schema.NodeState.READY
    ]
    lines += [
        f"{model.id} on {replica.node}: {replica.error}"
        for model in snapshot.models
        for replica in model.replicas
        if replica.error
    ]
    return _remarks(lines)


def _remarks(lines: list[str]) -> list[str]:
    return ["", *map(f.clean, lines)] if lines else []


def models(where: target.Target, *, as_json: bool, g: f.Glyphs) -> str:
    """Every model of the fleet, loaded or not."""
    snapshot = fleet(where)
    by_name = sorted(snapshot.models, key=lambda model: model.id)
    if as_json:
        return json.dumps([m.model_dump(mode="json") for m in by_name], indent=2)
    store = _store(snapshot)
    shown = rows.model_rows(store, g, snapshot.time)
    listed = _plain(rows.MODELS, _STATUS_MODELS, shown)
    reasons = [
        f"{model.id} on {replica.node}: {replica.servable.reason}"
        for model in by_name
        for replica in model.replicas
        if not replica.servable.ok and replica.servable.reason
    ]
    return "\n".join([*listed, *_remarks(reasons)])


def watch(draw: Callable[[], str]) -> None:
    """Print `draw()` again and again until interrupted."""
    while True:
        text = draw()
        if sys.stdout.isatty():
            text = "\x1b[H\x1b[2J" + text
        print(text, flush=True)
        time.sleep(WATCH_S)


def act(where: target.Target, verb: Verb, model: str, node: str | None) -> str:
    """Do it, wait until it is done, and say what was done.

    Raises:
        Unreachable: nobody answers.
        Refused: the gateway will not, or could not.
    """
    operation = begin(where, verb, model, node)
    deadline = time.monotonic() + WAIT_DEADLINE_S
    while operation.state == schema.OperationState.RUNNING:
        if time.monotonic() > deadline:
            raise Refused(f"{verb} {model}: not done after {WAIT_DEADLINE_S:.0f}s")
        time.sleep(POLL_S)
        path = schema.OPERATION.format(id=operation.id)
        operation = _operation(plain_http.request(where, "GET", path))
    if operation.state == schema.OperationState.FAILED:
        raise Refused(f"{verb} {model}: {operation.error or 'failed'}")
    return _outcome(verb, operation)


def begin(
    where: target.Target, verb: Verb, model: str, node: str | None
) -> schema.Operation:
    """Ask for it and do not wait.

    Raises:
        Unreachable: nobody answers.
        Refused: the gateway will not.
    """
    action = schema.ModelAction(
        model=model,
        node=node,
        wait=False,
        by=operator_name(f"cortex-tui {verb}"),
    )
    body = action.model_dump_json(exclude_none=True)
    return _operation(plain_http.request(where, "POST", _ROUTES[verb], body))


def _operation(content: bytes) -> schema.Operation:
    try:
        return schema.Operation.model_validate_json(content)
    except ValueError as error:
        raise Refused("the answer is not an operation") from error


def _outcome(verb: Verb, operation: schema.Operation) -> str:
    what = f"{_DONE.get(verb, verb + 'ned')} {operation.model}"
    if operation.node:
        what += f" {'from' if verb == 'unload' else 'on'} {operation.node}"
    if operation.finished_at is not None and verb == "load":
        what += f" in {f.seconds(operation.finished_at - operation.created_at)}"
    if operation.freed_bytes is not None:
        what += f", {f.size(operation.freed_bytes)} freed"
    return what


def _store(snapshot: schema.FleetSnapshot) -> FleetStore:
    store = FleetStore()
    store.apply_snapshot(snapshot, snapshot.time)
    return store


def _plain(
    columns: tuple[table.Column, ...], keys: tuple[str, ...], shown: list[table.Row]
) -> list[str]:
    return table.plain([c for c in columns if c.key in keys], shown)
