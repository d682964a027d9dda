"""Who may use a neuron that has a token."""

from typing import Final

from aiohttp import web
from aiohttp.typedefs import Handler, Middleware

from neuron.daemon.operations import OPERATIONS
from neuron.protocol import bearer
from neuron.protocol.errors import ApiError

_OPEN: Final = frozenset(each.path for each in OPERATIONS if each.open)


def token_required(token: str) -> Middleware:
    """A middleware that lets nobody else in."""

    @web.middleware
    async def check(request: web.Request, handler: Handler) -> web.StreamResponse:
        if request.path in _OPEN or bearer.is_shown(token, request.headers):
            return await handler(request)
        raise ApiError(
            401,
            "this neuron has a token, and it was not shown: send"
            " `Authorization: Bearer TOKEN`",
            code="invalid_api_key",
            type="authentication_error",
        )

    return check
