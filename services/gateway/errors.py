"""One error envelope on every path, the framework's own errors included."""

import logging

from aiohttp import web
from aiohttp.typedefs import Handler

from neuron.protocol.errors import ApiError
from neuron.protocol.headers import plain_value
from services.gateway.client_request import request_id
from services.gateway.dialect_choice import dialect_of
from services.gateway.ending import CLIENT_CLOSED
from services.gateway.sending import json_response

log = logging.getLogger(__name__)


def error_response(request: web.Request, error: ApiError) -> web.Response:
    """The error as the client's dialect has it."""
    dialect, id_ = dialect_of(request), request_id(request)
    return json_response(
        dialect.error(error, id_),
        status=dialect.status(error),
        headers={**error.headers(), **dialect.headers(id_)},
    )


def log_refusal(request: web.Request, error: ApiError | web.HTTPException) -> None:
    """In one line, whatever of the request the error repeats."""
    why = plain_value(str(error))
    log.info("request id=%s refused: %d %s", request_id(request), error.status, why)


@web.middleware
async def envelope(request: web.Request, handler: Handler) -> web.StreamResponse:
    """Turn every way to fail into the envelope."""
    try:
        return await handler(request)
    except ApiError as error:
        return error_response(request, error)
    except web.HTTPException as error:
        response = error_response(request, _framework_error(request, error))
        if allow := error.headers.get("Allow"):
            response.headers["Allow"] = allow
        return response
    except ConnectionResetError:
        # The client is gone, or reads nothing: that is no defect.
        return _cut(request)
    except Exception:
        log.exception("%s %s failed", request.method, request.path)
        if request.writer.output_size:
            # What has begun as another answer can only be broken off.
            return _cut(request)
        return error_response(request, internal_error())


def internal_error() -> ApiError:
    return ApiError(
        500,
        "an internal error; the gateway's log has the reason",
        code="internal_error",
        type="server_error",
    )


def _cut(request: web.Request) -> web.Response:
    """Close the connection; the response is what aiohttp asks for, and reaches
    nobody."""
    if request.transport is not None:
        request.transport.abort()
    return web.Response(status=CLIENT_CLOSED)


def _framework_error(request: web.Request, error: web.HTTPException) -> ApiError:
    match error:
        case web.HTTPNotFound():
            message = f"there is no {request.path}"
            return ApiError(404, message, code="not_found")
        case web.HTTPMethodNotAllowed():
            allowed = ", ".join(sorted(error.allowed_methods))
            message = f"{request.path} takes {allowed}, not {request.method}"
            return ApiError(405, message, code="method_not_allowed")
        case web.HTTPRequestEntityTooLarge():
            message = f"the body is larger than the limit: {error.text}"
            return ApiError(413, message, code="request_too_large")
        case _:
            return ApiError(error.status, error.text or error.reason, code="http_error")
