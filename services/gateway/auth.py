"""Who asks: the key that a request shows, and what that key may do here.

A key is looked for in `Authorization: Bearer`, `x-api-key` and `api-key`; the first one
that is good counts. Whatever else is there, such as a client's placeholder, is passed
over where no key is required. A key that is shown holds its owner to its limits even
there.
"""

import time
from collections.abc import Iterator
from typing import Final

from aiohttp import web
from aiohttp.typedefs import Handler

from neuron.protocol import routes
from neuron.protocol.errors import ApiError
from services import schema
from services.gateway.context import GATEWAY, Gateway
from services.gateway.errors import log_refusal
from services.gateway.guard import ADMIN_PREFIX, over_unix_socket
from services.gateway.identity import KEY
from services.keys.file import KeySection
from services.keys.ledger import Spent
from services.keys.ring import Problem

_BEARER: Final = "bearer "
_PLAIN_HEADERS: Final = ("x-api-key", "api-key")
_READING: Final = frozenset({"GET", "HEAD"})
_OPEN: Final = frozenset({"/", "/health", "/version"})
"""Paths that anybody may read."""
_READ_ONLY: Final = (
    routes.V1_MODELS,
    "/api/tags",
    "/api/ps",
    "/api/version",
    schema.FLEET,
    schema.EVENTS,
)
"""What the scope `read-only` may read, and below it."""
_SHOW: Final = "/api/show"
"""Reads, although it is a POST."""


@web.middleware
async def authenticate(request: web.Request, handler: Handler) -> web.StreamResponse:
    """Learn who asks, and refuse what they may not do."""
    gateway = request.app[GATEWAY]
    found = _found(request)
    if isinstance(found, KeySection):
        request[KEY] = found
        gateway.keys.limits.ledger.add(found.id, Spent(last_used=time.time()))
    if not _is_open(request):
        try:
            _check(gateway, request, found)
        except ApiError as error:
            gateway.metrics.keys.unauthorized(error.code)
            log_refusal(request, error)
            raise
    return await handler(request)


def is_welcome(request: web.Request) -> bool:
    """Whether a request that was let in would be so again now."""
    try:
        _check(request.app[GATEWAY], request, _found(request))
    except ApiError:
        return False
    return True


def _found(request: web.Request) -> KeySection | Problem:
    return request.app[GATEWAY].keys.ring.find(_shown(request), time.time())


def _check(gateway: Gateway, request: web.Request, found: KeySection | Problem) -> None:
    if isinstance(found, KeySection):
        _check_scope(found, request)
    elif gateway.keys.required(gateway.limits.auth) and not over_unix_socket(request):
        raise ApiError(
            401, found.value, code="invalid_api_key", type="authentication_error"
        )


def _shown(request: web.Request) -> Iterator[str]:
    for value in request.headers.getall("Authorization", ()):
        if value[: len(_BEARER)].lower() == _BEARER:
            yield value[len(_BEARER) :].strip()
    for name in _PLAIN_HEADERS:
        for value in request.headers.getall(name, ()):
            yield value.strip()


def _is_open(request: web.Request) -> bool:
    return request.path in _OPEN and request.method in _READING


def _check_scope(key: KeySection, request: web.Request) -> None:
    path = request.path
    if key.scope == "inference" and path.startswith(ADMIN_PREFIX):
        raise _out_of_scope(key, "the admin API needs one of the scope admin")
    if key.scope == "read-only" and not _only_reads(request):
        raise _out_of_scope(key, f"{request.method} {path} is not among what it may")


def _only_reads(request: web.Request) -> bool:
    if request.path == _SHOW:
        return True
    return request.method in _READING and any(
        request.path == path or request.path.startswith(path + "/")
        for path in _READ_ONLY
    )


def _out_of_scope(key: KeySection, why: str) -> ApiError:
    return ApiError(
        403,
        f"the key '{key.name}' has the scope {key.scope}: {why}",
        code="insufficient_scope",
        type="permission_error",
    )
