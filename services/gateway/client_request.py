"""What is read of a client's request before it is sent on."""

import asyncio
import io
import re
import uuid
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass
from typing import Any, TypeVar

import orjson
from aiohttp import web

from neuron.protocol.errors import ApiError
from neuron.protocol.headers import MODEL
from services.gateway import identity
from services.gateway.dialects.base import Json, Translation

T = TypeVar("T")
REQUEST_ID = "X-Request-Id"
FORWARDED_HEADERS = ("Content-Type", "Accept")
LARGE_BODY = 256 * 1024
LONGEST_NAME = 512
"""Of a model: every piece of an answer repeats it."""
_ID = web.RequestKey("request_id", str)
_FIELDS = web.RequestKey("fields", dict)
_SANE_ID = re.compile(r"[A-Za-z0-9._:\-]{1,128}")

Translate = Callable[[Json], Translation]
"""A dialect's request into the internal form; pure. Raises ApiError."""
Translating = Callable[[web.Request], Awaitable[Translation]]
"""The same of a request whose body may have been read, asking whom it has to."""


@dataclass(frozen=True, slots=True)
class Call:
    """A client's request, read: what is sent on, and what is looked at."""

    path: str
    """The neuron's route."""
    body: bytes
    model: str
    """The concrete one; the body has the client's own word for it."""
    stream: bool
    headers: Mapping[str, str]
    """Those sent on, the request's id included."""
    translation: Translation | None = None
    """How the answer is worded; None: as the neuron words it."""

    def payload(self) -> bytes | io.BytesIO:
        """The body as aiohttp likes to send it: a large one piece by piece."""
        return self.body if len(self.body) <= LARGE_BODY else io.BytesIO(self.body)


def request_id(request: web.Request) -> str:
    """The client's own id where it is a harmless one, else one made here, once."""
    if _ID not in request:
        given = request.headers.get(REQUEST_ID, "")
        sane = _SANE_ID.fullmatch(given)
        request[_ID] = given if sane else f"req-{uuid.uuid4().hex[:20]}"
    return request[_ID]


def client_name(request: web.Request) -> str:
    """Key, address and program of the client, for people."""
    key = identity.key_of(request)
    agent = request.headers.get("User-Agent", "").split(" ")[0][:60]
    parts = (key.name if key else "", request.remote or "local", agent)
    return " ".join(filter(None, parts))


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


async def read_object(request: web.Request) -> Json:
    """The body, decoded once.

    Raises:
        ApiError: it is no JSON object.
    """
    if _FIELDS in request:
        return request[_FIELDS]
    try:
        fields: Any = orjson.loads(await read_body(request))
    except orjson.JSONDecodeError as error:
        raise ApiError(
            400, f"the body is not JSON: {error}", code="malformed_json"
        ) from error
    if not isinstance(fields, dict):
        raise ApiError(
            400, "the body should be a JSON object", code="invalid_request_body"
        )
    request[_FIELDS] = fields
    return fields


def named_model(fields: Json) -> str:
    """The client's word for the model.

    Raises:
        ApiError: there is none.
    """
    model = fields.get("model")
    if not isinstance(model, str) or not 0 < len(model) <= LONGEST_NAME:
        raise ApiError(
            400,
            "model: should name one of the models that GET /v1/models lists",
            code="missing_model_field",
            param="model",
        )
    return model


async def read_call(
    request: web.Request,
    translate: Translating | None,
) -> Call:
    """Read the body, and learn which model it is for; then only its bytes are kept.

    Raises:
        ApiError: it is no JSON object, names no model or an unknown one, or is not
            what its dialect has.
    """
    fields = await read_object(request)
    asked = named_model(fields)
    path, body, translation = request.path, await request.read(), None
    if translate is not None:
        translation = await translate(request)
        path, body = translation.path, _encoded(translation.body)
    model = await identity.concrete(request, asked)
    identity.begin(request, model, path)
    stream = translation.stream if translation else fields.get("stream") is True
    # Decoded, a body can be twenty times as large, and answers take long.
    fields.clear()
    if translation is not None:
        translation.body.clear()
    return Call(
        path=path,
        body=body,
        model=model,
        stream=stream,
        headers=_headers(request, model, translated=translation is not None),
        translation=translation,
    )


async def work_on(request: web.Request, work: Callable[[Json], T]) -> T:
    """What `work`, which does no I/O, makes of the body; read before.

    Hundreds of thousands of small pieces take seconds, and the loop has to go on.
    """
    fields, size = await read_object(request), len(await request.read())
    return work(fields) if size <= LARGE_BODY else await asyncio.to_thread(work, fields)


def _encoded(fields: Json) -> bytes:
    """
    Raises:
        ApiError: 400, it is nested more deeply than can be written.
    """
    try:
        return orjson.dumps(fields)
    except orjson.JSONEncodeError as error:
        raise ApiError(
            400, "the body is nested too deeply", code="invalid_request_body"
        ) from error


def _headers(request: web.Request, model: str, *, translated: bool) -> dict[str, str]:
    forwarded = {
        name: request.headers[name]
        for name in FORWARDED_HEADERS
        if name in request.headers
    }
    own = {"Content-Type": "application/json"}
    return {
        **(own if translated else forwarded),
        REQUEST_ID: request_id(request),
        MODEL: model,
        **identity.admission(request, client_name(request)),
    }
