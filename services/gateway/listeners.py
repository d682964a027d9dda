"""Where the gateway listens: TCP, UNIX socket, metrics; and the lock that owns them."""

import fcntl
import os
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, contextmanager
from pathlib import Path

from aiohttp import web

from neuron.protocol.address import Address
from neuron.protocol.server_runner import EnvelopeRunner
from services.config import OFF
from services.gateway.app import make_app, make_metrics_app
from services.gateway.context import Gateway

SHUTDOWN_TIMEOUT_S = 1.0
"""For connections that are still open after the drain."""


class StartError(Exception):
    """The gateway cannot start; the message says why and what to do."""


@contextmanager
def only_one(runtime_dir: Path) -> Iterator[None]:
    """Hold the lock of this user's gateway.

    Raises:
        StartError: another one holds it.
    """
    path = runtime_dir / "gateway.running"
    descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError as error:
        os.close(descriptor)
        raise StartError(
            f"another gateway of this user is running (it holds {path}); "
            "attach to it, or stop it with `cortex-tui stop`"
        ) from error
    try:
        yield
    finally:
        os.close(descriptor)


@asynccontextmanager
async def listening(gateway: Gateway, socket_path: Path) -> AsyncIterator[None]:
    """Accept connections; fills in the gateway's URLs with the ports really bound.

    Raises:
        StartError: an address cannot be listened on.
    """
    runner = EnvelopeRunner(
        make_app(gateway),
        handler_cancellation=True,
        access_log=None,
        shutdown_timeout=SHUTDOWN_TIMEOUT_S,
    )
    metrics_runner = EnvelopeRunner(make_metrics_app(gateway), access_log=None)
    try:
        await runner.setup()
        listen = Address.parse(gateway.limits.listen)
        gateway.url = await _listen(runner, listen, "gateway.listen")
        await web.UnixSite(runner, str(socket_path)).start()
        if gateway.limits.metrics_listen != OFF:
            await metrics_runner.setup()
            address = Address.parse(gateway.limits.metrics_listen)
            gateway.metrics_url = (
                await _listen(metrics_runner, address, "gateway.metrics_listen")
                + "/metrics"
            )
        yield
    finally:
        await runner.cleanup()
        await metrics_runner.cleanup()


async def _listen(runner: web.AppRunner, address: Address, key: str) -> str:
    before = len(runner.addresses)
    try:
        await web.TCPSite(runner, address.host, address.port).start()
    except OSError as error:
        # asyncio's own text says the address once more, and how it was bound.
        known = error.errno is not None and error.errno > 0
        why = os.strerror(error.errno or 0).lower() if known else error.strerror
        raise StartError(
            f"{key}: cannot listen on {address.host}:{address.port}: {why or error}"
        ) from error
    port = runner.addresses[before][1]
    return address.url(port)
