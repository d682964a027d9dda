"""Runs an aiohttp application whose every refusal is our envelope.

A middleware sees requests; what is no request (broken HTTP, headers beyond the limits)
aiohttp answers by itself, in plain text. Gateway and neuron run with this instead.
"""

import logging
from typing import Any, Final

import orjson
from aiohttp import web
from aiohttp.http_exceptions import BadHttpMessage, InvalidURLError, LineTooLong

from neuron.protocol.errors import ApiError

log = logging.getLogger(__name__)

_TOO_LONG: Final = "the request line or a header is too long"
_MESSAGE_LIMIT: Final = 200


class EnvelopeRunner(web.AppRunner):
    """An `AppRunner` for which HTTP errors below the application are JSON too."""

    async def _make_server(self) -> web.Server:
        return _Server(await super()._make_server())


class _Server(web.Server):
    def __init__(self, plain: web.Server) -> None:
        super().__init__(
            plain.request_handler,
            request_factory=plain.request_factory,
            handler_cancellation=plain.handler_cancellation,
            loop=plain._loop,
            **plain._kwargs,
        )

    def __call__(self) -> web.RequestHandler:
        return _Connection(self, loop=self._loop, **self._kwargs)


class _Connection(web.RequestHandler):
    __slots__ = ()

    def handle_error(
        self,
        request: web.BaseRequest,
        status: int = 500,
        exc: BaseException | None = None,
        message: str | None = None,
    ) -> web.StreamResponse:
        error = _explained(status, exc)
        if isinstance(exc, BadHttpMessage):
            # Not what was sent: it may be a key.
            log.info("%s is refused: %s", request.remote, error)
        else:
            log.error("a request from %s failed", request.remote, exc_info=exc)
        if request.writer.output_size > 0:
            raise ConnectionError("an answer has begun; it can only be broken off")
        response = _refusal(error)
        response.force_close()
        return response

    def log_exception(self, *args: Any, **kw: Any) -> None:
        # What is left of a refused body, and is not encoded as its headers say.
        if not isinstance(kw.get("exc_info"), web.RequestPayloadError):
            super().log_exception(*args, **kw)

    async def finish_response(
        self,
        request: web.BaseRequest,
        resp: web.StreamResponse,
        start_time: float | None,
    ) -> tuple[web.StreamResponse, bool]:
        if isinstance(resp, web.HTTPException):  # Raised before any middleware ran.
            error = ApiError(resp.status, resp.text or resp.reason, code="http_error")
            resp = _refusal(error)
        return await super().finish_response(request, resp, start_time)


def _explained(status: int, exc: BaseException | None) -> ApiError:
    if isinstance(exc, LineTooLong):
        return ApiError(431, _TOO_LONG, code="headers_too_large")
    if isinstance(exc, InvalidURLError):  # Of which the message is the URL.
        return ApiError(400, "the URL is none", code="malformed_request")
    if isinstance(exc, BadHttpMessage):
        reason = exc.message.partition("\n")[0].rstrip(": ")[:_MESSAGE_LIMIT]
        return ApiError(400, f"this is not HTTP: {reason}", code="malformed_request")
    message = "internal error; the server's log has the details"
    return ApiError(status, message, code="internal_error", type="server_error")


def _refusal(error: ApiError) -> web.Response:
    body = orjson.dumps(error.envelope())
    return web.Response(status=error.status, body=body, content_type="application/json")
