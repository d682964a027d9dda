"""Wire types and routes of the admin API, between gateway, console and command line.

As on the neuron's wire, fields are optional on input and unknown ones are ignored;
an unknown number is None.
"""

from enum import StrEnum
from typing import Final, Literal

from pydantic import Field

from neuron.protocol.types import (
    Device,
    DeviceHealth,
    LoadProgress,
    ModelState,
    Servable,
    Wire,
)

DEFAULT_PORT: Final = 31313
DEFAULT_METRICS_PORT: Final = 31314

FLEET: Final = "/admin/v1/fleet"
"""GET → FleetSnapshot."""
EVENTS: Final = "/admin/v1/events"
"""GET → SSE: `snapshot` (FleetSnapshot) once, then `delta` (FleetDelta) at most four
times a second, and `event` (FleetEvent, with its seq as the SSE id). `Last-Event-ID`
replays the events missed, as far as they are kept."""
LOAD: Final = "/admin/v1/models/load"
UNLOAD: Final = "/admin/v1/models/unload"
PIN: Final = "/admin/v1/models/pin"
UNPIN: Final = "/admin/v1/models/unpin"
"""POST ModelAction → Operation."""
OPERATION: Final = "/admin/v1/operations/{id}"
"""GET → Operation."""
KEYS: Final = "/admin/v1/keys"
"""GET → KeyList; a change of their file is in force after it."""


class NodeState(StrEnum):
    """A neuron, as the gateway sees it."""

    READY = "ready"
    DRAINING = "draining"
    DRAINED = "drained"
    STALE = "stale"
    DOWN = "down"


class NodeView(Wire):
    """One neuron."""

    name: str = ""
    endpoint: str = ""
    state: NodeState = NodeState.DOWN
    reason: str | None = None
    version: str | None = None
    devices: list[Device] = Field(default_factory=list)
    live: list[DeviceHealth] = Field(default_factory=list)
    ram_total_mb: int | None = None
    ram_free_mb: int | None = None
    tok_s: float | None = None
    running: int = 0
    waiting: int = 0
    uptime_s: float | None = None
    last_seen: float | None = None
    """Epoch seconds of the neuron's last answer."""


class Replica(Wire):
    """One model on one node."""

    node: str = ""
    state: ModelState = ModelState.UNLOADED
    progress: LoadProgress | None = None
    memory_mb: int | None = None
    max_seq_len: int | None = None
    slots: int | None = None
    running: int = 0
    waiting: int = 0
    servable: Servable = Field(default_factory=Servable)
    error: str | None = None
    loaded_at: float | None = None


class ModelView(Wire):
    """One model over the whole fleet: where it is, and how it does."""

    id: str = ""
    state: ModelState = ModelState.UNLOADED
    """The best of its replicas' states."""
    replicas: list[Replica] = Field(default_factory=list)
    pinned: bool = False
    format: str | None = None
    bpw: float | None = None
    architecture: str | None = None
    parameters: int | None = None
    context: int | None = None
    weight_bytes: int | None = None
    capabilities: list[str] = Field(default_factory=list)
    running: int = 0
    """In flight through this gateway and answering."""
    waiting: int = 0
    """In flight through this gateway, before the first token."""
    tok_s: float | None = None
    """Decoded tokens per second over all its streams, over the last seconds."""
    ttft_s: float | None = None
    """Median over the last requests."""
    requests: int = 0
    """Since the gateway started."""
    errors: int = 0
    last_used: float | None = None

    @property
    def max_model_len(self) -> int | None:
        """The longest context of a loaded replica, else the model's own."""
        loaded = (each.max_seq_len for each in self.replicas)
        return max(filter(None, loaded), default=self.context)


class RequestPhase(StrEnum):
    """Where a request in flight is."""

    LOADING = "loading"
    WAITING = "waiting"
    """Sent to the neuron; no token yet (queued or in prefill)."""
    DECODING = "decoding"


class RequestView(Wire):
    """One request in flight."""

    id: str = ""
    model: str = ""
    node: str | None = None
    client: str = ""
    route: str = ""
    phase: RequestPhase = RequestPhase.WAITING
    started_at: float = 0
    ttft_s: float | None = None
    tokens: int = 0
    """Generated so far, counted by stream events."""
    tok_s: float | None = None


class FleetEvent(Wire):
    """Something that happened, in words, for people."""

    seq: int = 0
    time: float = 0
    level: Literal["info", "warning", "error"] = "info"
    kind: str = ""
    """load, unload, fail, recover, pin, unpin, node, request, config, …"""
    text: str = ""
    model: str | None = None
    node: str | None = None


class Sample(Wire):
    """One second of the whole fleet."""

    time: float = 0
    tok_s: float = 0
    running: int = 0
    waiting: int = 0
    ttft_s: float | None = None
    """Median of the requests whose first token came in this second."""


class OperationState(StrEnum):
    RUNNING = "running"
    DONE = "done"
    FAILED = "failed"


class Operation(Wire):
    """Something an operator asked for."""

    id: str = ""
    kind: Literal["load", "unload", "pin", "unpin"] = "load"
    model: str = ""
    node: str | None = None
    state: OperationState = OperationState.RUNNING
    error: str | None = None
    by: str = ""
    """Who asked, as they named themselves, and from where."""
    created_at: float = 0
    finished_at: float | None = None
    freed_bytes: int | None = None


class ModelAction(Wire):
    """Body of load, unload, pin and unpin."""

    model: str
    node: str | None = None
    """Load: the best one when absent. Unload: every replica when absent."""
    wait: bool = True
    """False: answer with the running operation at once."""
    drain_s: float | None = Field(default=None, ge=0)
    max_seq_len: int | None = Field(default=None, ge=1)
    slots: int | None = Field(default=None, ge=1)
    by: str = ""


class GatewayView(Wire):
    """The gateway itself."""

    version: str = ""
    pid: int = 0
    url: str = ""
    metrics_url: str | None = None
    started_at: float = 0
    config_path: str | None = None
    catalogue_path: str | None = None


class FleetSnapshot(Wire):
    """Everything, at one moment."""

    seq: int = 0
    time: float = 0
    gateway: GatewayView = Field(default_factory=GatewayView)
    nodes: list[NodeView] = Field(default_factory=list)
    models: list[ModelView] = Field(default_factory=list)
    requests: list[RequestView] = Field(default_factory=list)
    operations: list[Operation] = Field(default_factory=list)
    """Those running, and those that ended in the last minute."""
    events: list[FleetEvent] = Field(default_factory=list)
    """The last ones, oldest first."""
    history: list[Sample] = Field(default_factory=list)
    """The last five minutes, oldest first."""


class FleetDelta(Wire):
    """What changed since the last snapshot or delta of this stream.

    Listed items replace those of the same name or id; removed ones are named.
    """

    seq: int = 0
    time: float = 0
    nodes: list[NodeView] = Field(default_factory=list)
    models: list[ModelView] = Field(default_factory=list)
    requests: list[RequestView] = Field(default_factory=list)
    operations: list[Operation] = Field(default_factory=list)
    removed_nodes: list[str] = Field(default_factory=list)
    removed_models: list[str] = Field(default_factory=list)
    removed_requests: list[str] = Field(default_factory=list)
    removed_operations: list[str] = Field(default_factory=list)
    history: list[Sample] = Field(default_factory=list)
    """New samples, oldest first."""


class KeyView(Wire):
    """One key: what it may do, and what it has spent; never the key itself."""

    id: str = ""
    name: str = ""
    scope: str = ""
    models: list[str] = Field(default_factory=list)
    """Patterns of the models it may use."""
    requests_per_minute: int | None = None
    tokens_per_minute: int | None = None
    budget_tokens: int | None = None
    budget_cost: float | None = None
    window: str = ""
    """The span of its budget, and of what is said to be spent."""
    renews_at: float = 0
    """When the next window begins."""
    priority: int = 0
    created_at: float | None = None
    revoked: bool = False
    last_used: float | None = None
    requests: int = 0
    """That ended in this window, as the tokens."""
    prompt_tokens: int = 0
    cached_tokens: int = 0
    completion_tokens: int = 0
    cost: float = 0
    """Of the models that have one."""
    last_minute_requests: int = 0
    last_minute_tokens: int = 0


class KeyList(Wire):
    """GET /admin/v1/keys."""

    path: str = ""
    """The file that they are in."""
    required: bool = False
    """Whether requests without one are refused."""
    warning: str | None = None
    """What is wrong with the file, and what to do about it."""
    keys: list[KeyView] = Field(default_factory=list)


class HealthView(Wire):
    """GET /health; always 200 while the gateway answers."""

    status: Literal["ok", "degraded", "draining"] = "ok"
    nodes_ready: int = 0
    nodes_total: int = 0
    models_ready: int = 0
    uptime_s: float = 0
