"""What is read of a client's request before it is sent on."""

import re
import uuid
from typing import Any

import orjson
from aiohttp import web

from neuron.protocol.errors import ApiError
from neuron.protocol.headers import CALLER, caller_value
from services.gateway.relay import FORWARDED_REQUEST_HEADERS, Call

REQUEST_ID = "X-Request-Id"
_ID = web.RequestKey("request_id", str)
_SANE_ID = re.compile(r"[A-Za-z0-9._:\-]{1,128}")


def request_id(request: web.Request) -> str:
    """The client's own id where it is a harmless one, else one made here, once."""
    if _ID not in request:
        given = request.headers.get(REQUEST_ID, "")
        sane = _SANE_ID.fullmatch(given)
        request[_ID] = given if sane else f"req-{uuid.uuid4().hex[:20]}"
    return request[_ID]


def client_name(request: web.Request) -> str:
    """Address and program of the client, for people."""
    agent = request.headers.get("User-Agent", "").split(" ")[0][:60]
    return f"{request.remote or 'local'} {agent}".strip()


async def read_body(request: web.Request) -> bytes:
    """The body, decompressed.

    Raises:
        ApiError: it is not encoded as its headers say.
    """
    try:
        return await request.read()
    except web.RequestPayloadError as error:
        raise ApiError(
            400, "the body is not encoded as its headers say", code="malformed_body"
        ) from error


async def read_call(request: web.Request, id: str) -> Call:  # noqa: A002
    """Read the body, once.

    Raises:
        ApiError: it is no JSON object, or names no model.
    """
    body = await read_body(request)
    try:
        fields: Any = orjson.loads(body)
    except orjson.JSONDecodeError as error:
        raise ApiError(
            400, f"the body is not JSON: {error}", code="malformed_json"
        ) from error
    if not isinstance(fields, dict):
        raise ApiError(
            400, "the body should be a JSON object", code="invalid_request_body"
        )
    model = fields.get("model")
    if not isinstance(model, str) or not model:
        raise ApiError(
            400,
            "model: should name one of the models that GET /v1/models lists",
            code="missing_model_field",
            param="model",
        )
    headers = {
        name: request.headers[name]
        for name in FORWARDED_REQUEST_HEADERS
        if name in request.headers
    }
    return Call(
        path=request.path,
        body=body,
        model=model,
        stream=fields.get("stream") is True,
        headers={**headers, REQUEST_ID: id, CALLER: caller_value(client_name(request))},
    )
