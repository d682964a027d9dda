"""Client routes that name a model: read the request, answer it, tell how it ended."""

import logging
from collections.abc import Awaitable, Callable

from aiohttp import web
from aiohttp.typedefs import Handler

from neuron.protocol.errors import ApiError, shutting_down
from services.gateway import identity
from services.gateway.client_request import (
    Translate,
    client_name,
    named_model,
    read_call,
    read_object,
    request_id,
    work_on,
)
from services.gateway.context import GATEWAY
from services.gateway.dialects.base import Json, Translation
from services.gateway.ending import record
from services.gateway.exchange import Exchange
from services.gateway.metrics import GENERATING

log = logging.getLogger(__name__)


async def handle(request: web.Request) -> web.StreamResponse:
    """A request in the neuron's own form."""
    return await serve(request, None)


async def embeddings(request: web.Request) -> web.StreamResponse:
    """POST /v1/embeddings.

    Raises:
        ApiError: always: no engine embeds.
    """
    asked = named_model(await read_object(request))
    model = await identity.concrete(request, asked)
    raise ApiError(
        400,
        f"model '{model}' generates text and cannot embed; no model here can",
        code="unsupported_model",
        param="model",
    )


def translated(translate: Translate) -> Handler:
    """Handler of a dialect's route."""

    async def handle(request: web.Request) -> web.StreamResponse:
        async def at_once(_: Json) -> Translation:
            return await work_on(request, translate)

        return await serve(request, at_once)

    return handle


async def serve(
    request: web.Request,
    translate: Callable[[Json], Awaitable[Translation]] | None,
) -> web.StreamResponse:
    """One inference request, from its body to its log line."""
    gateway = request.app[GATEWAY]
    id_, key = request_id(request), identity.key_of(request)
    try:
        if gateway.stopping.is_set():
            raise shutting_down()
        call = await read_call(request, translate)
    except (ApiError, web.HTTPException) as error:
        gateway.metrics.refused(request.path, error.status)
        if key is not None:
            gateway.metrics.keys.request_refused(key.name, error.status)
        log.info("request id=%s refused: %d %s", id_, error.status, error)
        raise
    entry = gateway.fleet.state.requests.open(
        id_,
        call.model,
        client_name(request),
        request.path,
        generates=call.path in GENERATING,
    )
    entry.key = key
    exchange = Exchange(gateway, request, call, entry)
    try:
        return await exchange.run()
    finally:
        record(gateway, entry, exchange.ending)
