"""What an HTTP surface offers, as tables that its routes are made of.

`neuron.openapi` turns the same tables into the document, so that it cannot say
anything else than what is served.
"""

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any, Final

from aiohttp import web

from neuron.protocol import sse

JSON: Final = "application/json"
SSE: Final = sse.CONTENT_TYPE


@dataclass(frozen=True, slots=True)
class Operation:
    """One method of one path, served by the surface's method of the name `id`."""

    id: str
    method: str
    path: str
    summary: str
    answer: Any = str
    """Type of a good answer's body."""
    media: str = JSON
    stream: str | None = None
    """What the server-sent events are, where it can answer or does answer with some."""
    body: Any = None
    """Type of the request's body, which is JSON."""
    refusals: tuple[int, ...] = ()
    """Statuses of errors, beyond those that any operation can have."""
    headers: tuple[str, ...] = ()
    """Request headers that it looks at."""
    open: bool = False
    """Anybody may use it, whatever token the neuron has."""


def register(
    app: web.Application, operations: Iterable[Operation], surface: object
) -> None:
    """Serve `operations` by the methods of `surface` that they name."""
    for operation in operations:
        handler = getattr(surface, operation.id)
        app.router.add_route(operation.method, operation.path, handler)
        if operation.method == "GET" and operation.media != SSE:
            app.router.add_route("HEAD", operation.path, handler)
