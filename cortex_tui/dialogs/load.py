"""Where to load a model: the gateway's own choice first, then node by node."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar

from textual import getters
from textual.binding import Binding, BindingType

from cortex_tui import format as f
from cortex_tui.dialogs.base import Dialog
from cortex_tui.rows import device_name
from cortex_tui.store import FleetStore, memory_of
from cortex_tui.table import Cell, Column, Row, cell
from cortex_tui.widgets.live_table import LiveTable

if TYPE_CHECKING:
    from textual.app import ComposeResult

    from cortex_tui.format import Glyphs
    from services.schema import ModelView, NodeView, Replica

COLUMNS = (
    Column("node", "NODE", 12, 1),
    Column("device", "DEVICE", 14, 3, flex=200),
    Column("free", "FREE", 6, 2, "right"),
    Column("gap", "", 1, 2),
    Column("fits", "FITS", 24, 2),
)
BEST = ""


@dataclass(frozen=True, slots=True)
class Place:
    """The chosen node; None leaves it to the gateway."""

    node: str | None


class LoadDialog(Dialog[Place]):
    """`l ⏎` loads on the best node; the list says how each one stands."""

    BINDINGS: ClassVar[list[BindingType]] = [
        Binding("enter,l", "accept", show=False),
        Binding("down,j", "move(1)", show=False),
        Binding("up,k", "move(-1)", show=False),
    ]
    model: ModelView | None = None
    store = FleetStore()
    table = getters.query_one("#places", LiveTable)

    def content(self) -> ComposeResult:
        yield LiveTable("", COLUMNS, id="places", always_selected=True)

    def fill(self) -> None:
        model = self.model
        if model is None:
            return
        rows = place_rows(self.store, model, self.glyphs)
        self.box.border_title = f.middle(f"Load {f.clean(model.id)}", 60)
        self.table.glyphs = self.glyphs
        self.table.ruled = False
        self.table.label(facts(model))
        self.table.styles.height = 2 + min(10, len(rows))
        self.table.set_rows(rows)
        self.table.clear_selection()
        self.show_keys((self.glyphs.enter, "load there"), ("esc", "cancel"))

    def action_move(self, step: int) -> None:
        self.table.move(step)

    def action_accept(self) -> None:
        self.finish(Place(self.table.selected or None))

    def on_live_table_chosen(self) -> None:
        self.action_accept()


def facts(model: ModelView) -> str:
    """What the model needs, as far as it is known before it is loaded."""
    parts = []
    if model.weight_bytes is not None:
        parts.append(f"weights {f.size(model.weight_bytes)}")
    if model.format is not None:
        bits = "" if model.bpw is None else f" {model.bpw:.1f} bpw"
        parts.append(f.clean(model.format) + bits)
    if model.context is not None:
        parts.append(f"context {f.count(model.context)}")
    return "  ".join(parts) or "size unknown"


def place_rows(store: FleetStore, model: ModelView, g: Glyphs) -> list[Row]:
    """The best node, then every node that has the model on its disk."""
    replicas = sorted(model.replicas, key=lambda replica: replica.node)
    there = present(model, None)
    automatic = {
        "node": cell("best", "strong"),
        "device": cell("the gateway chooses", "muted"),
        "fits": cell("recommended", "good")
        if there is None
        else cell(f"is {there.state} already", "muted"),
    }
    return [
        Row(BEST, automatic),
        *(
            _place_row(store.nodes[replica.node], replica, model, g)
            for replica in replicas
            if replica.node in store.nodes
        ),
    ]


def present(model: ModelView, node: str | None) -> Replica | None:
    """The replica that a load on `node` would find there; None: it would load one."""
    states = ("ready", "loading", "recovering")
    found = (r for r in model.replicas if node in (None, r.node) and r.state in states)
    return next(found, None)


def _place_row(node: NodeView, replica: Replica, model: ModelView, g: Glyphs) -> Row:
    used, total = memory_of(node)
    free = None if used is None or total is None else total - used
    return Row(
        key=node.name,
        cells={
            "node": cell(f.clean(node.name), "strong"),
            "device": cell(device_name(node)),
            "free": cell(f.mib(free, g.unknown)),
            "fits": _fits(node, replica, model, free, g),
        },
        dim=node.state != "ready",
    )


def _fits(
    node: NodeView, replica: Replica, model: ModelView, free: int | None, g: Glyphs
) -> Cell:
    """By the weights alone: what more a load takes only the node can say."""
    if node.state != "ready":
        return cell(str(node.state), "warn")
    if replica.state != "unloaded":
        return cell(f"is {replica.state} there", "muted")
    if not replica.servable.ok:
        return cell(f.clean(replica.servable.reason or "no"), "bad")
    if free is None or model.weight_bytes is None:
        return cell(g.unknown, "muted")
    short = model.weight_bytes / 2**20 - free
    return cell("yes", "good") if short <= 0 else cell(f"short {f.mib(short)}", "warn")
