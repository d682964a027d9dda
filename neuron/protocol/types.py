"""Wire types of the neuron API.

Every field is optional on input with a default and unknown ones are ignored, so that
old and new builds talk to each other; an unknown number is `None`, never 0. Sizes are
in MiB where the name ends in `_mb`, else in bytes; times are seconds since the epoch
or durations in seconds.
"""

from enum import StrEnum
from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, Field

from neuron.protocol.version import PROTOCOL, build_version


class Wire(BaseModel):
    """Base of everything that crosses a socket."""

    model_config = ConfigDict(extra="ignore", protected_namespaces=())


class ModelState(StrEnum):
    """Life of a model on one neuron."""

    UNLOADED = "unloaded"
    LOADING = "loading"
    READY = "ready"
    UNLOADING = "unloading"
    FAILED = "failed"
    RECOVERING = "recovering"


class Device(Wire):
    """One GPU, as it was found at start."""

    index: int = 0
    uuid: str = ""
    name: str = ""
    vram_total_mb: int | None = None
    compute_capability: str | None = None
    pcie_generation: int | None = None
    pcie_width: int | None = None


class DeviceHealth(Wire):
    """One GPU, as it was sampled last."""

    index: int = 0
    vram_used_mb: int | None = None
    vram_free_mb: int | None = None
    vram_ours_mb: int | None = None
    utilization_pct: int | None = None
    temperature_c: int | None = None
    power_w: float | None = None
    power_limit_w: float | None = None


class EngineInfo(Wire):
    """One engine of this build, and whether this host can run it."""

    name: str = ""
    available: bool = False
    reason: str | None = None
    formats: list[str] = Field(default_factory=list)
    features: list[str] = Field(default_factory=list)


class Discovery(Wire):
    """What this host is; constant while the daemon runs."""

    protocol: int = PROTOCOL
    version: str = Field(default_factory=build_version)
    hostname: str = ""
    os: str = ""
    kernel: str = ""
    driver: str | None = None
    cuda: str | None = None
    driver_problem: str | None = None
    ram_total_mb: int | None = None
    devices: list[Device] = Field(default_factory=list)
    engines: list[EngineInfo] = Field(default_factory=list)


class ModelLoad(Wire):
    """How busy one loaded model is, from its worker's last heartbeat."""

    id: str = ""
    pid: int | None = None
    in_flight: int = 0
    queued: int = 0
    rejections: dict[str, int] = Field(default_factory=dict)
    """Requests turned away, by reason, since the worker's start."""
    queue_waits: dict[str, int] = Field(default_factory=dict)
    """Requests that got a slot within so many seconds, `"+Inf"` for all of them."""
    queue_waited_s: float = 0
    """Sum of all those waits."""
    unparsed_calls: int = 0
    """Tool calls that could not be parsed and went out as text, since then."""
    slots: int | None = None
    kv_pages_used: int | None = None
    kv_pages_total: int | None = None
    decode_tok_s: float | None = None
    prefill_tok_s: float | None = None
    steps: int | None = None
    heartbeat_age_s: float | None = None


class Health(Wire):
    """What this host does now; answered from caches only."""

    status: Literal["ready", "draining"] = "ready"
    uptime_s: float = 0
    ram_free_mb: int | None = None
    devices: list[DeviceHealth] = Field(default_factory=list)
    models: list[ModelLoad] = Field(default_factory=list)
    event_seq: int = 0


class Version(Wire):
    """Build of the running process."""

    version: str = Field(default_factory=build_version)
    protocol: int = PROTOCOL
    python: str = ""
    pid: int | None = None


class Servable(Wire):
    """Whether a request for this model would be taken; absent evidence is a yes."""

    ok: bool = True
    reason: str | None = None


class LoadProgress(Wire):
    """How far a load is: `done` of `total`, in the stage's own unit (say, tensors)."""

    stage: str = ""
    done: int = 0
    total: int = 0


class Model(Wire):
    """One model on this neuron's disk, loaded or not."""

    id: str = ""
    state: ModelState = ModelState.UNLOADED
    engine: str | None = None
    format: str | None = None
    bpw: float | None = None
    architecture: str | None = None
    parameters: int | None = None
    context: int | None = None
    """Longest context the model was trained for, in tokens."""
    max_seq_len: int | None = None
    """Longest context of the loaded instance, in tokens."""
    slots: int | None = None
    cache_mode: str | None = None
    weight_bytes: int | None = None
    kv_bytes_per_token: int | None = None
    devices: list[int] = Field(default_factory=list)
    memory_mb: int | None = None
    """Measured on the loaded instance: VRAM, or RAM where the engine runs on a CPU."""
    servable: Servable = Field(default_factory=Servable)
    capabilities: list[str] = Field(default_factory=list)
    progress: LoadProgress | None = None
    error: str | None = None
    loaded_at: float | None = None


class ModelList(Wire):
    """GET /models."""

    models: list[Model] = Field(default_factory=list)


class LoraAdapter(Wire):
    """A LoRA adapter that every request of the loaded model runs with."""

    path: str = Field(min_length=1)
    """PEFT folder on the neuron; a relative one is looked for in the model's folder."""
    scale: float = Field(default=1.0, allow_inf_nan=False)
    """Factor on what the adapter adds."""


class LoadOptions(Wire):
    """How a model is loaded, beyond its size; an engine refuses what it lacks."""

    draft: str | None = None
    """Id of a smaller model with the same tokens, which guesses for this one."""
    draft_tokens: int | None = Field(default=None, ge=1)
    """Tokens guessed per step, by `draft` or `ngram`."""
    ngram: bool | None = None
    """Guess from what the request has said already."""
    tensor_parallel: bool | None = None
    """Split every layer over the GPUs, instead of giving each GPU some layers."""
    rope_scale: float | None = Field(default=None, ge=1, allow_inf_nan=False)
    """Linear context extension: positions are divided by it."""
    rope_alpha: float | None = Field(default=None, ge=1, allow_inf_nan=False)
    """NTK context extension: how much longer the context is to become."""
    yarn_factor: float | None = Field(default=None, ge=1, allow_inf_nan=False)
    """YaRN context extension: how much longer the context is to become."""
    loras: tuple[LoraAdapter, ...] | None = None
    """Adapters to apply."""


class LoadRequest(LoadOptions):
    """POST /models/load and /models/plan; what is absent takes the engine's default."""

    model: str
    """Its id in GET /models."""
    engine: str | None = None
    """Default: the first one that can serve it."""
    devices: list[int] | None = None
    """Indexes of the GPUs to use."""
    max_seq_len: int | None = Field(default=None, ge=1)
    """Longest context, in tokens. Default: what the model was trained for."""
    cache_mode: str | None = None
    """How keys and values are kept."""
    cache_tokens: int | None = Field(default=None, ge=1)
    """KV cache of the whole instance, in tokens. Default: `slots` times
    `max_seq_len`."""
    slots: int | None = Field(default=None, ge=1)
    """Requests that decode at once."""


class LoadPlan(LoadOptions):
    """What a load would need, part by part in bytes, and whether it fits now."""

    model: str = ""
    engine: str = ""
    fits: bool = False
    reason: str | None = None
    need_bytes: int | None = None
    parts: dict[str, int] = Field(default_factory=dict)
    """`weights`, `cache`, `scratch`, …; they add up to `need_bytes`."""
    device_bytes: dict[int, int] = Field(default_factory=dict)
    """GPU → its share of `need_bytes`; empty where the engine runs on a CPU."""
    measured_bytes: int | None = None
    """What the same load took the last time."""
    available_bytes: int | None = None
    devices: list[int] = Field(default_factory=list)
    max_seq_len: int | None = None
    slots: int | None = None
    cache_mode: str | None = None
    cache_tokens: int | None = None


class LoadResult(Wire):
    """A model that is ready; `already_loaded` where this call had nothing to do."""

    model: Model = Field(default_factory=Model)
    already_loaded: bool = False
    load_s: float | None = None


class UnloadRequest(Wire):
    """POST /models/unload; running requests get `drain_s` seconds to finish."""

    model: str
    drain_s: float | None = Field(default=None, ge=0)


class UnloadResult(Wire):
    """The memory is back."""

    model: str = ""
    freed_bytes: int | None = None


class Endpoint(Wire):
    """GET /models/{id}/endpoint: base URL whose `/v1/*` serves this model."""

    url: str = ""


class Event(Wire):
    """One line of GET /events: `seq` grows by one within one run of the daemon."""

    seq: int = 0
    time: float = 0
    kind: Literal["model", "node"] = "model"
    message: str = ""
    model: Model | None = None
    data: dict[str, Any] = Field(default_factory=dict)
