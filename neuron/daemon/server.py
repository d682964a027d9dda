"""The daemon's process: listen, announce, look around, serve, drain, exit."""

import asyncio
import contextlib
import logging
import os
import shutil
import signal
import socket
import threading
from collections.abc import AsyncIterator, Callable, Iterator
from pathlib import Path
from typing import Any, Final

from aiohttp import web

from neuron.config import NeuronConfig
from neuron.daemon.api import NeuronApi
from neuron.daemon.catalogue import SCAN_INTERVAL_S, Catalogue
from neuron.daemon.events import EventLog
from neuron.daemon.guard import no_web_pages, token_required
from neuron.daemon.hardware import Hardware
from neuron.daemon.manager import ModelManager
from neuron.daemon.nvml import Nvml
from neuron.protocol import paths
from neuron.protocol.address import Address
from neuron.protocol.announce import Announcement
from neuron.protocol.errors import ApiError
from neuron.protocol.server_runner import EnvelopeRunner
from neuron.web import error_middleware

log = logging.getLogger(__name__)

_EXIT_MARGIN_S: Final = 45.0
"""On top of `drain_s`, until a shutdown that hangs is cut off."""
_BACKLOG: Final = 512


def serve(
    config: NeuronConfig,
    announce: Path | None,
    log_level: str,
    document: Callable[[], bytes],
) -> int:
    """Run the daemon until a signal ends it; returns the exit code.

    `document` makes what `/openapi.json` answers.

    Raises:
        OSError: the address is taken, or not this host's; or a folder is not writable.
    """
    try:
        listener = _listener(config.address)
    except OSError as error:
        raise OSError(f"cannot listen on {config.listen}: {error}") from error
    with listener:
        asyncio.run(_Daemon(config, log_level, document).run(listener, announce))
    return 0


def _listener(address: Address) -> socket.socket:
    family, *_, where = socket.getaddrinfo(
        address.host, address.port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE
    )[0]
    # With the protocol named, asyncio turns Nagle's algorithm off: tokens are small.
    listener = socket.socket(family, socket.SOCK_STREAM, socket.IPPROTO_TCP)
    try:
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        listener.bind(where)
    except BaseException:
        listener.close()
        raise
    return listener


def _import_nvml() -> Any:
    import pynvml

    return pynvml


@contextlib.contextmanager
def _announced(url: str, token: str | None, path: Path | None) -> Iterator[None]:
    if path is None:
        yield
        return
    Announcement.of_this_process(url, token=token).write(path)
    try:
        yield
    finally:
        path.unlink(missing_ok=True)


@contextlib.contextmanager
def _socket_dir() -> Iterator[Path]:
    """A folder for the workers' sockets; those that dead daemons left are removed."""
    runtime = paths.runtime_dir()
    for left in runtime.glob("neuron-*.d"):
        pid = left.name.removeprefix("neuron-").removesuffix(".d")
        if not Path(f"/proc/{pid}").exists():
            shutil.rmtree(left, ignore_errors=True)
    folder = runtime / f"neuron-{os.getpid()}.d"
    folder.mkdir(mode=0o700, exist_ok=True)
    try:
        yield folder
    finally:
        shutil.rmtree(folder, ignore_errors=True)


class _Daemon:
    def __init__(
        self, config: NeuronConfig, log_level: str, document: Callable[[], bytes]
    ) -> None:
        self._config = config
        self._document = document
        self._log_level = log_level
        self._events = EventLog()
        self._hardware = Hardware(Nvml(_import_nvml()))
        self._catalogue = Catalogue(config.models_dirs)
        self._stopping = asyncio.Event()

    async def run(self, listener: socket.socket, announce: Path | None) -> None:
        with _socket_dir() as sockets:
            manager = ModelManager(
                self._catalogue,
                self._hardware,
                self._events,
                self._config.limits,
                sockets,
                self._log_level,
            )
            api = NeuronApi(
                self._catalogue, self._hardware, self._events, manager, self._document
            )
            for signum in (signal.SIGTERM, signal.SIGINT):
                asyncio.get_running_loop().add_signal_handler(
                    signum, self._on_signal, signum, announce
                )
            async with _listening(api, listener, self._config) as url:
                log.info("listening on %s", url)
                with _announced(url, self._config.token, announce):
                    await self._serve(api, manager)
                self._events.close()
        log.info("stopped")

    def _on_signal(self, signum: int, announce: Path | None) -> None:
        name = signal.Signals(signum).name
        if self._stopping.is_set():
            log.warning("%s again: exiting at once", name)
            if announce:
                announce.unlink(missing_ok=True)
            logging.shutdown()
            os._exit(1)  # The workers see the end of their input and exit too.
        log.info("%s: draining for up to %g s", name, self._config.limits.drain_s)
        deadman = threading.Timer(
            self._config.limits.drain_s + _EXIT_MARGIN_S, os._exit, [1]
        )
        deadman.daemon = True
        deadman.start()
        self._stopping.set()

    async def _serve(self, api: NeuronApi, manager: ModelManager) -> None:
        background = asyncio.create_task(self._background(api, manager))
        stopping = asyncio.create_task(self._stopping.wait())
        try:
            await asyncio.wait(
                {background, stopping}, return_when=asyncio.FIRST_COMPLETED
            )
            if background.done():
                await background
        finally:
            await manager.shutdown()
            for task in (background, stopping):
                task.cancel()
            await asyncio.gather(background, stopping, return_exceptions=True)
            await self._hardware.close()

    async def _background(self, api: NeuronApi, manager: ModelManager) -> None:
        async with asyncio.TaskGroup() as group:
            await asyncio.gather(self._hardware.start(), self._catalogue.refresh())
            api.started_up.set()
            group.create_task(self._hardware.watch())
            group.create_task(self._watch_models())
            group.create_task(self._load_defaults(manager))

    async def _watch_models(self) -> None:
        while True:
            await asyncio.sleep(SCAN_INTERVAL_S)
            try:
                if await self._catalogue.refresh():
                    self._events.publish("models on disk changed", kind="node")
            except Exception:
                # What is loaded is served all the same.
                log.exception("the model folders cannot be scanned")

    async def _load_defaults(self, manager: ModelManager) -> None:
        for default in self._config.default_models:
            try:
                instance, _ = await manager.load(default)
                await instance.ready()
            except ApiError as error:
                log.error("default model %s: %s", default.model, error)


@contextlib.asynccontextmanager
async def _listening(
    api: NeuronApi, listener: socket.socket, config: NeuronConfig
) -> AsyncIterator[str]:
    guards = [] if config.token is None else [token_required(config.token)]
    app = web.Application(
        middlewares=[error_middleware, no_web_pages, *guards],
        client_max_size=config.limits.max_body_mb * 1024 * 1024,
    )
    api.add_routes(app)
    # Handlers are cancelled when their client leaves: that is what frees a slot.
    runner = EnvelopeRunner(
        app, handler_cancellation=True, access_log=None, shutdown_timeout=5
    )
    await runner.setup()
    try:
        await web.SockSite(runner, listener, backlog=_BACKLOG).start()
        host, port = listener.getsockname()[:2]
        yield f"http://[{host}]:{port}" if ":" in host else f"http://{host}:{port}"
    finally:
        await runner.cleanup()
