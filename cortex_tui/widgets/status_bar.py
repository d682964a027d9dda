"""The one line at the top: is it up, what runs, how fast, since when."""

from collections.abc import Iterable, Sequence
from typing import ClassVar

from textual.strip import Strip

from cortex_tui import format as f
from cortex_tui.format import Glyphs, cells, fit
from cortex_tui.store import FleetStore, Link
from cortex_tui.table import Span
from cortex_tui.widgets.panel import LineWidget

_GAP = "  "


class Bar(LineWidget):
    """One line of spans, some from the left, some from the right."""

    COMPONENT_CLASSES: ClassVar[set[str]] = {"bar--key", "bar--disabled"}

    def __init__(self, *, id: str | None = None) -> None:  # noqa: A002
        super().__init__(id=id)
        self._left: Sequence[tuple[str, str]] = ()
        self._right: Sequence[tuple[str, str]] = ()

    def show(
        self,
        left: Sequence[tuple[str, str]],
        right: Sequence[tuple[str, str]] = (),
    ) -> None:
        if (left, right) != (self._left, self._right):
            self._left, self._right = left, right
            self.refresh()

    def render_line(self, y: int) -> Strip:
        width = self.size.width
        right = self._right if y == 0 else ()
        left = self._left if y == 0 else ()
        room = width - sum(cells(text) for text, _ in right) - 1
        spans = _cut(left, room, self.glyphs.ellipsis)
        return self.strip((*spans, *right, (" ", "")), self.rich_style)


def _cut(
    spans: Sequence[tuple[str, str]], width: int, ellipsis: str
) -> Iterable[tuple[str, str]]:
    """Spans in exactly `width` cells: what does not fit is cut, and seen to be."""
    used = 0
    for text, tone in spans:
        if used + cells(text) > width:
            yield fit(text, max(0, width - used), ellipsis=ellipsis), tone
            return
        used += cells(text)
        yield text, tone
    yield " " * max(0, width - used), ""


class StatusBar(Bar):
    """Never loses the clock or the name; what is less urgent goes first."""

    def sync(self, store: FleetStore, label: str, now: float, g: Glyphs) -> None:
        """Draw the state of the connection and of the fleet."""
        lost = store.link is Link.LOST
        self.set_class(lost, "-lost")
        clock = ((f.clock(now), ""),)
        if lost:
            self.show(_banner(store, label, now, g), clock)
        elif store.gateway is None:
            what = store.problem or f"connecting to {label}"
            self.show(((f" {g.partial} cortex  ", "busy"), (what, "")), clock)
        else:
            self.show(self._fleet(store, label, now, g), clock)

    def _fleet(
        self, store: FleetStore, label: str, now: float, g: Glyphs
    ) -> Sequence[Span]:
        totals = store.totals()
        healthy = totals.nodes > 0 and totals.nodes_ready == totals.nodes
        spans: list[tuple[int, Span]] = [
            (0, (f" {g.ready} cortex", "good" if healthy else "warn")),
            (6, (f" {label}", "muted")),
            (1, (f"{_GAP}{totals.nodes_ready}/{totals.nodes} nodes", "")),
            (2, (f"{_GAP}{totals.loaded} loaded", "")),
            (3, (f"{_GAP}{totals.running} run {totals.waiting} wait", "")),
        ]
        if totals.alerts:
            spans.append((1, (f"{_GAP}{g.alert}{totals.alerts}", "bad")))
        memory = f"{f.mib(totals.memory_used)}/{f.mib(totals.memory_total)}"
        if totals.memory_total is not None:
            spans.append((5, (f"{_GAP}memory {memory}", "")))
        gateway = store.gateway
        if gateway is not None:
            up = f.age(now - gateway.started_at)
            spans.append((4, (f"{_GAP}up {up}", "muted")))
            spans.append((8, (f"{_GAP}pid {gateway.pid}", "muted")))
            spans.append((7, (f"{_GAP}{gateway.version}", "muted")))
        return _fit_by_priority(spans, self.size.width - 11)


def _banner(store: FleetStore, label: str, now: float, g: Glyphs) -> Sequence[Span]:
    """That there is no connection, how old the data is, when the next try is."""
    spans: list[Span] = [(f" {g.failed} ", "bad")]
    if store.gateway is None or store.heard_at is None:
        spans.append((f"no gateway at {label}", "strong"))
    else:
        age = f.age(now - store.heard_at)
        spans.append((f"gateway not answering for {age}", "strong"))
    if store.retry_at is not None:
        wait = max(0, round(store.retry_at - now))
        spans.append((f" {g.dot} retry in {wait}s", ""))
    return spans


def _fit_by_priority(spans: list[tuple[int, Span]], width: int) -> list[Span]:
    kept: set[int] = set()
    used = 0
    for index in sorted(range(len(spans)), key=lambda i: spans[i][0]):
        size = cells(spans[index][1][0])
        if used + size > width:
            break
        used += size
        kept.add(index)
    return [span for index, (_, span) in enumerate(spans) if index in kept]
