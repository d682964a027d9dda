"""The daemon's own operations; those of models are the worker's."""

from typing import Final, Literal

from typing_extensions import TypedDict

from neuron.operation import SSE, Operation
from neuron.protocol import routes
from neuron.protocol.types import (
    Discovery,
    Endpoint,
    Health,
    LoadPlan,
    LoadRequest,
    LoadResult,
    ModelList,
    UnloadRequest,
    UnloadResult,
    Version,
)

_STARTING: Final = (503,)
_LOAD_REFUSALS: Final = (404, 409, 422, 500, 503, 507)


class ServedModel(TypedDict):
    """A model that answers now."""

    id: str
    object: Literal["model"]
    created: int
    owned_by: str
    max_model_len: int | None


class ServedModels(TypedDict):
    """GET /v1/models."""

    object: Literal["list"]
    data: list[ServedModel]


OPERATIONS: Final = (
    Operation(
        "discovery", "GET", routes.DISCOVERY, "What this host is",
        answer=Discovery, refusals=_STARTING,
    ),
    Operation(
        "health", "GET", routes.HEALTH, "What this host does now", answer=Health,
        open=True,
    ),
    Operation(
        "version", "GET", routes.VERSION, "Build of the running process",
        answer=Version, open=True,
    ),
    Operation(
        "openapi", "GET", routes.OPENAPI, "This document", answer=dict[str, object]
    ),
    Operation(
        "metrics", "GET", routes.METRICS, "Prometheus' text format",
        media="text/plain",
    ),
    Operation(
        "models", "GET", routes.MODELS, "Every model on disk, loaded or not",
        answer=ModelList, refusals=_STARTING,
    ),
    Operation(
        "endpoint", "GET", routes.MODEL_ENDPOINT, "Base URL that serves the model",
        answer=Endpoint, refusals=(404, 503),
    ),
    Operation(
        "plan", "POST", routes.MODELS_PLAN, "What a load would need; loads nothing",
        body=LoadRequest, answer=LoadPlan, refusals=(404, 409, 422, 503),
    ),
    Operation(
        "load", "POST", routes.MODELS_LOAD,
        "Load a model, or wait for its load; idempotent",
        body=LoadRequest, answer=LoadResult, refusals=_LOAD_REFUSALS,
        stream="`progress` events, then one `result` or `error`; ask for them with"
        " `Accept: text/event-stream`",
    ),
    Operation(
        "unload", "POST", routes.MODELS_UNLOAD,
        "Unload a model; answers when the memory is back",
        body=UnloadRequest, answer=UnloadResult, refusals=(404, 409, 503),
    ),
    Operation(
        "events", "GET", routes.EVENTS, "Changes, as they happen",
        media=SSE, refusals=_STARTING, headers=("Last-Event-ID",),
        stream="a `snapshot`, or what came after `Last-Event-ID`; then each `event`,"
        " numbered by its `id`",
    ),
    Operation(
        "v1_models", "GET", routes.V1_MODELS, "Models that answer now",
        answer=ServedModels,
    ),
)  # fmt: skip
