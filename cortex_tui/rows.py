"""The tables of the Fleet screen, and of `cortex-tui status`, as plain rows."""

from __future__ import annotations

from typing import TYPE_CHECKING

from cortex_tui import format as f
from cortex_tui.store import FleetStore, memory_of
from cortex_tui.table import Cell, Column, Row, Tone, cell

if TYPE_CHECKING:
    from cortex_tui.format import Glyphs
    from services.schema import FleetEvent, ModelView, NodeView, Replica, RequestView

BAR_CELLS = 10

NODES = (
    Column("node", "NODE", 10, 1, flex=14),
    Column("state", "STATE", 11, 2),
    Column("device", "DEVICE", 16, 7, flex=14),
    Column("util", "UTIL", 4, 4, "right"),
    Column("memory", "MEMORY", BAR_CELLS + 11, 3, flex=1),
    Column("temp", "TEMP", 4, 9, "right"),
    Column("power", "POWER", 8, 10, "right"),
    Column("tok_s", "TOK/S", 6, 5, "right"),
    Column("run", "RUN", 3, 6, "right"),
    Column("wait", "WAIT", 4, 8, "right"),
    Column("version", "VERSION", 9, 12, "right"),
    Column("seen", "SEEN", 4, 11, "right"),
)

MODELS = (
    Column("pin", "", 1, 1),
    Column("model", "MODEL", 18, 1, flex=200, keep_end=True),
    Column("state", "STATE", 13, 2),
    Column("node", "NODE", 9, 3),
    Column("format", "FORMAT", 9, 9),
    Column("context", "CTX", 5, 8, "right"),
    Column("memory", "MEM", 6, 6, "right"),
    Column("run", "RUN", 4, 5, "right"),
    Column("wait", "WAIT", 4, 7, "right"),
    Column("tok_s", "TOK/S", 6, 4, "right"),
    Column("ttft", "TTFT", 6, 6, "right"),
    Column("requests", "REQS", 6, 10, "right"),
    Column("errors", "ERR", 4, 11, "right"),
    Column("idle", "IDLE", 4, 8, "right"),
)

REQUESTS = (
    Column("id", "ID", 6, 6),
    Column("client", "CLIENT", 12, 5),
    Column("model", "MODEL", 14, 1, flex=200, keep_end=True),
    Column("node", "NODE", 9, 7),
    Column("phase", "PHASE", 8, 2),
    Column("age", "AGE", 6, 3, "right"),
    Column("ttft", "TTFT", 6, 4, "right"),
    Column("tokens", "TOKENS", 6, 4, "right"),
    Column("tok_s", "TOK/S", 6, 3, "right"),
)

_TONES: dict[str, Tone] = {
    "ready": "good",
    "loading": "busy",
    "unloading": "busy",
    "recovering": "warn",
    "failed": "bad",
    "unloaded": "muted",
    "draining": "warn",
    "drained": "muted",
    "stale": "warn",
    "down": "bad",
}
_VERBS = {"load": "loading", "unload": "unloading"}


def _glyph(state: str, g: Glyphs) -> str:
    marks = {
        "ready": g.ready,
        "unloaded": g.idle,
        "failed": g.failed,
        "down": g.failed,
        "drained": g.away,
        "draining": g.away,
        "stale": g.away,
    }
    return marks.get(state, g.partial)


def state_cell(state: str, g: Glyphs, detail: str = "") -> Cell:
    """Glyph and word, and how far it is: `◐ loading 43%`."""
    text = f"{_glyph(state, g)} {state}"
    return cell(f"{text} {detail}".rstrip(), _TONES.get(state, ""))


def memory_cell(used: int | None, total: int | None, g: Glyphs) -> Cell:
    """Bar and figures: `████▏····· 41/80G`."""
    fraction = used / total if used is not None and total else None
    full, empty = f.bar(fraction, BAR_CELLS, g)
    tone: Tone = "warn" if fraction is not None and fraction > 0.92 else "bar"
    figures = f" {f.pair(used, total, g.unknown):>10}"
    return ((full, tone), (empty, "muted"), (figures, ""))


def number(text: str, *, quiet: bool) -> Cell:
    """A figure that steps back where there is nothing to see."""
    return cell(text, "muted" if quiet else "")


def node_rows(
    store: FleetStore, g: Glyphs, now: float, *, expand: bool = False
) -> list[Row]:
    """One row a node; with `expand`, one a device on hosts with several."""
    rows: list[Row] = []
    for _, node in sorted(store.nodes.items()):
        rows.append(_node_row(node, g, now))
        if expand and len(node.devices) > 1:
            rows += [_device_row(node, index, g) for index in range(len(node.devices))]
    return rows


def _node_row(node: NodeView, g: Glyphs, now: float) -> Row:
    silent = None if node.last_seen is None else max(0.0, now - node.last_seen)
    away = node.state in ("stale", "down")
    u = g.unknown
    return Row(
        key=node.name,
        cells={
            "node": cell(f.clean(node.name), "strong"),
            "state": state_cell(node.state, g, f.short_age(silent, "") if away else ""),
            "device": cell(device_name(node), ""),
            "util": number(f.percent(_busiest(node), u), quiet=not _busiest(node)),
            "memory": memory_cell(*memory_of(node), g),
            "temp": cell(_hottest(node, u)),
            "power": cell(_power(node, u)),
            "tok_s": number(f.rate(node.tok_s, u), quiet=not node.tok_s),
            "run": number(str(node.running), quiet=not node.running),
            "wait": number(str(node.waiting), quiet=not node.waiting),
            "version": cell(f.clean(node.version or u), "muted"),
            "seen": cell(f.short_age(silent, u), "muted"),
        },
        dim=node.state == "down",
    )


def _device_row(node: NodeView, index: int, g: Glyphs) -> Row:
    device = node.devices[index]
    live = next((d for d in node.live if d.index == device.index), None)
    used = live.vram_used_mb if live else None
    util = live.utilization_pct if live else None
    return Row(
        key=f"{node.name}/{device.index}",
        cells={
            "node": cell(""),
            "device": cell(f"{device.index} {f.clean(device.name)}"),
            "util": number(f.percent(util, g.unknown), quiet=not util),
            "memory": memory_cell(used, device.vram_total_mb, g),
            "temp": cell(_degrees(live.temperature_c if live else None, g.unknown)),
        },
    )


def device_name(node: NodeView) -> str:
    """`RTX 4090`, `2x A100 80GB`, `3 GPUs` where they differ, `CPU (RAM)` without."""
    names = [f.clean(d.name.removeprefix("NVIDIA ")) for d in node.devices]
    names = [name.removeprefix("GeForce ") for name in names]
    if not names:
        return "CPU (RAM)" if node.ram_total_mb is not None else ""
    if len(names) == 1:
        return names[0]
    if len(set(names)) == 1:
        return f"{len(names)}x {names[0]}"
    return f"{len(names)} GPUs"


def _busiest(node: NodeView) -> int | None:
    known = [d.utilization_pct for d in node.live if d.utilization_pct is not None]
    return max(known, default=None)


def _hottest(node: NodeView, unknown: str) -> str:
    known = [d.temperature_c for d in node.live if d.temperature_c is not None]
    return _degrees(max(known, default=None), unknown)


def _degrees(value: int | None, unknown: str) -> str:
    return unknown if value is None else f"{value}C"


def _power(node: NodeView, unknown: str) -> str:
    watts = [d.power_w for d in node.live if d.power_w is not None]
    limits = [d.power_limit_w for d in node.live if d.power_limit_w is not None]
    if not watts:
        return unknown
    limit = f"/{sum(limits):.0f}" if limits else ""
    return f"{sum(watts):.0f}{limit}W"


def model_rows(store: FleetStore, g: Glyphs, now: float, query: str = "") -> list[Row]:
    """Models that match `query`: the busy ones first, then by state and name."""
    shown = [model for model in store.models.values() if matches(model, query)]
    return [_model_row(store, model, g, now) for model in sorted(shown, key=_order)]


def _order(model: ModelView) -> tuple[int, str]:
    ranks = {"ready": 0, "loading": 1, "recovering": 1, "unloading": 1, "failed": 2}
    return ranks.get(model.state, 3), model.id


def matches(model: ModelView, query: str) -> bool:
    """Every word of `query` is in the name, state or nodes; `!word` is in none."""
    text = " ".join([model.id, model.state, *(r.node for r in placed(model))]).lower()
    for word in query.lower().split():
        if word.startswith("!"):
            if word[1:] and word[1:] in text:
                return False
        elif word not in text:
            return False
    return True


def placed(model: ModelView) -> list[Replica]:
    """Replicas that are, or were just, in memory somewhere."""
    return [r for r in model.replicas if r.state != "unloaded"]


def _model_row(store: FleetStore, model: ModelView, g: Glyphs, now: float) -> Row:
    replicas = placed(model)
    u = g.unknown
    memory = [r.memory_mb for r in replicas if r.memory_mb is not None]
    idle = None if model.last_used is None or model.running else now - model.last_used
    cold = model.state == "unloaded"
    return Row(
        key=model.id,
        cells={
            "pin": cell(g.pin if model.pinned else "", "accent"),
            "model": cell(f.clean(model.id), "muted" if cold else "strong"),
            "state": _model_state(store, model, g),
            "node": cell(_where(replicas, u), "muted" if cold else ""),
            "format": cell(_quantization(model, u), "muted"),
            "context": cell(_context(model, u), "muted"),
            "memory": _model_memory(model, sum(memory) if memory else None, u),
            "run": number(_running(model, replicas), quiet=not model.running),
            "wait": number(str(model.waiting), quiet=not model.waiting),
            "tok_s": number(f.rate(model.tok_s, u), quiet=not model.tok_s),
            "ttft": number(f.seconds(model.ttft_s, u), quiet=model.ttft_s is None),
            "requests": number(f.count(model.requests), quiet=not model.requests),
            "errors": cell(str(model.errors), "bad" if model.errors else "muted"),
            "idle": cell(f.short_age(idle, u), "muted"),
        },
    )


def _model_state(store: FleetStore, model: ModelView, g: Glyphs) -> Cell:
    doing = store.under_way(model.id)
    state = str(model.state)
    if doing in _VERBS and state not in ("loading", "unloading", "recovering"):
        return cell(f"{g.partial} {_VERBS[doing]}", "busy")
    progress = next((r.progress for r in model.replicas if r.progress), None)
    done = f.share(progress.done, progress.total) if progress else None
    if state == "loading" and done is not None and done < 100:
        return state_cell(state, g, f"{done}%")
    if state == "unloaded" and _is_unusable(model):
        return cell(f"{g.failed} unusable", "muted")
    return state_cell(state, g)


def _is_unusable(model: ModelView) -> bool:
    """Wherever it is on a disk, nothing there can serve it."""
    return bool(model.replicas) and not any(r.servable.ok for r in model.replicas)


def _where(replicas: list[Replica], unknown: str) -> str:
    names = [f.clean(replica.node) for replica in replicas]
    if not names:
        return unknown
    return names[0] if len(names) == 1 else f"{names[0]}+{len(names) - 1}"


def _quantization(model: ModelView, unknown: str) -> str:
    if model.format is None:
        return unknown
    bits = "" if model.bpw is None else f" {model.bpw:.1f}"
    return f.clean(model.format) + bits


def _context(model: ModelView, unknown: str) -> str:
    tokens = model.max_model_len
    if tokens is None:
        return unknown
    return f"{tokens // 1024}k" if tokens >= 1024 else str(tokens)


def _model_memory(model: ModelView, measured: int | None, unknown: str) -> Cell:
    if measured is not None:
        return cell(f.mib(measured))
    if model.weight_bytes is not None and model.state == "unloaded":
        return cell(f"{f.size(model.weight_bytes)}*", "muted")
    return cell(unknown, "muted")


def _running(model: ModelView, replicas: list[Replica]) -> str:
    slots = sum(replica.slots or 0 for replica in replicas)
    return f"{model.running}/{slots}" if slots else str(model.running)


def request_rows(store: FleetStore, g: Glyphs, now: float) -> list[Row]:
    """Requests in flight, the oldest first."""
    shown = sorted(store.requests.values(), key=lambda r: (r.started_at, r.id))
    return [_request_row(request, g, now) for request in shown]


def _request_row(request: RequestView, g: Glyphs, now: float) -> Row:
    u = g.unknown
    tones: dict[str, Tone] = {"decoding": "good", "loading": "busy"}
    return Row(
        key=request.id,
        cells={
            "id": cell(f.clean(request.id).rpartition("-")[2], "muted"),
            "client": cell(f.clean(request.client or u)),
            "model": cell(f.clean(request.model), "strong"),
            "node": cell(f.clean(request.node or u)),
            "phase": cell(request.phase, tones.get(request.phase, "warn")),
            "age": cell(f.age(now - request.started_at)),
            "ttft": cell(f.seconds(request.ttft_s, u)),
            "tokens": cell(f.count(request.tokens)),
            "tok_s": cell(f.rate(request.tok_s, u)),
        },
    )


def event_row(event: FleetEvent) -> Row:
    """One line of the event list."""
    tones: dict[str, Tone] = {"warning": "warn", "error": "bad"}
    tone = tones.get(event.level, "")
    return Row(
        key=str(event.seq),
        cells={
            "time": cell(f.clock(event.time), "muted"),
            "kind": cell(f.clean(event.kind), tone or "accent"),
            "text": cell(f.clean(event.text), tone),
        },
    )


EVENTS = (
    Column("time", "TIME", 8, 1),
    Column("kind", "KIND", 7, 2),
    Column("text", "EVENT", 10, 1, flex=200),
)
