"""The state of the fleet as the admin API shows it. Pure."""

import time

from neuron.protocol.types import Model, ModelLoad, ModelState, Servable
from services.fleet.node import Node
from services.fleet.requests import ModelStats
from services.fleet.state import FleetState
from services.schema import (
    FleetSnapshot,
    GatewayView,
    HealthView,
    ModelView,
    NodeState,
    NodeView,
    Replica,
)

SNAPSHOT_EVENTS = 100

_BEST_FIRST = (
    ModelState.READY,
    ModelState.RECOVERING,
    ModelState.LOADING,
    ModelState.UNLOADING,
    ModelState.FAILED,
    ModelState.UNLOADED,
)


def snapshot(state: FleetState, gateway: GatewayView) -> FleetSnapshot:
    """Everything, now."""
    now, monotonic = time.time(), time.monotonic()
    return FleetSnapshot(
        seq=state.signal.version,
        time=now,
        gateway=gateway,
        nodes=[node_view(state.nodes[name]) for name in sorted(state.nodes)],
        models=model_views(state),
        requests=[request.view(monotonic) for request in state.requests.oldest_first()],
        operations=[o.model_copy() for o in state.operations.shown(now)],
        events=state.events.last(SNAPSHOT_EVENTS),
        history=list(state.history),
    )


def node_view(node: Node) -> NodeView:
    discovery, health = node.discovery, node.health
    loads = health.models if health else []
    return NodeView(
        name=node.name,
        endpoint=node.endpoint,
        state=node.state,
        reason=node.reason,
        version=discovery.version if discovery else None,
        devices=discovery.devices if discovery else [],
        live=health.devices if health else [],
        ram_total_mb=discovery.ram_total_mb if discovery else None,
        ram_free_mb=health.ram_free_mb if health else None,
        tok_s=node.tok_s if node.state is not NodeState.DOWN else None,
        running=sum(load.in_flight for load in loads),
        waiting=sum(load.queued for load in loads),
        uptime_s=health.uptime_s if health else None,
        last_seen=node.last_seen,
    )


def model_views(state: FleetState) -> list[ModelView]:
    """Every model that a node or the catalogue knows, by id."""
    known = {model for node in state.nodes.values() for model in node.models}
    known |= state.catalogue.entries.keys()
    return [model_view(state, model) for model in sorted(known)]


def model_view(state: FleetState, model_id: str) -> ModelView:
    replicas = {
        node.name: node.models[model_id]
        for node in state.nodes.values()
        if model_id in node.models
    }
    views = [replica(state.nodes[name], replicas[name]) for name in sorted(replicas)]
    facts = _merged_facts([replicas[name] for name in sorted(replicas)])
    stats = state.requests.stats.get(model_id, ModelStats())
    running, waiting = state.requests.phases(model_id)
    return ModelView(
        id=model_id,
        state=best_state([view.state for view in views]),
        replicas=views,
        pinned=state.entry(model_id).pinned,
        running=running,
        waiting=waiting,
        tok_s=_tok_s(state, model_id),
        ttft_s=stats.ttft_s(time.monotonic()),
        requests=stats.requests,
        errors=stats.errors,
        last_used=stats.last_used,
        **facts,
    )


def servable_models(state: FleetState) -> list[ModelView]:
    """Models that some node can serve, loaded or not."""
    return [
        view
        for view in model_views(state)
        if any(copy.servable.ok for copy in view.replicas)
    ]


def _merged_facts(models: list[Model]) -> dict[str, object]:
    """What the nodes say of the same model: the first known value; all capabilities."""
    merged: dict[str, object] = {}
    names = ("format", "bpw", "architecture", "parameters", "context", "weight_bytes")
    for name in names:
        values = [getattr(model, name) for model in models]
        merged[name] = next((value for value in values if value is not None), None)
    merged["capabilities"] = sorted({c for m in models for c in m.capabilities})
    return merged


def best_state(states: list[ModelState]) -> ModelState:
    return min(states, key=_BEST_FIRST.index, default=ModelState.UNLOADED)


def replica(node: Node, model: Model) -> Replica:
    """One node's copy; on a node that is down nothing is loaded, as far as is known."""
    if node.state is NodeState.DOWN:
        why = f"{node.name} is down"
        return Replica(
            node=node.name, servable=Servable(ok=False, reason=why), error=why
        )
    load = _load_of(node, model.id)
    return Replica(
        node=node.name,
        state=model.state,
        progress=model.progress,
        memory_mb=model.memory_mb,
        max_seq_len=model.max_seq_len,
        slots=model.slots,
        running=load.in_flight,
        waiting=load.queued,
        servable=model.servable,
        error=model.error,
        loaded_at=model.loaded_at,
    )


def _load_of(node: Node, model_id: str) -> ModelLoad:
    loads = node.health.models if node.health else []
    return next((load for load in loads if load.id == model_id), ModelLoad())


def _tok_s(state: FleetState, model_id: str) -> float | None:
    rates = [
        _load_of(node, model_id).decode_tok_s
        for node in state.nodes.values()
        if node.state is not NodeState.DOWN
    ]
    known = [rate for rate in rates if rate is not None]
    return round(sum(known), 1) if known else None


def health_view(state: FleetState, *, stopping: bool) -> HealthView:
    nodes = state.nodes.values()
    ready = sum(node.state is NodeState.READY for node in nodes)
    healthy = "ok" if ready and ready == len(nodes) else "degraded"
    return HealthView(
        status="draining" if stopping else healthy,
        nodes_ready=ready,
        nodes_total=len(nodes),
        models_ready=sum(view.state is ModelState.READY for view in model_views(state)),
        uptime_s=round(time.monotonic() - state.started, 3),
    )
