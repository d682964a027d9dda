"""Client routes that name a model: read the request, answer it, tell how it ended."""

from collections.abc import Iterator
from contextlib import contextmanager

from aiohttp import web
from aiohttp.typedefs import Handler

from neuron.protocol.errors import ApiError, shutting_down
from services.gateway import identity
from services.gateway.client_request import (
    Translate,
    Translating,
    client_name,
    named_model,
    read_call,
    read_object,
    request_id,
    work_on,
)
from services.gateway.context import GATEWAY
from services.gateway.ending import record
from services.gateway.errors import log_refusal
from services.gateway.exchange import Exchange
from services.gateway.metrics import GENERATING


async def handle(request: web.Request) -> web.StreamResponse:
    """A request in the neuron's own form."""
    return await serve(request, None)


async def embeddings(request: web.Request) -> web.StreamResponse:
    """POST /v1/embeddings.

    Raises:
        ApiError: always: no engine embeds.
    """
    with refusals_told(request):
        asked = named_model(await read_object(request))
        model = await identity.concrete(request, asked)
        identity.begin(request, model, request.path)
        raise ApiError(
            400,
            f"model '{model}' generates text and cannot embed; no model here can",
            code="unsupported_model",
            param="model",
        )


def translated(translate: Translate) -> Handler:
    """Handler of a dialect's route."""

    async def handle(request: web.Request) -> web.StreamResponse:
        return await serve(request, lambda request: work_on(request, translate))

    return handle


@contextmanager
def refusals_told(request: web.Request) -> Iterator[None]:
    """Log and count what is refused before anybody is asked for an answer."""
    try:
        yield
    except (ApiError, web.HTTPException) as error:
        metrics, key = request.app[GATEWAY].metrics, identity.key_of(request)
        metrics.refused(request.path, error.status)
        if key is not None:
            metrics.keys.request_refused(key.name, error.status)
        log_refusal(request, error)
        raise


async def serve(
    request: web.Request,
    translate: Translating | None,
) -> web.StreamResponse:
    """One inference request, from its body to its log line."""
    gateway = request.app[GATEWAY]
    with refusals_told(request):
        if gateway.stopping.is_set():
            raise shutting_down()
        call = await read_call(request, translate)
    entry = gateway.fleet.state.requests.open(
        request_id(request),
        call.model,
        client_name(request),
        request.path,
        generates=call.path in GENERATING,
    )
    entry.key = identity.key_of(request)
    exchange = Exchange(gateway, request, call, entry)
    try:
        return await exchange.run()
    finally:
        record(gateway, entry, exchange.ending)
