"""Writing to a client that may read slowly, or not at all."""

import asyncio
from collections.abc import Awaitable, Mapping

import orjson
from aiohttp import web

from neuron.protocol.types import Wire

SEND_TIMEOUT_S = 120.0
"""A client that takes nothing for this long counts as gone."""


def json_response(
    value: Wire | Mapping[str, object],
    *,
    status: int = 200,
    headers: Mapping[str, str] | None = None,
) -> web.Response:
    """An answer that is one JSON object."""
    return web.Response(
        status=status,
        body=(
            value.model_dump_json().encode()
            if isinstance(value, Wire)
            else orjson.dumps(value)
        ),
        headers=headers,
        content_type="application/json",
    )


async def send(response: web.StreamResponse, data: bytes) -> None:
    """Write `data`, as fast as the client reads.

    Raises:
        ConnectionResetError: the client is gone, or takes nothing.
    """
    await _in_time(response.write(data))


async def finish(response: web.StreamResponse, data: bytes = b"") -> None:
    """Write `data` and end the answer; errors as those of `send`."""
    await _in_time(response.write_eof(data))


async def _in_time(writing: Awaitable[None]) -> None:
    try:
        async with asyncio.timeout(SEND_TIMEOUT_S):
            await writing
    except TimeoutError as error:
        raise ConnectionResetError("the client reads nothing") from error
