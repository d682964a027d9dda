"""Lets the web pages of configured origins use models, and no others.

A page of any other origin could not read an answer, but would have made the gateway
work for it: a POST of `text/plain` is sent without asking first. Pages cannot leave out
the `Origin` of a POST, also where their name was made to resolve to this host (DNS
rebinding).

No answer ever allows a browser's own credentials: a page shows its key in a header.
"""

from typing import Final

from aiohttp import web
from aiohttp.typedefs import Handler

from neuron.protocol.errors import ApiError
from neuron.protocol.headers import plain_value
from services.gateway.context import GATEWAY
from services.gateway.errors import log_refusal
from services.gateway.guard import ADMIN_PREFIX

ANY: Final = "*"
_ORIGIN: Final = "Origin"
_ALLOW_ORIGIN: Final = "Access-Control-Allow-Origin"
_ASKED_METHOD: Final = "Access-Control-Request-Method"
_ASKED_HEADERS: Final = "Access-Control-Request-Headers"
_METHODS: Final = "GET, HEAD, POST, DELETE"
_EXPOSED: Final = (
    "Request-Id, Retry-After, X-Cortex-Model, X-Cortex-Warning, X-Request-Id, "
    "X-Should-Retry"
)
_MAX_AGE_S: Final = "600"


@web.middleware
async def pages(request: web.Request, handler: Handler) -> web.StreamResponse:
    """Answer a browser that asks what a page may do, and refuse pages of origins that
    are not configured; the admin API has a guard of its own."""
    origin = request.headers.get(_ORIGIN)
    if origin is None or request.path.startswith(ADMIN_PREFIX):
        return await handler(request)
    if _allowed(request) is None:
        raise _refused(request, plain_value(origin))
    if request.method != "OPTIONS" or _ASKED_METHOD not in request.headers:
        return await handler(request)
    headers = {
        "Access-Control-Allow-Methods": _METHODS,
        "Access-Control-Max-Age": _MAX_AGE_S,
        "Vary": f"{_ORIGIN}, {_ASKED_HEADERS}",
    }
    if wanted := request.headers.get(_ASKED_HEADERS):
        headers["Access-Control-Allow-Headers"] = wanted
    return web.Response(status=204, headers=headers)


async def allow_origin(request: web.Request, response: web.StreamResponse) -> None:
    """Sign an answer for the page that asked, errors and streams included."""
    allowed = _allowed(request)
    if allowed is None:
        return
    response.headers[_ALLOW_ORIGIN] = allowed
    response.headers["Access-Control-Expose-Headers"] = _EXPOSED
    if "Vary" not in response.headers:
        response.headers["Vary"] = _ORIGIN


def _allowed(request: web.Request) -> str | None:
    """The origin that the answer is for; None: for no page."""
    origin = request.headers.get(_ORIGIN)
    if origin is None or request.path.startswith(ADMIN_PREFIX):
        return None
    allowed = request.app[GATEWAY].limits.cors_origins
    return ANY if ANY in allowed else origin if origin in allowed else None


def _refused(request: web.Request, origin: str) -> ApiError:
    error = ApiError(
        403,
        f"this comes from a web page of '{origin}', which `cors_origins` in [gateway] "
        "of cortex.toml does not list",
        code="forbidden",
        type="permission_error",
    )
    # The page cannot read the answer; whoever looks for the reason finds it here.
    log_refusal(request, error)
    return error
