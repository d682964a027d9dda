"""What is no request, and what no handler sees, is refused in the envelope too."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import orjson
import pytest
from aiohttp import web

from neuron.protocol.server_runner import EnvelopeRunner

LONG = b"a" * 20_000


async def fine(request: web.Request) -> web.Response:
    return web.Response(text=await request.text())


async def broken(request: web.Request) -> web.Response:
    raise RuntimeError("unforeseen")


async def broken_late(request: web.Request) -> web.StreamResponse:
    response = web.StreamResponse()
    await response.prepare(request)
    await response.write(b"first")
    raise RuntimeError("unforeseen")


@asynccontextmanager
async def serving() -> AsyncIterator[int]:
    app = web.Application()
    app.router.add_post("/fine", fine)
    app.router.add_get("/broken", broken)
    app.router.add_get("/late", broken_late)
    runner = EnvelopeRunner(app, access_log=None)
    await runner.setup()
    try:
        await web.TCPSite(runner, "127.0.0.1", 0).start()
        yield runner.addresses[0][1]
    finally:
        await runner.cleanup()


async def exchange(port: int, raw: bytes) -> tuple[int, bytes, bytes]:
    """Status, headers and body of the answer to `raw`; the server then hangs up."""
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    try:
        writer.write(raw)
        async with asyncio.timeout(10):
            answer = await reader.read()
    finally:
        writer.close()
    head, _, body = answer.partition(b"\r\n\r\n")
    return int(head.split()[1]), head, body


@pytest.mark.parametrize(
    ("raw", "status", "code"),
    [
        (b"garbage\r\n\r\n", 400, "malformed_request"),
        (b"\x16\x03\x01\x02\x00\x01\r\n\r\n", 400, "malformed_request"),
        (b"FOO /fine HTTP/1.1\r\nHost: a\r\n\r\n", 400, "malformed_request"),
        (
            b"GET /fine HTTP/1.1\r\nHost: a\r\nno header\r\n\r\n",
            400,
            "malformed_request",
        ),
        (
            b"POST /fine HTTP/1.1\r\nHost: a\r\nContent-Length: x\r\n\r\n",
            400,
            "malformed_request",
        ),
        (b"GET /" + LONG + b" HTTP/1.1\r\nHost: a\r\n\r\n", 431, "headers_too_large"),
        (
            b"GET /fine HTTP/1.1\r\nHost: a\r\nX: " + LONG + b"\r\n\r\n",
            431,
            "headers_too_large",
        ),
        (
            b"GET /late HTTP/1.1\r\nHost: a\r\nExpect: x\r\nConnection: close\r\n\r\n",
            417,
            "http_error",
        ),
        (b"GET http://[a HTTP/1.1\r\nHost: a\r\n\r\n", 400, "malformed_request"),
        (b"GET /broken HTTP/1.1\r\nHost: a\r\n\r\n", 500, "internal_error"),
    ],
)
async def test_every_refusal_is_the_envelope(
    raw: bytes, status: int, code: str
) -> None:
    async with serving() as port:
        answered, head, body = await exchange(port, raw)
    assert (answered, orjson.loads(body)["error"]["code"]) == (status, code)
    assert b"content-type: application/json" in head.lower()


async def test_an_answer_that_has_begun_is_broken_off() -> None:
    async with serving() as port:
        raw = b"GET /late HTTP/1.1\r\nHost: a\r\n\r\n"
        status, _, body = await exchange(port, raw)
    assert status == 200
    assert body == b"5\r\nfirst\r\n"  # No last chunk: it is known to be incomplete.


@pytest.mark.parametrize(
    "raw",
    [
        b"GET http://[a?key=SECRET HTTP/1.1\r\n\r\n",
        b"GET / HTTP/1.1\r\nHost: a\r\nx-api-key: SECRET\0\r\n\r\n",
        b"GET / HTTP/1.1\r\nHost: a\r\nx-api-key: SECRET" + LONG,
        b"SECRET / HTTP/1.1\r\n\r\n",
        b"GET / SECRET\r\n\r\n",
    ],
)
async def test_the_log_does_not_repeat_what_is_no_http(
    raw: bytes, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level("DEBUG")
    async with serving() as port:
        await exchange(port, raw)
    assert "127.0.0.1 is refused: " in caplog.text
    assert "SECRET" not in caplog.text


async def test_a_refused_body_that_cannot_be_read_on_is_no_defect(
    caplog: pytest.LogCaptureFixture,
) -> None:
    async with serving() as port:
        raw = (
            b"POST /nowhere HTTP/1.1\r\nHost: a\r\nContent-Length: 3\r\n"
            b"Content-Encoding: gzip\r\n\r\nxyz"
        )
        status, _, _ = await exchange(port, raw)
    assert status == 404
    assert not caplog.records


async def test_a_good_request_is_served() -> None:
    async with serving() as port:
        raw = (
            b"POST /fine HTTP/1.1\r\nHost: a\r\nContent-Length: 2\r\n"
            b"Connection: close\r\n\r\nhi"
        )
        assert (await exchange(port, raw))[::2] == (200, b"hi")
