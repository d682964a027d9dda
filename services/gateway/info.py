"""What anybody may ask: models, health, version."""

import platform

import orjson
from aiohttp import web

from neuron.protocol.errors import model_not_found
from neuron.protocol.types import ModelState, Version, Wire
from services.fleet import views
from services.gateway.context import GATEWAY
from services.gateway.dialect_choice import lists_for_anthropic
from services.gateway.dialects.anthropic import (
    model_entry as anthropic_entry,
    models_page,
)
from services.gateway.identity import concrete, may_see
from services.schema import ModelView

OWNER = "cortex"

Entry = dict[str, object]
"""One model as `/v1/models` has it."""


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
    entries = await _entries(request)
    data = [entries[name] for name in sorted(entries)]
    if lists_for_anthropic(request):
        return _json(models_page(data, request.query))
    return _json({"object": "list", "data": data})


async def one_model(request: web.Request) -> web.Response:
    """GET /v1/models/{id}; the id may contain slashes."""
    wanted = request.match_info["id"]
    # What a request would reach: a pattern's and the default's names, too.
    model = await concrete(request, wanted)
    entries = await _entries(request)
    if (entry := entries.get(model)) is None:
        raise model_not_found(wanted, sorted(entries))
    named = entry if model == wanted else _named(entry, wanted)
    return _json(anthropic_entry(named) if lists_for_anthropic(request) else named)


async def _entries(request: web.Request) -> dict[str, Entry]:
    """Name → what it stands for: models that are served to whoever asks, and their
    aliases."""
    fleet = request.app[GATEWAY].fleet
    await fleet.dispatcher.wait_for_first_answers()
    created = int(fleet.state.started_at)
    entries = {
        view.id: model_entry(view, created)
        for view in views.servable_models(fleet.state)
        if may_see(request, view.id)
    }
    aliases = {
        alias: _named(entries[model], alias)
        for alias, model in fleet.state.catalogue.aliases.items()
        if model in entries
    }
    return aliases | entries


def _named(entry: Entry, alias: str) -> Entry:
    return {**entry, "id": alias, "alias_of": entry["id"]}


def model_entry(view: ModelView, created: int) -> Entry:
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


def _json(value: Entry) -> web.Response:
    return web.Response(body=orjson.dumps(value), content_type="application/json")
