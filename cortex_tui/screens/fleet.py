"""The first screen: is it up, what is loaded where, how fast, what went wrong."""

from __future__ import annotations

from typing import TYPE_CHECKING, ClassVar

from textual import getters
from textual.binding import Binding, BindingType
from textual.containers import Horizontal
from textual.screen import Screen
from textual.widgets import Static

from cortex_tui import format as f, rows
from cortex_tui.actions import ACTIONS, Action, Situation
from cortex_tui.screens.plan import MIN_HEIGHT, MIN_WIDTH, WIDE, Plan, plan
from cortex_tui.store import FleetStore, Link
from cortex_tui.widgets.chart import Chart, pulse
from cortex_tui.widgets.key_bar import KeyBar
from cortex_tui.widgets.line_input import Line
from cortex_tui.widgets.live_table import LiveTable
from cortex_tui.widgets.panel import LineWidget, Panel
from cortex_tui.widgets.status_bar import Bar, StatusBar

if TYPE_CHECKING:
    from collections.abc import Sequence

    from textual.app import ComposeResult

    from cortex_tui.app import CortexApp
    from cortex_tui.format import Glyphs
    from services.schema import ModelView

PANELS = ("nodes", "models", "requests", "events")
_MAIN = ("nodes", "models")


def bindings() -> list[BindingType]:
    """One binding for every action of the registry, by its id."""
    return [
        Binding(",".join(a.keys), f"run('{a.id}')", a.verb, show=False, id=a.id)
        for a in ACTIONS
    ]


class FleetScreen(Screen[None]):
    """Lays the panels out, and shows the store in them."""

    BINDINGS: ClassVar[list[BindingType]] = [
        *bindings(),
        Binding("y", "answer(True)", show=False),
        Binding("n", "answer(False)", show=False),
    ]
    AUTO_FOCUS = "#models"

    status = getters.query_one("#status", StatusBar)
    pulse = getters.query_one("#pulse", Bar)
    charts = getters.query_one("#charts", Horizontal)
    nodes = getters.query_one("#nodes", LiveTable)
    models = getters.query_one("#models", LiveTable)
    bottom = getters.query_one("#bottom", Horizontal)
    requests = getters.query_one("#requests", LiveTable)
    events = getters.query_one("#events", LiveTable)
    filter = getters.query_one("#filter", Line)
    keys = getters.query_one("#keys", KeyBar)
    problem = getters.query_one("#problem", Static)

    if TYPE_CHECKING:
        app = getters.app(CortexApp)

    def __init__(self, store: FleetStore, glyphs: Glyphs) -> None:
        super().__init__()
        self.store = store
        self.glyphs = glyphs
        self.gateway_label = "local"
        self.query_text = ""
        self._problem = ""
        self._plan: Plan | None = None
        self._front = {"main": "models", "bottom": "events"}

    def compose(self) -> ComposeResult:
        yield StatusBar(id="status")
        yield Bar(id="pulse")
        with Horizontal(id="charts"):
            yield Chart("decode tok/s", id="chart-tok-s", write=f.rate)
            yield Chart("TTFT", id="chart-ttft", write=f.seconds, tone="busy")
            yield Chart("requests", id="chart-requests", write=_whole, tone="good")
        yield LiveTable("Nodes", rows.NODES, id="nodes", empty="no node is known yet")
        yield LiveTable(
            "Models", rows.MODELS, id="models", always_selected=True,
            empty="no model here",
        )  # fmt: skip
        with Horizontal(id="bottom"):
            yield LiveTable("Requests", rows.REQUESTS, id="requests", empty="none")
            yield LiveTable(
                "Events", rows.EVENTS, id="events", titles=False, empty="none yet"
            )
        yield Line(id="filter", placeholder="words, or !word")
        yield KeyBar(id="keys")
        yield Static(id="problem", markup=False)
        yield Static(id="narrow", markup=False)

    def on_mount(self) -> None:
        for widget in self.query(LineWidget):
            widget.glyphs = self.glyphs
        self.app.start()

    @property
    def selected_model(self) -> ModelView | None:
        """The model the keys act on."""
        return self.store.models.get(self.models.selected or "")

    # Keys

    def check_action(self, action: str, parameters: tuple[object, ...]) -> bool | None:
        if action == "run":
            return self.app.can(str(parameters[0]))
        return True

    def action_run(self, name: str) -> None:
        self.app.perform(name)

    def action_answer(self, yes: bool) -> None:
        self.app.answer(yes=yes)

    # What is shown

    def sync(self, now: float) -> None:
        """Show the store as it is; only what changed is painted."""
        store, g = self.store, self.glyphs
        nodes = rows.node_rows(store, g, now, expand=self.size.width >= WIDE)
        self._arrange(len(nodes))
        self._show_link(now)
        self.nodes.set_rows(nodes)
        self.models.set_rows(rows.model_rows(store, g, now, self.query_text))
        self.requests.set_rows(rows.request_rows(store, g, now))
        self.events.set_rows([rows.event_row(e) for e in reversed(store.events)])
        self._label_panels()
        self._draw_figures(now)

    def show_keys(self, actions: Sequence[Action], situation: Situation) -> None:
        self.keys.keys(actions, situation)

    def _show_link(self, now: float) -> None:
        """Is there a connection, and if not, why; what is old steps back."""
        store = self.store
        lost = store.link is Link.LOST
        for part in (self.pulse, *self.query(Panel)):
            part.dim(lost)
        self.status.sync(store, self.gateway_label, now, self.glyphs)
        problem = f.clean(store.problem or "") if lost else ""
        if problem != self._problem:
            self._problem = problem
            self.problem.update(problem)
            self.problem.display = bool(problem)

    def _label_panels(self) -> None:
        store = self.store
        shown, known = len(self.models.rows), len(store.models)
        filtered = f"{shown} of {known} {self.glyphs.dot} filter: "
        note = filtered + f.clean(self.query_text) if self.query_text else ""
        self.models.label("Models", note)
        self.requests.label(f"Requests {len(store.requests)}")
        self.events.label("Events", "live" if store.link is Link.LIVE else "")

    def _draw_figures(self, now: float) -> None:
        history, g = self.store.history, self.glyphs
        tok_s = f.rate(self.store.tok_s(), g.unknown)
        ttft = f.seconds(self.store.ttft_s(), g.unknown)
        if self._plan is not None and self._plan.charts:
            speed, first, load = self.query(Chart)
            speed.show(((s.time, s.tok_s) for s in history), now)
            speed.label("decode tok/s", f"{tok_s} now {g.dot} 5 min")
            first.show(((s.time, s.ttft_s) for s in history), now)
            first.label("TTFT", f"{ttft} last")
            totals = self.store.totals()
            load.show(((s.time, float(s.running + s.waiting)) for s in history), now)
            load.label("requests", f"{totals.running} run {totals.waiting} wait")
            return
        head = f" tok/s {tok_s:>5} "
        tail = f"TTFT {ttft}"
        width = max(10, self.size.width - len(head) - len(tail) - 4)
        line = pulse(((s.time, s.tok_s) for s in history), now, min(width, 100), g)
        self.pulse.show(((head, ""), (line, "bar")), ((tail, ""),))

    # How it is laid out

    def on_resize(self) -> None:
        self._plan = None
        if self.is_mounted:
            self.app.refresh_fleet()

    def _arrange(self, nodes: int) -> None:
        width, height = self.size
        new = plan(width, height, nodes, len(self.store.models))
        if new == self._plan:
            return
        self._plan = new
        small = width < MIN_WIDTH or height < MIN_HEIGHT
        self.set_class(small, "-small-terminal")
        self.set_class(new.both_bottom, "-both")
        self.query_one("#narrow", Static).update(
            f"cortex needs {MIN_WIDTH}x{MIN_HEIGHT}; this terminal is {width}x{height}"
        )
        for widget, lines in (
            (self.charts, new.charts),
            (self.pulse, new.pulse),
            (self.nodes, new.nodes),
            (self.models, new.models),
            (self.bottom, new.bottom),
        ):
            widget.styles.height = lines
            widget.display = lines > 0
        self._show_fronts(new)
        # The charts are drawn for the size they have.
        self.call_after_refresh(self.app.refresh_fleet)

    def _show_fronts(self, new: Plan) -> None:
        """Where panels share a place, show the one that had the focus last."""
        main, bottom = self._front["main"], self._front["bottom"]
        self.nodes.display = not new.swap_main or main == "nodes"
        self.models.display = not new.swap_main or main == "models"
        self.requests.display = new.both_bottom or bottom == "requests"
        self.events.display = new.both_bottom or bottom == "events"

    def focus_panel(self, step: int) -> None:
        """Focus the panel `step` further on, bringing it to the front."""
        current = self.focused.id if self.focused is not None else None
        index = PANELS.index(current) if current in PANELS else 1
        name = PANELS[(index + step) % len(PANELS)]
        self._front["main" if name in _MAIN else "bottom"] = name
        if self._plan is not None:
            self._show_fronts(self._plan)
        self.query_one(f"#{name}").focus()

    @property
    def active_table(self) -> LiveTable:
        """The table that the movement keys move in."""
        focused = self.focused
        return focused if isinstance(focused, LiveTable) else self.models

    # The filter line

    def open_filter(self) -> None:
        self.filter.display = True
        self.keys.display = False
        self.filter.focus()

    def close_filter(self, *, keep: bool) -> None:
        """Back to the models, with the filter in force or without it."""
        if not keep:
            self.query_text = self.filter.value = ""
        self.filter.display = False
        self.keys.display = True
        self.models.focus()

    def on_input_changed(self, event: Line.Changed) -> None:
        self.query_text = event.value
        self.app.refresh_fleet()

    def on_input_submitted(self) -> None:
        self.close_filter(keep=True)


def _whole(value: float) -> str:
    return f"{value:.0f}" if value == int(value) else f"{value:.1f}"
