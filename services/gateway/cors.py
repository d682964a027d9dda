"""Lets the web pages of configured origins use models; closed unless configured.

No answer ever allows a browser's own credentials: a page shows its key in a header.
"""

from typing import Final

from aiohttp import web
from aiohttp.typedefs import Handler

from services.gateway.context import GATEWAY
from services.gateway.guard import ADMIN_PREFIX

ANY: Final = "*"
_ALLOW_ORIGIN: Final = "Access-Control-Allow-Origin"
_ASKED_HEADERS: Final = "Access-Control-Request-Headers"
_METHODS: Final = "GET, HEAD, POST, DELETE"
_EXPOSED: Final = ", ".join(
    ("Request-Id", "Retry-After", "X-Cortex-Model", "X-Cortex-Warning", "X-Request-Id")
)
_MAX_AGE_S: Final = "600"


@web.middleware
async def preflight(request: web.Request, handler: Handler) -> web.StreamResponse:
    """Answer a browser that asks what a page of an allowed origin may do."""
    asks = "Access-Control-Request-Method" in request.headers
    if request.method != "OPTIONS" or not asks or _allowed(request) is None:
        return await handler(request)
    headers = {
        "Access-Control-Allow-Methods": _METHODS,
        "Access-Control-Max-Age": _MAX_AGE_S,
        "Vary": f"Origin, {_ASKED_HEADERS}",
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
        response.headers["Vary"] = "Origin"


def _allowed(request: web.Request) -> str | None:
    """The origin that the answer is for; None: for no page."""
    origin = request.headers.get("Origin")
    if origin is None or request.path.startswith(ADMIN_PREFIX):
        return None
    allowed = request.app[GATEWAY].limits.cors_origins
    return ANY if ANY in allowed else origin if origin in allowed else None
