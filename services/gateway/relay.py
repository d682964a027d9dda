"""The data path: one request to one neuron, and its answer's bytes to the client.

Nothing here decides where a request goes, and nothing else touches the bytes.
"""

import asyncio
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager

import aiohttp
from aiohttp import web

from neuron.protocol import sse
from neuron.protocol.headers import PROMPT_TOKENS
from services.config import GatewaySection
from services.fleet.client import NodeClient
from services.gateway.client_request import Call
from services.gateway.meter import BodyMeter, StreamMeter
from services.gateway.sending import send
from services.gateway.wording import Wording

FORWARDED_RESPONSE_HEADERS = ("Content-Type", "Retry-After")
NOT_THE_CLIENTS_FAULT = frozenset({401, 403})
"""Clients show the neuron no credentials; the gateway does."""
ERROR_BODY_LIMIT = 64 * 1024
ANSWER_LIMIT = 64 * 1024 * 1024
"""Of a whole answer that is to be worded anew."""


class UpstreamError(Exception):
    """The neuron failed; `str` says how, for the log."""


@asynccontextmanager
async def upstream(
    client: NodeClient, call: Call, limits: GatewaySection
) -> AsyncIterator[aiohttp.ClientResponse]:
    """The neuron's response, once its headers are here; closed on the way out.

    Leaving before the end of the body closes the connection, which is how the neuron
    learns that nobody waits any more.

    Raises:
        UpstreamError: it cannot be reached, or did not begin to answer in time.
    """
    idle = limits.idle_timeout_s if call.stream else limits.response_timeout_s
    first_byte = limits.first_byte_timeout_s if call.stream else idle
    timeout = aiohttp.ClientTimeout(total=None, sock_connect=3, sock_read=idle)
    try:
        async with asyncio.timeout(first_byte):
            response = await client.session.post(
                client.url(call.path),
                data=call.payload(),
                headers={**call.headers, **client.headers},
                timeout=timeout,
                allow_redirects=False,
            )
    except TimeoutError as error:
        raise UpstreamError(f"no answer within {first_byte:g} s") from error
    except (aiohttp.ClientError, OSError) as error:
        raise UpstreamError(str(error) or type(error).__name__) from error
    try:
        if response.status in NOT_THE_CLIENTS_FAULT:
            raise UpstreamError("it refuses the gateway's token")
        yield response
    finally:
        response.release() if response.content.at_eof() else response.close()


async def next_chunk(response: aiohttp.ClientResponse) -> bytes:
    """What has arrived of the body; empty at its end.

    Raises:
        UpstreamError: it broke off, or was silent for too long.
    """
    try:
        return await response.content.readany()
    except TimeoutError as error:
        raise UpstreamError("silent for too long") from error
    except (aiohttp.ClientError, OSError) as error:
        raise UpstreamError(str(error) or type(error).__name__) from error


async def first_chunk(response: aiohttp.ClientResponse) -> bytes:
    """The first bytes of the body; until they are here another replica may answer.

    Raises:
        UpstreamError: it ended without any, or as for `next_chunk`.
    """
    if chunk := await next_chunk(response):
        return chunk
    raise UpstreamError("it answered without a body")


async def error_body(response: aiohttp.ClientResponse) -> bytes:
    """The body of a neuron's refusal, up to a limit.

    Raises:
        UpstreamError: it broke off.
    """
    return (await _read(response, ERROR_BODY_LIMIT))[:ERROR_BODY_LIMIT]


async def answer_body(response: aiohttp.ClientResponse) -> bytes:
    """The body of a neuron's whole answer.

    Raises:
        UpstreamError: it broke off, or is larger than any answer.
    """
    body = await _read(response, ANSWER_LIMIT)
    if len(body) > ANSWER_LIMIT:
        raise UpstreamError(f"its answer has more than {ANSWER_LIMIT} bytes")
    return body


async def _read(response: aiohttp.ClientResponse, limit: int) -> bytes:
    """All of the body, or a little more than `limit` bytes of it."""
    body = bytearray()
    while len(body) <= limit and (chunk := await next_chunk(response)):
        body += chunk
    return bytes(body)


def is_stream(response: aiohttp.ClientResponse) -> bool:
    return response.content_type == sse.CONTENT_TYPE


def prompt_tokens(response: aiohttp.ClientResponse) -> int:
    """How long a stream's prompt was; 0 where the neuron does not tell."""
    told = response.headers.get(PROMPT_TOKENS, "")
    return int(told) if told.isdecimal() else 0


def response_headers(response: aiohttp.ClientResponse) -> dict[str, str]:
    """Those of the neuron's headers that the client gets."""
    return {
        name: response.headers[name]
        for name in FORWARDED_RESPONSE_HEADERS
        if name in response.headers
    }


async def pump(
    first: bytes,
    source: aiohttp.ClientResponse,
    sink: web.StreamResponse,
    meter: StreamMeter | BodyMeter,
    wording: Wording,
    on_chunk: Callable[[], None],
) -> None:
    """Write `first`, then the source's bytes as they arrive, as `wording` words them.

    `on_chunk` is called after each piece.

    Raises:
        UpstreamError: the source broke off.
        ValueError: it says what cannot be worded.
        ConnectionResetError: the client is gone, or takes nothing.
    """
    chunk = first
    while chunk:
        meter.feed(chunk)
        if worded := wording.feed(chunk):
            await send(sink, worded)
        on_chunk()
        chunk = await next_chunk(source)
