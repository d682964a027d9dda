"""What anybody may ask: models, health, version."""

import platform

import orjson
from aiohttp import web

from neuron.protocol.errors import model_not_found
from neuron.protocol.types import ModelState, Version, Wire
from services.fleet import views
from services.gateway.context import GATEWAY
from services.schema import ModelView

OWNER = "cortex"


def json_response(value: Wire) -> web.Response:
    return web.Response(
        body=value.model_dump_json().encode(), content_type="application/json"
    )


async def health(request: web.Request) -> web.Response:
    """GET /health and /: 200 while the gateway answers."""
    gateway = request.app[GATEWAY]
    view = views.health_view(gateway.fleet.state, stopping=gateway.stopping.is_set())
    return json_response(view)


async def version(_: web.Request) -> web.Response:
    return json_response(Version(python=platform.python_version()))


async def list_models(request: web.Request) -> web.Response:
    """GET /v1/models: whatever some node can serve, loaded or not."""
    fleet = request.app[GATEWAY].fleet
    await fleet.dispatcher.wait_for_first_answers()
    state = fleet.state
    created = int(state.started_at)
    data = [model_entry(view, created) for view in views.servable_models(state)]
    return _json({"object": "list", "data": data})


async def one_model(request: web.Request) -> web.Response:
    """GET /v1/models/{id}; the id may contain slashes."""
    fleet = request.app[GATEWAY].fleet
    await fleet.dispatcher.wait_for_first_answers()
    state = fleet.state
    wanted = request.match_info["id"]
    models = {view.id: view for view in views.servable_models(state)}
    if wanted not in models:
        raise model_not_found(wanted, sorted(models))
    return _json(model_entry(models[wanted], int(state.started_at)))


def model_entry(view: ModelView, created: int) -> dict[str, object]:
    """OpenAI's model object, and what an operator's clients ask for besides.

    `max_model_len` is the longest context of a loaded replica, else the model's own.
    """
    loaded_lengths = [r.max_seq_len for r in view.replicas if r.max_seq_len]
    return {
        "id": view.id,
        "object": "model",
        "created": created,
        "owned_by": OWNER,
        "state": view.state,
        "loaded": view.state is ModelState.READY,
        "pinned": view.pinned,
        "locations": [{"node": r.node, "state": r.state} for r in view.replicas],
        "max_model_len": max(loaded_lengths, default=view.context),
        "format": view.format,
        "bpw": view.bpw,
        "architecture": view.architecture,
        "capabilities": view.capabilities,
    }


def _json(value: dict[str, object]) -> web.Response:
    return web.Response(body=orjson.dumps(value), content_type="application/json")
