"""What the console knows of the fleet, and how old that knowledge is.

Plain Python: the client applies what arrives, the screen reads. The wire types are
imported for type checking only, so that the first frame does not wait for them.
"""

from __future__ import annotations

from collections import deque
from dataclasses import dataclass, field
from enum import StrEnum
from typing import TYPE_CHECKING, TypeVar

if TYPE_CHECKING:
    from collections.abc import Iterable

    from services.schema import (
        FleetDelta,
        FleetEvent,
        FleetSnapshot,
        GatewayView,
        ModelView,
        NodeView,
        Operation,
        RequestView,
        Sample,
    )

T = TypeVar("T")
EVENTS_KEPT = 500
HISTORY_S = 600
PENDING_EXPIRES_S = 20.0


class Link(StrEnum):
    """The console's connection to the gateway."""

    CONNECTING = "connecting"
    LIVE = "live"
    LOST = "lost"


@dataclass(slots=True)
class Pending:
    """An operation asked for here that no event has confirmed yet."""

    kind: str
    model: str
    since: float
    operation: str | None = None


@dataclass(frozen=True, slots=True)
class Totals:
    """The fleet in one line; memory in MiB, None where no node says."""

    nodes_ready: int
    nodes: int
    loaded: int
    models: int
    running: int
    waiting: int
    memory_used: int | None
    memory_total: int | None
    alerts: int


@dataclass(slots=True)
class FleetStore:
    """State of the fleet as the gateway told it last; `version` grows on change."""

    version: int = 0
    link: Link = Link.CONNECTING
    problem: str | None = None
    """Why there is no connection, in words."""
    heard_at: float | None = None
    """Epoch seconds of the last sign of life, by this host's clock."""
    retry_at: float | None = None
    gateway: GatewayView | None = None
    nodes: dict[str, NodeView] = field(default_factory=dict)
    models: dict[str, ModelView] = field(default_factory=dict)
    requests: dict[str, RequestView] = field(default_factory=dict)
    operations: dict[str, Operation] = field(default_factory=dict)
    events: deque[FleetEvent] = field(default_factory=lambda: deque(maxlen=EVENTS_KEPT))
    history: deque[Sample] = field(default_factory=lambda: deque(maxlen=HISTORY_S))
    pending: dict[str, Pending] = field(default_factory=dict)
    """By model id."""

    @property
    def last_event_id(self) -> int | None:
        """Where a new stream takes up."""
        return self.events[-1].seq if self.events else None

    def heard(self, now: float) -> None:
        """The gateway said something, if only that it is there."""
        self.heard_at = now
        if self.link is not Link.LIVE:
            self.link, self.problem, self.retry_at = Link.LIVE, None, None
            self.version += 1

    def connecting(self, why: str | None = None) -> None:
        """Nothing has been heard yet; `why` says what is being waited for."""
        self.link, self.problem = Link.CONNECTING, why
        self.version += 1

    def lost(self, problem: str, retry_at: float | None) -> None:
        """The connection is gone; what is known stays, and ages."""
        self.link, self.problem, self.retry_at = Link.LOST, problem, retry_at
        self.version += 1

    def apply_snapshot(self, snapshot: FleetSnapshot, now: float) -> None:
        """Replace everything; histories go on where the gateway is the same one."""
        if self._is_another(snapshot.gateway):
            self.events.clear()
            self.history.clear()
            self.pending.clear()
        self.gateway = snapshot.gateway
        self.nodes = {node.name: node for node in snapshot.nodes}
        self.models = {model.id: model for model in snapshot.models}
        self.requests = {request.id: request for request in snapshot.requests}
        self.operations = {o.id: o for o in snapshot.operations}
        for event in snapshot.events:
            self._add_event(event)
        self._add_history(snapshot.history)
        self._settle(now)
        self.heard(now)
        self.version += 1

    def apply_delta(self, delta: FleetDelta, now: float) -> None:
        """Replace what changed, forget what was removed."""
        self.nodes |= {node.name: node for node in delta.nodes}
        self.models |= {model.id: model for model in delta.models}
        self.requests |= {request.id: request for request in delta.requests}
        self.operations |= {o.id: o for o in delta.operations}
        _forget(self.nodes, delta.removed_nodes)
        _forget(self.models, delta.removed_models)
        _forget(self.requests, delta.removed_requests)
        # Before ended operations go: they are what confirms a pending one.
        self._settle(now)
        _forget(self.operations, delta.removed_operations)
        self._add_history(delta.history)
        self.heard(now)
        self.version += 1

    def apply_event(self, event: FleetEvent, now: float) -> None:
        """One more line of what happened; a replayed one changes nothing."""
        self._add_event(event)
        self.heard(now)
        self.version += 1

    def begin(self, kind: str, model: str, now: float) -> Pending:
        """Show `model` as pending until the gateway confirms or refuses."""
        self.pending[model] = pending = Pending(kind, model, now)
        self.version += 1
        return pending

    def accepted(self, pending: Pending, operation: Operation, now: float) -> None:
        """The gateway took it; the stream will say how it ends."""
        pending.operation = operation.id
        if operation.state != "running":
            self.refused(pending)
        self._settle(now)
        self.version += 1

    def refused(self, pending: Pending) -> None:
        """Nothing will come of it."""
        if self.pending.get(pending.model) is pending:
            del self.pending[pending.model]
            self.version += 1

    def expire(self, now: float) -> None:
        """Stop claiming that something is under way which nobody confirms."""
        for pending in list(self.pending.values()):
            if now - pending.since > PENDING_EXPIRES_S:
                self.refused(pending)

    def under_way(self, model: str) -> str | None:
        """What is being done to `model`, here or by another console: `load`, …."""
        if pending := self.pending.get(model):
            return pending.kind
        for operation in self.operations.values():
            if operation.model == model and operation.state == "running":
                return operation.kind
        return None

    def totals(self) -> Totals:
        """Sums over the fleet."""
        memory = [memory_of(node) for node in self.nodes.values()]
        used = [used for used, total in memory if used is not None and total]
        states = [node.state for node in self.nodes.values()]
        failed = sum(model.state == "failed" for model in self.models.values())
        return Totals(
            nodes_ready=sum(state == "ready" for state in states),
            nodes=len(states),
            loaded=sum(model.state == "ready" for model in self.models.values()),
            models=len(self.models),
            running=sum(model.running for model in self.models.values()),
            waiting=sum(model.waiting for model in self.models.values()),
            memory_used=sum(used) if used else None,
            memory_total=sum(t or 0 for u, t in memory if u is not None) or None,
            alerts=failed + sum(state in ("stale", "down") for state in states),
        )

    def tok_s(self) -> float | None:
        """Decoded tokens per second over the fleet, over the last second."""
        return self.history[-1].tok_s if self.history else None

    def ttft_s(self) -> float | None:
        """The latest median time to first token that was measured."""
        measured = (s.ttft_s for s in reversed(self.history) if s.ttft_s is not None)
        return next(measured, None)

    def _is_another(self, gateway: GatewayView) -> bool:
        known = self.gateway
        return known is not None and (known.pid, known.started_at) != (
            gateway.pid,
            gateway.started_at,
        )

    def _add_event(self, event: FleetEvent) -> None:
        if not self.events or event.seq > self.events[-1].seq:
            self.events.append(event)

    def _add_history(self, samples: Iterable[Sample]) -> None:
        newest = self.history[-1].time if self.history else float("-inf")
        self.history.extend(s for s in samples if s.time > newest)

    def _settle(self, now: float) -> None:
        """Drop what the gateway has confirmed: done, or visible as its own."""
        for pending in list(self.pending.values()):
            operation = self.operations.get(pending.operation or "")
            if operation is not None:
                del self.pending[pending.model]
        self.expire(now)


def memory_of(node: NodeView) -> tuple[int | None, int | None]:
    """(used, total) MiB of a node: its GPUs' together, or its RAM without any."""
    if not node.devices:
        if node.ram_total_mb is None or node.ram_free_mb is None:
            return None, node.ram_total_mb
        return node.ram_total_mb - node.ram_free_mb, node.ram_total_mb
    totals = [device.vram_total_mb for device in node.devices]
    used = [live.vram_used_mb for live in node.live]
    known = [value for value in used if value is not None]
    total = sum(value or 0 for value in totals) or None
    return (sum(known) if known else None), total


def _forget(items: dict[str, T], names: list[str]) -> None:
    for name in names:
        items.pop(name, None)
