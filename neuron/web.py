"""What every HTTP surface of a neuron does alike: bodies, errors, event streams."""

import asyncio
import logging
from collections.abc import Awaitable, Callable
from contextvars import ContextVar
from typing import Any, Final, Self, TypeVar

import orjson
from aiohttp import HttpVersion11, web
from pydantic import BaseModel, ValidationError

from neuron.protocol import sse
from neuron.protocol.errors import ApiError

log = logging.getLogger(__name__)

M = TypeVar("M", bound=BaseModel)
Handler = Callable[[web.Request], Awaitable[web.StreamResponse]]

COMMENT_INTERVAL_S: Final = 1.0
"""Clients give up on a connection that is silent for longer than a few of these."""

SEND_DEADLINE_S: Final = 120.0
"""A client that takes no byte for this long is taken to be gone."""


async def read_body(request: web.Request) -> bytes:
    """The body, decompressed; the middleware answers 413 where it is too large.

    Raises:
        ApiError: 400 `malformed_body`, it is not encoded as its headers say.
    """
    if (request.content_length or 0) > request.client_max_size:
        # At once: who still has it to send need not.
        raise web.HTTPRequestEntityTooLarge(request.client_max_size)
    try:
        return await request.read()
    except web.RequestPayloadError as error:
        raise ApiError(
            400, "the body is not encoded as its headers say", code="malformed_body"
        ) from error


async def read_json(request: web.Request) -> Any:
    """The body's JSON.

    Raises:
        ApiError: 400 `malformed_json` or `malformed_body`.
    """
    return parse_json(await read_body(request))


def parse_json(body: bytes) -> Any:
    """`body` as JSON.

    Raises:
        ApiError: 400 `malformed_json`.
    """
    try:
        return orjson.loads(body)
    except orjson.JSONDecodeError as error:
        raise ApiError(
            400, f"the body is not valid JSON: {error}", code="malformed_json"
        ) from error


def validate(model: type[M], value: Any) -> M:
    """`value` as `model`; the first thing that is wrong is named.

    Raises:
        ApiError: 400 `invalid_request_body` whose `param` is the offending field.
    """
    if not isinstance(value, dict):
        raise ApiError(
            400, "the body must be a JSON object", code="invalid_request_body"
        )
    try:
        return model.model_validate(value)
    except ValidationError as error:
        first = error.errors(include_url=False)[0]
        param = _path(first["loc"])
        message = first["msg"].removeprefix("Value error, ")
        code = "invalid_request_body"
        if first["type"] == "unsupported_parameter":
            code = first["type"]
        raise ApiError(400, f"{param}: {message}", code=code, param=param) from error


def _path(location: tuple[int | str, ...]) -> str:
    """`messages[0].content`, without the class names that unions add."""
    path = ""
    for part in location:
        if isinstance(part, int):
            path += f"[{part}]"
        elif part.isidentifier() and part.islower() and part not in _UNION_TAGS:
            path += f".{part}" if path else part
    return path


_UNION_TAGS: Final = frozenset({"str", "int", "float", "bool", "list", "dict"})


def json_response(
    value: BaseModel | dict[str, Any],
    status: int = 200,
    headers: dict[str, str] | None = None,
) -> web.Response:
    """`value` as a JSON answer."""
    body = (
        value.model_dump_json().encode()
        if isinstance(value, BaseModel)
        else orjson.dumps(value)
    )
    return web.Response(
        body=body, status=status, headers=headers, content_type="application/json"
    )


def error_response(error: ApiError) -> web.Response:
    """The envelope as a whole answer."""
    return json_response(error.envelope(), error.status, error.headers())


def error_event(error: ApiError, event: str | None = None) -> bytes:
    """The envelope inside a stream that has begun."""
    return sse.encode(orjson.dumps(error.envelope()), event)


class ClientGoneError(Exception):
    """The client closed its connection, or reads no more; the middleware ends it."""

    def __init__(self, response: web.StreamResponse) -> None:
        super().__init__("the client is gone")
        self.response = response


def _from_http(error: web.HTTPException, request: web.Request) -> ApiError:
    where = f"{request.method} {request.path}"
    match error.status:
        case 404:
            return ApiError(404, f"there is no {where}", code="not_found")
        case 405:
            assert isinstance(error, web.HTTPMethodNotAllowed)
            allowed = ", ".join(sorted(error.allowed_methods))
            message = f"{where} is not allowed; allowed: {allowed}"
            return ApiError(405, message, code="method_not_allowed")
        case 413:
            return ApiError(
                413, f"the body is too large: {error.text}", code="request_too_large"
            )
        case status:
            return ApiError(status, error.reason, code="http_error")


@web.middleware
async def error_middleware(
    request: web.Request, handler: Handler
) -> web.StreamResponse:
    """Every failure leaves as the one envelope: an event where a stream has begun."""
    _stream.set(None)
    try:
        response = await _answer(request, handler)
        if (stream := _stream.get()) is not None:
            await stream.finish()
    except ClientGoneError as gone:
        # One that is connected but reads nothing would hold the answer's end up.
        if request.transport is not None:
            request.transport.abort()
        return gone.response
    return response


async def _answer(request: web.Request, handler: Handler) -> web.StreamResponse:
    try:
        return await handler(request)
    except ClientGoneError:
        raise
    except ApiError as error:
        failure = error
    except web.HTTPException as error:
        failure = _from_http(error, request)
        failure.__cause__ = error
    except Exception:
        log.exception("%s %s failed", request.method, request.path)
        failure = ApiError(
            500,
            "internal error; the server's log has the details",
            code="internal_error",
            type="server_error",
        )
    log.info(
        "%s %s: %d %s: %s",
        request.method, request.path, failure.status, failure.code, failure.message,
    )  # fmt: skip
    stream = _stream.get()
    if stream is None:
        return _refusal(failure)
    await stream.send(error_event(failure))
    return stream.response


def _refusal(failure: ApiError) -> web.Response:
    response = error_response(failure)
    if isinstance(failure.__cause__, web.HTTPMethodNotAllowed):
        response.headers["Allow"] = failure.__cause__.headers["Allow"]
    return response


_stream: ContextVar["EventStream | None"] = ContextVar("stream", default=None)
"""The stream with which the request at hand is being answered."""


class EventStream:
    """A server-sent event stream to one client.

    `send` waits for a slow client, so that nothing piles up here, and gives up on one
    that takes nothing at all.
    """

    def __init__(self, request: web.Request, headers: dict[str, str] | None = None):
        self._request = request
        self._response = web.StreamResponse(
            headers={
                "Content-Type": sse.CONTENT_TYPE,
                "Cache-Control": "no-cache",
                "X-Accel-Buffering": "no",
                **(headers or {}),
            }
        )

    @property
    def response(self) -> web.StreamResponse:
        return self._response

    async def open(self) -> Self:
        """Send the headers, once; from here on errors are events.

        Raises:
            ClientGoneError: as `send`.
        """
        if not self._response.prepared:
            _stream.set(self)
            if self._request.version < HttpVersion11:
                # Nothing but the connection's end tells such a client of the stream's.
                self._response.force_close()
            await self._in_time(self._response.prepare(self._request))
        return self

    async def send(self, data: bytes) -> None:
        """Write one or more encoded events.

        Raises:
            ClientGoneError: it closed the connection, or took nothing in time.
        """
        await self._in_time(self._response.write(data))

    async def finish(self) -> None:
        """End the stream; errors as those of `send`."""
        await self._in_time(self._response.write_eof())

    async def _in_time(self, writing: Awaitable[object]) -> None:
        try:
            async with asyncio.timeout(SEND_DEADLINE_S):
                await writing
        except (ConnectionError, TimeoutError) as error:
            raise ClientGoneError(self._response) from error

    async def comment(self, text: str) -> None:
        await self.send(sse.comment(text))
