"""Ollama's routes: what it lists and shows, and which of its requests load a model."""

import logging
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import Final

from aiohttp import web
from aiohttp.typedefs import Handler

from neuron.protocol.errors import ApiError, shutting_down
from neuron.protocol.headers import MODEL
from neuron.protocol.types import ModelState
from services.fleet import views
from services.gateway.answer import warning_header
from services.gateway.client_request import (
    client_name,
    named_model,
    read_object,
    request_id,
    work_on,
)
from services.gateway.context import GATEWAY, VERSION, Gateway
from services.gateway.dialects.base import Json
from services.gateway.dialects.ollama.answer import OllamaTranslation
from services.gateway.dialects.ollama.lines import (
    Said,
    as_message,
    as_response,
    line,
)
from services.gateway.dialects.ollama.models import listed, running, shown
from services.gateway.dialects.ollama.request import translate_chat, translate_generate
from services.gateway.identity import concrete, key_of
from services.gateway.inference import refusals_told, serve
from services.gateway.replica_search import find_replica
from services.gateway.sending import json_response
from services.gateway.visible_models import (
    visible_model,
    visible_models,
    visible_names,
)
from services.keys.limits import check_model

log = logging.getLogger(__name__)

API_VERSION: Final = "0.13.0"
"""The release of Ollama whose API this is: clients ask for a least one."""
_CANNOT_EMBED: Final = "no model here can embed"
_BY_THE_OPERATOR: Final = "models are folders in the neurons' `models_dirs`"
_REFUSED: Final = {
    "/api/embed": _CANNOT_EMBED,
    "/api/embeddings": _CANNOT_EMBED,
    "/api/pull": f"{_BY_THE_OPERATOR}; put it there",
    "/api/push": f"{_BY_THE_OPERATOR}; copy it from there",
    "/api/create": f"{_BY_THE_OPERATOR}; `neuron quantize` makes them",
    "/api/copy": f"{_BY_THE_OPERATOR}; `aliases` in models.toml give them more names",
    "/api/delete": f"{_BY_THE_OPERATOR}; remove it there",
}


def routes() -> list[web.RouteDef]:
    return [
        web.get("/api/version", version),
        web.get("/api/tags", tags),
        web.get("/api/ps", ps),
        web.post("/api/show", show),
        web.post("/api/chat", _answering(_CHAT)),
        web.post("/api/generate", _answering(_GENERATE)),
        *(web.route("*", path, refuse) for path in _REFUSED),
    ]


async def version(_: web.Request) -> web.Response:
    return json_response({"version": API_VERSION, "cortex": VERSION})


async def tags(request: web.Request) -> web.Response:
    """GET /api/tags: whatever some node can serve, loaded or not."""
    since = request.app[GATEWAY].fleet.state.started_at
    names = await visible_names(request)
    models = [listed(view, name, since) for name, view in names.items()]
    return json_response({"models": models})


async def ps(request: web.Request) -> web.Response:
    """GET /api/ps: what is loaded, and until when."""
    fleet = request.app[GATEWAY].fleet
    visible = await visible_models(request)
    on_gpu = frozenset(
        node.name
        for node in fleet.state.nodes.values()
        if node.discovery is not None and node.discovery.devices
    )
    models = [
        running(view, fleet.idle.expires_at(view.id), on_gpu)
        for view in visible.values()
        if view.state is ModelState.READY
    ]
    return json_response({"models": models})


async def show(request: web.Request) -> web.Response:
    """POST /api/show."""
    fields = await read_object(request)
    # Older clients call it a name.
    asked = named_model({"model": fields.get("model") or fields.get("name")})
    since = request.app[GATEWAY].fleet.state.started_at
    return json_response(shown(await visible_model(request, asked), since))


async def refuse(request: web.Request) -> web.Response:
    """
    Raises:
        ApiError: always, with what there is instead.
    """
    instead = _REFUSED[request.path]
    raise ApiError(
        501, f"{request.path} is not supported: {instead}", code="not_supported"
    )


@dataclass(frozen=True, slots=True)
class _Route:
    translate: Callable[[Json], OllamaTranslation]
    word: Callable[[Said], Json]
    asks: tuple[str, ...]
    """Fields of which a request has one, unless it only loads or unloads."""


_CHAT: Final = _Route(translate_chat, as_message, ("messages",))
_GENERATE: Final = _Route(translate_generate, as_response, ("prompt", "images"))


def _answering(route: _Route) -> Handler:
    async def handle(request: web.Request) -> web.StreamResponse:
        with refusals_told(request):
            fields = await read_object(request)
            if not any(fields.get(name) for name in route.asks):
                return await _load_or_unload(request, fields, route)

        return await serve(request, partial(_translated, route.translate))

    return handle


async def _translated(
    translate: Callable[[Json], OllamaTranslation], request: web.Request
) -> OllamaTranslation:
    fleet = request.app[GATEWAY].fleet
    translation = await work_on(request, translate)
    model = await concrete(request, translation.asked)
    capabilities = views.model_view(fleet.state, model).capabilities
    if translation.body.get("enable_thinking") and "reasoning" not in capabilities:
        translation.warnings.append(f"think: {model} does not think")
    if (seconds := translation.keep_alive) is not None:
        translation.when_done = partial(fleet.idle.keep_alive, model, seconds)
    return translation


async def _load_or_unload(
    request: web.Request, fields: Json, route: _Route
) -> web.Response:
    gateway = request.app[GATEWAY]
    if gateway.stopping.is_set():
        raise shutting_down()
    asked = named_model(fields)
    translation = await work_on(request, route.translate)
    seconds = translation.keep_alive
    model = await concrete(request, asked)
    if (key := key_of(request)) is not None:
        check_model(key, model)
    if seconds == 0:
        reason = "unload"
        await _unload(gateway, model, client_name(request))
    else:
        reason = "load"
        await find_replica(gateway, model, frozenset(), _say_nothing)
        if seconds is not None:
            gateway.fleet.idle.keep_alive(model, seconds)
    log.info("request id=%s: %s of %s", request_id(request), reason, model)
    answer = json_response(line(asked, route.word(Said()), {"done_reason": reason}))
    answer.headers.update({MODEL: model, **warning_header(translation)})
    return answer


async def _unload(gateway: Gateway, model: str, by: str) -> None:
    """Now, or as soon as nobody uses it.

    Raises:
        ApiError: 409, it is pinned; 502, it could not be unloaded.
    """
    if gateway.fleet.state.entry(model).pinned:
        raise ApiError(
            409,
            f"'{model}' is pinned, and stays until an operator unloads it",
            code="model_pinned",
            param="model",
        )
    if not await gateway.fleet.idle.unload_now(model, by):
        gateway.fleet.idle.keep_alive(model, 0)


async def _say_nothing(_: str) -> None:
    """There is nothing to say before the one object of the answer."""
