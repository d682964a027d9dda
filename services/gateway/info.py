"""What anybody may ask: models, health, version."""

import platform

from aiohttp import web

from neuron.protocol.types import ModelState, Version
from services.fleet import views
from services.gateway.context import GATEWAY
from services.gateway.dialect_choice import lists_for_anthropic
from services.gateway.dialects.anthropic import (
    model_entry as anthropic_entry,
    models_page,
)
from services.gateway.sending import json_response
from services.gateway.visible_models import visible_model, visible_names
from services.schema import ModelView

OWNER = "cortex"

Entry = dict[str, object]
"""One model as `/v1/models` has it."""


async def health(request: web.Request) -> web.Response:
    """GET /health and /: 200 while the gateway answers."""
    gateway = request.app[GATEWAY]
    view = views.health_view(gateway.fleet.state, stopping=gateway.stopping.is_set())
    return json_response(view)


async def version(_: web.Request) -> web.Response:
    return json_response(Version(python=platform.python_version()))


async def list_models(request: web.Request) -> web.Response:
    """GET /v1/models: whatever some node can serve, loaded or not."""
    created = _created(request)
    names = await visible_names(request)
    data = [model_entry(view, name, created) for name, view in names.items()]
    if lists_for_anthropic(request):
        return json_response(models_page(data, request.query))
    return json_response({"object": "list", "data": data})


async def one_model(request: web.Request) -> web.Response:
    """GET /v1/models/{id}; the id may contain slashes."""
    name = request.match_info["id"]
    # What a request would reach: a pattern's and the default's names, too.
    view = await visible_model(request, name)
    entry = model_entry(view, name, _created(request))
    anthropic = lists_for_anthropic(request)
    return json_response(anthropic_entry(entry) if anthropic else entry)


def _created(request: web.Request) -> int:
    return int(request.app[GATEWAY].fleet.state.started_at)


def model_entry(view: ModelView, name: str, created: int) -> Entry:
    """OpenAI's model object, and what an operator's clients ask for besides."""
    entry: Entry = {
        "id": name,
        "object": "model",
        "created": created,
        "owned_by": OWNER,
        "state": view.state,
        "loaded": view.state is ModelState.READY,
        "pinned": view.pinned,
        "locations": [{"node": r.node, "state": r.state} for r in view.replicas],
        "max_model_len": view.max_model_len,
        "format": view.format,
        "bpw": view.bpw,
        "architecture": view.architecture,
        "capabilities": view.capabilities,
    }
    return entry if name == view.id else entry | {"alias_of": view.id}
