"""The gateway's middleware and writes, before clients that misbehave."""

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager

import pytest
from aiohttp import web

from services.gateway import sending
from services.gateway.errors import envelope
from services.gateway.sending import finish, send

Handler = Callable[[web.Request], Awaitable[web.StreamResponse]]
MORE_THAN_SOCKETS_HOLD = 32 * 1024 * 1024


@asynccontextmanager
async def asked(handler: Handler) -> AsyncIterator[asyncio.StreamReader]:
    """A connection on which `handler` has been asked for."""
    app = web.Application(middlewares=[envelope])
    app.router.add_get("/", handler)
    runner = web.AppRunner(app, handler_cancellation=True)
    await runner.setup()
    try:
        await web.TCPSite(runner, "127.0.0.1", 0).start()
        reader, writer = await asyncio.open_connection(*runner.addresses[0])
        writer.write(b"GET / HTTP/1.1\r\nHost: x\r\n\r\n")
        try:
            yield reader
        finally:
            writer.close()
    finally:
        await runner.cleanup()


async def test_a_client_that_leaves_while_it_is_written_to_is_no_error(
    caplog: pytest.LogCaptureFixture,
) -> None:
    failed: asyncio.Future[str] = asyncio.get_running_loop().create_future()

    async def write_to_nobody(request: web.Request) -> web.StreamResponse:
        response = web.StreamResponse()
        await response.prepare(request)
        assert request.transport is not None
        request.transport.abort()
        try:
            await send(response, b"x")
        except ConnectionResetError as error:
            failed.set_result(str(error))
            raise
        return response

    async with asked(write_to_nobody) as reader:
        assert await failed
        assert b" 499 " not in await reader.read()
    assert not [r for r in caplog.records if r.levelname == "ERROR"]


@pytest.mark.parametrize("ends", [True, False])
async def test_a_client_that_reads_nothing_is_given_up(
    monkeypatch: pytest.MonkeyPatch, ends: bool
) -> None:
    monkeypatch.setattr(sending, "SEND_TIMEOUT_S", 0.1)
    given_up: asyncio.Future[str] = asyncio.get_running_loop().create_future()

    async def write_much(request: web.Request) -> web.StreamResponse:
        response = web.StreamResponse()
        await response.prepare(request)
        await send(response, b"x")
        assert request.transport is not None
        request.transport.write(bytes(MORE_THAN_SOCKETS_HOLD))
        try:
            await (finish(response) if ends else send(response, bytes(1024 * 1024)))
        except ConnectionResetError as error:
            given_up.set_result(str(error))
            raise
        return response

    async with asked(write_much):
        async with asyncio.timeout(10):
            assert await given_up == "the client reads nothing"


async def test_an_answer_that_has_begun_is_not_followed_by_another(
    caplog: pytest.LogCaptureFixture,
) -> None:
    async def breaks(request: web.Request) -> web.StreamResponse:
        response = web.StreamResponse()
        await response.prepare(request)
        await send(response, b"begun")
        raise ZeroDivisionError

    async with asked(breaks) as reader:
        async with asyncio.timeout(10):
            try:
                answer = await reader.read()
            except ConnectionResetError:
                answer = b""
        assert b"internal_error" not in answer
    assert "ZeroDivisionError" in caplog.text
