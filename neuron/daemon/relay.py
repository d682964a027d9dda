"""`/v1/*` on its way to the worker that serves the model, as bytes."""

import logging
from typing import Final

import aiohttp
from aiohttp import web

from neuron.daemon.instance import Instance
from neuron.daemon.manager import ModelManager
from neuron.protocol import headers as named, sse
from neuron.protocol.errors import ApiError
from neuron.web import EventStream, error_event, parse_json, read_body

log = logging.getLogger(__name__)

_REQUEST_HEADERS: Final = ("Content-Type", "X-Request-Id", *named.ADMISSION)
_RESPONSE_HEADERS: Final = (
    "Content-Type",
    "Retry-After",
    "X-Request-Id",
    named.PROMPT_TOKENS,
)
_EVENT_END: Final = b"\n\n"


class Relay:
    """Sends a request to its worker and the answer back, and notices either's end."""

    def __init__(self, manager: ModelManager) -> None:
        self._manager = manager

    async def handle(self, request: web.Request) -> web.StreamResponse:
        body = await read_body(request)
        wanted = named.model(request.headers)
        instance = self._manager.route(_model_of(body) if wanted is None else wanted)
        headers = {
            name: request.headers[name]
            for name in _REQUEST_HEADERS
            if name in request.headers
        }
        async with instance.upstream.use() as session:
            try:
                upstream = await session.post(
                    f"http://worker{request.path}", data=body, headers=headers
                )
            except (aiohttp.ClientError, OSError) as error:
                raise await _worker_lost(instance, error) from error
            async with upstream:
                return await _answer(request, upstream, instance)


def _model_of(body: bytes) -> str:
    value = parse_json(body)
    if not isinstance(value, dict):
        raise ApiError(
            400, "the body must be a JSON object", code="invalid_request_body"
        )
    match value.get("model"):
        case str(model) if model:
            return model
        case None | "":
            raise ApiError(
                400, "model: name the model", code="missing_model_field", param="model"
            )
        case other:
            raise ApiError(
                400,
                f"model: must be a string, not {type(other).__name__}",
                code="invalid_request_body",
                param="model",
            )


async def _answer(
    request: web.Request, upstream: aiohttp.ClientResponse, instance: Instance
) -> web.StreamResponse:
    headers = {
        name: upstream.headers[name]
        for name in _RESPONSE_HEADERS
        if name in upstream.headers
    }
    if upstream.content_type != sse.CONTENT_TYPE:
        try:
            body = await upstream.read()
        except aiohttp.ClientError as error:
            raise await _worker_lost(instance, error) from error
        return web.Response(status=upstream.status, headers=headers, body=body)
    stream = await EventStream(request, headers).open()
    await _splice(upstream.content, stream, instance)
    return stream.response


async def _splice(
    source: aiohttp.StreamReader, stream: EventStream, instance: Instance
) -> None:
    """Whole events only: what a dying worker sent last may be half of one."""
    held = b""
    while not source.at_eof():
        try:
            held += await source.readany()
        except aiohttp.ClientError as error:
            await stream.send(error_event(await _worker_lost(instance, error)))
            return
        whole, end, held = held.rpartition(_EVENT_END)
        if end:
            await stream.send(whole + end)


async def _worker_lost(instance: Instance, error: Exception) -> ApiError:
    """The answer; first, so that a retry finds the truth, the loss is noticed."""
    await instance.loss_noticed()
    log.warning("%s: lost the worker: %s", instance.id, repr(error))
    return ApiError(
        502,
        f"the worker of model '{instance.id}' went away; it is being started again",
        code="worker_lost",
        type="server_error",
        retry_after=3,
    )
