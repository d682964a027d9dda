"""Keeps web pages away from the admin API.

A page in the operator's browser can reach loopback. It cannot leave out its `Origin`,
cannot send `application/json` without asking first, and when its name was made to
resolve to loopback (DNS rebinding) it sends that name as `Host`.
"""

import socket
from urllib.parse import urlsplit

from aiohttp import web
from aiohttp.typedefs import Handler

from neuron.protocol.address import is_loopback
from neuron.protocol.errors import ApiError

ADMIN_PREFIX = "/admin/"
_SAFE_METHODS = frozenset({"GET", "HEAD"})


@web.middleware
async def guard(request: web.Request, handler: Handler) -> web.StreamResponse:
    """Refuse what looks like a browser's; the UNIX socket needs no guard."""
    if request.path.startswith(ADMIN_PREFIX) and not over_unix_socket(request):
        _check(request)
    return await handler(request)


def over_unix_socket(request: web.Request) -> bool:
    """Whether it came by the socket, which is private to the user."""
    transport = request.transport
    sock = transport.get_extra_info("socket") if transport else None
    return sock is not None and sock.family == socket.AF_UNIX


def _check(request: web.Request) -> None:
    if "Origin" in request.headers:
        raise _forbidden("requests from web pages (with an Origin header)")
    if _on_loopback(request) and not is_loopback(_host(request)):
        raise _forbidden(f"the host name '{request.host}' on loopback")
    if request.method in _SAFE_METHODS:
        return
    if request.content_type != "application/json":
        raise ApiError(
            415,
            "Content-Type: should be application/json",
            code="unsupported_media_type",
        )


def _on_loopback(request: web.Request) -> bool:
    """Whether the connection came in on a loopback address."""
    transport = request.transport
    name = transport.get_extra_info("sockname") if transport else None
    return isinstance(name, tuple) and is_loopback(str(name[0]))


def _host(request: web.Request) -> str:
    try:
        return urlsplit(f"//{request.host}").hostname or ""
    except ValueError:
        return ""


def _forbidden(what: str) -> ApiError:
    return ApiError(
        403, f"the admin API refuses {what}", code="forbidden", type="permission_error"
    )
