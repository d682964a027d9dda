"""What daemon and worker say to each other over pipes: one JSON object a line.

The worker's standard input carries its `WorkerSpec` and then `Command`s; its end means
that the daemon is gone. `Report`s come back through a pipe of their own, because
libraries print to standard output.
"""

from pathlib import Path
from typing import Annotated, Final, Literal

from pydantic import Field, TypeAdapter

from neuron.protocol.types import LoadOptions, Wire

REPORT_FD_ENV: Final = "NEURON_REPORT_FD"
"""Number of the inherited descriptor that takes reports."""

HEARTBEAT_INTERVAL_S: Final = 0.5

QUEUE_WAIT_BOUNDS_S: Final = (0.01, 0.1, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0, 60.0)
"""Upper bounds of the histogram of waits for a slot."""


class WorkerSpec(Wire):
    """Everything a worker is told: which model, how, and where to listen."""

    model: str
    path: Path
    engine: str
    max_seq_len: int
    slots: int
    cache_mode: str
    cache_tokens: int
    devices: list[int] = Field(default_factory=list)
    options: LoadOptions = Field(default_factory=LoadOptions)
    draft_path: Path | None = None
    """Folder of the model that `options.draft` names."""
    socket: Path
    max_queue: int = 64
    queue_wait_s: float = 60
    max_per_caller: int | None = None
    max_body_bytes: int = 64 * 1024 * 1024
    log_level: str = "INFO"


CloseReason = Literal["unloading", "shutting_down"]


class Command(Wire):
    """`close`: wake whoever waits and take nobody new, because the model is
    `unloading` or the daemon is `shutting_down`. `stop`: end what runs, and exit."""

    kind: Literal["close", "stop"]
    reason: CloseReason = "unloading"


class Progress(Wire):
    """The load went on."""

    kind: Literal["progress"] = "progress"
    stage: str = ""
    done: int = 0
    total: int = 0


class Ready(Wire):
    """The model answers on its socket."""

    kind: Literal["ready"] = "ready"
    rss_bytes: int | None = None


class Stats(Wire):
    """Heartbeat: the loop lives; `steps` says whether the engine does."""

    kind: Literal["stats"] = "stats"
    in_flight: int = 0
    queued: int = 0
    rejections: dict[str, int] = Field(default_factory=dict)
    """By reason, since the worker's start."""
    queue_waits: list[int] = Field(default_factory=list)
    """How many got a slot within each of `QUEUE_WAIT_BOUNDS_S` after the bound before,
    and how many later."""
    queue_waited_s: float = 0
    """Sum of all those waits."""
    unparsed_calls: int = 0
    """Calls of tools that were none, since the worker's start."""
    busy: bool = False
    steps: int | None = None
    """Unknown, like what follows, before the model is loaded."""
    kv_pages_used: int | None = None
    kv_pages_total: int | None = None
    prompt_tokens: int | None = None
    cached_tokens: int | None = None
    generated_tokens: int | None = None
    accepted_draft_tokens: int | None = None
    rejected_draft_tokens: int | None = None
    decode_tok_s: float | None = None
    prefill_tok_s: float | None = None
    rss_bytes: int | None = None


class LoadFailed(Wire):
    """The load ended with an error that the worker could name; it exits."""

    kind: Literal["failed"] = "failed"
    code: str = "load_failed"
    message: str = ""
    param: str | None = None


Report = Annotated[Progress | Ready | Stats | LoadFailed, Field(discriminator="kind")]
REPORT: Final[TypeAdapter[Progress | Ready | Stats | LoadFailed]] = TypeAdapter(Report)
