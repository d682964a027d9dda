"""One neuron as the gateway knows it, and which state that amounts to."""

from dataclasses import dataclass, field

from neuron.protocol.types import Discovery, Health, Model, ModelState
from services.fleet.journal import Level
from services.schema import NodeState

STALE_AFTER_S = 3.0
"""Silence after which a node is used only where no other can serve."""
DOWN_AFTER_S = 15.0
"""Silence after which a node counts as gone."""


@dataclass(slots=True)
class Node:
    """What a neuron said last, and when.

    `seen_at` is on the monotonic clock, `last_seen` in epoch seconds. What was learnt
    is kept while the node is silent, so that its models are "unavailable now" instead
    of unknown.
    """

    name: str
    endpoint: str = ""
    """Base URL; empty while a local neuron is being started."""
    discovery: Discovery | None = None
    health: Health | None = None
    models: dict[str, Model] = field(default_factory=dict)
    models_known: bool = False
    seen_at: float | None = None
    last_seen: float | None = None
    problem: str | None = None
    """Why the last attempt to reach it failed."""
    state: NodeState = NodeState.DOWN
    """As of the last tick; `state_at` computes it."""

    @property
    def heard(self) -> bool:
        """Whether it has told, once, how it is and what it has."""
        return self.models_known and self.health is not None

    @property
    def reason(self) -> str | None:
        """Why it is not ready, in words."""
        if self.state is NodeState.READY:
            return None
        if self.state is NodeState.DRAINING:
            return "shutting down"
        return self.problem or ("starting" if not self.endpoint else "no answer yet")

    @property
    def free_mb(self) -> int | None:
        """Free VRAM over all devices, or free RAM on a host without any."""
        if self.health is None:
            return None
        if not self.health.devices:
            return self.health.ram_free_mb
        free = [device.vram_free_mb for device in self.health.devices]
        return sum(mb for mb in free if mb is not None) if any(free) else None

    @property
    def tok_s(self) -> float | None:
        """Decoded tokens per second over all its models, as it reports them."""
        if self.health is None:
            return None
        rates = [model.decode_tok_s for model in self.health.models]
        known = [rate for rate in rates if rate is not None]
        return round(sum(known), 1) if known else None


def state_at(node: Node, now: float) -> NodeState:
    """The node's state at monotonic time `now`."""
    if node.seen_at is None or node.health is None:
        return NodeState.DOWN
    silence = now - node.seen_at
    if silence > DOWN_AFTER_S:
        return NodeState.DOWN
    if silence > STALE_AFTER_S:
        return NodeState.STALE
    return NodeState.DRAINING if node.health.status == "draining" else NodeState.READY


def describe_state(node: Node) -> tuple[Level, str]:
    """(level, text) of the state that the node has just got into."""
    match node.state:
        case NodeState.READY:
            return "info", f"{node.name} is ready"
        case NodeState.STALE:
            return "warning", f"{node.name} is silent: {node.reason}"
        case NodeState.DOWN:
            return "error", f"{node.name} is down: {node.reason}"
        case NodeState.DRAINING | NodeState.DRAINED:
            return "warning", f"{node.name} is shutting down"


def describe_transition(
    node: str, before: Model | None, after: Model
) -> tuple[Level, str, str] | None:
    """(level, kind, text) of a model's change of state, or None where it is no news."""
    old = before.state if before else None
    new = after.state
    if old is new or (old is None and new is ModelState.UNLOADED):
        return None
    match new:
        case ModelState.LOADING:
            return "info", "load", f"{after.id} is loading on {node}"
        case ModelState.READY:
            verb = "recovered" if old is ModelState.RECOVERING else "is ready"
            kind = "recover" if old is ModelState.RECOVERING else "load"
            return "info", kind, f"{after.id} {verb} on {node}"
        case ModelState.UNLOADING:
            return "info", "unload", f"{after.id} is unloading from {node}"
        case ModelState.UNLOADED:
            return "info", "unload", f"{after.id} is unloaded from {node}"
        case ModelState.RECOVERING:
            why = f": {after.error}" if after.error else ""
            return "warning", "recover", f"{after.id} is being reloaded on {node}{why}"
        case ModelState.FAILED:
            why = after.error or "no reason given"
            return "error", "fail", f"{after.id} failed on {node}: {why}"
