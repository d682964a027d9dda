"""Errors, wherever they happen."""

import asyncio
from typing import Any

import pytest
from aiohttp import ClientSession, web
from pydantic import BaseModel

from neuron import web as surface
from neuron.protocol import sse
from neuron.protocol.errors import ApiError
from neuron.web import EventStream, error_middleware, read_json, validate


async def fetch(handler: Any) -> tuple[int, str]:
    app = web.Application(middlewares=[error_middleware])
    app.router.add_get("/", handler)
    runner = web.AppRunner(app)
    await runner.setup()
    try:
        await web.TCPSite(runner, "127.0.0.1", 0).start()
        url = f"http://127.0.0.1:{runner.addresses[0][1]}/"
        async with ClientSession() as session, session.get(url) as response:
            return response.status, await response.text()
    finally:
        await runner.cleanup()


async def test_what_nobody_expected_is_told_without_its_details() -> None:
    async def broken(request: web.Request) -> web.Response:
        raise RuntimeError("secret")

    status, text = await fetch(broken)
    assert status == 500
    assert '"code":"internal_error"' in text
    assert "secret" not in text


@pytest.mark.parametrize(
    ("error", "code"),
    [
        (RuntimeError("secret"), "internal_error"),
        (ApiError(503, "later", code="queue_timeout"), "queue_timeout"),
    ],
)
async def test_once_a_stream_has_begun_an_error_is_its_last_event(
    error: Exception, code: str
) -> None:
    async def breaking(request: web.Request) -> web.StreamResponse:
        stream = await EventStream(request).open()
        await stream.send(sse.encode("first"))
        raise error

    status, text = await fetch(breaking)
    events = list(sse.SseParser().feed(text.encode()))
    assert status == 200
    assert events[0].data == "first"
    assert f'"code":"{code}"' in events[1].data
    assert len(events) == 2


class Inner(BaseModel):
    size: int | list[int] = 0


class Outer(BaseModel):
    inner: list[Inner]


@pytest.mark.parametrize(
    ("value", "param"),
    [
        ({}, "inner"),
        ({"inner": 5}, "inner"),
        ({"inner": [{"size": "x"}]}, "inner[0].size"),
    ],
)
def test_the_offending_field_is_named(value: object, param: str) -> None:
    with pytest.raises(ApiError) as refusal:
        validate(Outer, value)
    assert refusal.value.param == param
    assert refusal.value.message.startswith(param)


async def answered(handler: Any, sent: bytes, until: bytes | None = None) -> bytes:
    """What comes back, up to the connection's end or to these bytes."""
    app = web.Application(middlewares=[error_middleware], client_max_size=100)
    app.router.add_route("*", "/", handler)
    runner = web.AppRunner(app, lingering_time=0)
    await runner.setup()
    try:
        await web.TCPSite(runner, "127.0.0.1", 0).start()
        reader, writer = await asyncio.open_connection(*runner.addresses[0])
        writer.write(sent)
        async with asyncio.timeout(10):
            received = await (reader.readuntil(until) if until else reader.read())
        writer.close()
        return received
    finally:
        await runner.cleanup()


async def test_a_stream_ends_for_clients_of_the_old_kind_too() -> None:
    async def short(request: web.Request) -> web.StreamResponse:
        stream = await EventStream(request).open()
        await stream.send(sse.encode("all"))
        return stream.response

    asked = b"GET / HTTP/1.0\r\nConnection: keep-alive\r\n\r\n"
    received = await answered(short, asked)
    assert received.endswith(b"\r\n\r\ndata: all\n\n")


async def test_a_client_that_leaves_as_its_stream_opens_is_no_failure(
    caplog: pytest.LogCaptureFixture,
) -> None:
    async def late(request: web.Request) -> web.StreamResponse:
        assert request.transport is not None
        request.transport.close()
        return (await EventStream(request).open()).response

    received = await answered(late, b"GET / HTTP/1.1\r\nHost: x\r\n\r\n")
    assert received == b""
    assert "failed" not in caplog.text


async def test_a_body_that_says_it_is_too_large_is_not_waited_for() -> None:
    async def read(request: web.Request) -> web.Response:
        await read_json(request)
        return web.Response()

    head = b"POST / HTTP/1.1\r\nHost: x\r\nConnection: close\r\nContent-Length: 101\r\n"
    received = await answered(
        read, head + b"Expect: 100-continue\r\n\r\n", until=b"request_too_large"
    )
    assert b" 413 " in received


@pytest.mark.parametrize("sends", [True, False])
async def test_a_client_that_reads_nothing_is_cut_off_also_at_the_end(
    monkeypatch: pytest.MonkeyPatch, sends: bool
) -> None:
    monkeypatch.setattr(surface, "SEND_DEADLINE_S", 0.1)

    async def long(request: web.Request) -> web.StreamResponse:
        stream = await EventStream(request).open()
        await stream.send(b"")
        assert request.transport is not None
        request.transport.write(bytes(32 * 1024 * 1024))  # More than sockets hold.
        if sends:
            await stream.send(bytes(1024 * 1024))
        return stream.response

    app = web.Application(middlewares=[error_middleware])
    app.router.add_get("/", long)
    runner = web.AppRunner(app)
    await runner.setup()
    try:
        await web.TCPSite(runner, "127.0.0.1", 0).start()
        _, writer = await asyncio.open_connection(*runner.addresses[0])
        writer.write(b"GET / HTTP/1.1\r\nHost: x\r\n\r\n")
        assert runner.server is not None
        async with asyncio.timeout(10):
            while not runner.server.requests_count or runner.server.connections:  # noqa: ASYNC110
                await asyncio.sleep(0.01)
        writer.close()
    finally:
        await runner.cleanup()


async def test_a_body_that_is_not_compressed_as_it_says_is_refused() -> None:
    async def read(request: web.Request) -> web.Response:
        await read_json(request)
        return web.Response()

    app = web.Application(middlewares=[error_middleware])
    app.router.add_post("/", read)
    runner = web.AppRunner(app)
    await runner.setup()
    try:
        await web.TCPSite(runner, "127.0.0.1", 0).start()
        url = f"http://127.0.0.1:{runner.addresses[0][1]}/"
        headers = {"Content-Encoding": "gzip"}
        async with (
            ClientSession() as session,
            session.post(url, data=b"{}", headers=headers) as response,
        ):
            assert response.status == 400
            assert (await response.json())["error"]["code"] == "malformed_body"
    finally:
        await runner.cleanup()
