"""Who may use a neuron: no web page, and where it has a token, who shows that."""

from typing import Final

from aiohttp import web
from aiohttp.typedefs import Handler, Middleware

from neuron.daemon.operations import OPERATIONS
from neuron.protocol import bearer
from neuron.protocol.errors import ApiError

_OPEN: Final = frozenset(each.path for each in OPERATIONS if each.open)


@web.middleware
async def no_web_pages(request: web.Request, handler: Handler) -> web.StreamResponse:
    """A page in a browser on this host reaches loopback, and may post to it without
    asking first; it cannot leave out its `Origin`."""
    if "Origin" in request.headers:
        raise ApiError(
            403,
            "requests from web pages (with an Origin header) are not served here",
            code="forbidden",
            type="permission_error",
        )
    return await handler(request)


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
