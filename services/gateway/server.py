"""The gateway as a process: start, signals, reload, drain, stop."""

import asyncio
import logging
import os
import signal
import sys
import time
from collections.abc import Iterator
from contextlib import AsyncExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path

from neuron.protocol import paths
from neuron.protocol.announce import Announcement
from neuron.protocol.config_file import ConfigError
from services.config import Settings, load_settings
from services.fleet.fleet import Fleet
from services.gateway.context import Gateway
from services.gateway.listeners import StartError, listening, only_one
from services.gateway.responses import opened_store
from services.keys.store import SPEND_FILE

log = logging.getLogger("cortex.gateway")

OK, ABORTED, USAGE = 0, 1, 2
ANNOUNCEMENT = "gateway.json"
SOCKET = "gateway.sock"
DRAIN_LOOK_S = 0.05
LOG_FORMAT = "%(asctime)s %(levelname)s %(name)s: %(message)s"


def run(
    *,
    config: Path | None = None,
    listen: str | None = None,
    announce: Path | None = None,
    log_level: str = "info",
) -> int:
    """Serve until told to stop.

    `listen` overrides `[gateway] listen`; the announcement goes to the runtime folder,
    and to `announce` too. Returns the exit code: 0 stopped, 1 stopped in a hurry,
    2 could not start.
    """
    logging.basicConfig(level=log_level.upper(), format=LOG_FORMAT, stream=sys.stderr)
    try:
        settings = load_settings(config, listen)
        with only_one(paths.runtime_dir()):
            return asyncio.run(_Server(settings, announce).run())
    except (ConfigError, StartError, OSError) as error:
        print(f"cortex: {error}", file=sys.stderr)  # noqa: T201
        return USAGE


@dataclass(slots=True)
class _Server:
    settings: Settings
    announce: Path | None

    async def run(self) -> int:
        fleet = Fleet(self.settings)
        gateway = Gateway.before(fleet)
        runtime = paths.runtime_dir()
        async with AsyncExitStack() as stack:
            stack.push_async_callback(fleet.session.close)
            database = paths.state_dir() / SPEND_FILE
            await stack.enter_async_context(gateway.keys.running(database))
            gateway.responses = await stack.enter_async_context(
                opened_store(self.settings.config.responses)
            )
            # First the ports: without them no neuron should be started.
            await stack.enter_async_context(listening(gateway, runtime / SOCKET))
            signals = stack.enter_context(_Signals(gateway))
            await stack.enter_async_context(fleet)
            files = [runtime / ANNOUNCEMENT]
            if self.announce is not None and self.announce != files[0]:
                files.append(self.announce)
            stack.enter_context(_announced(gateway, runtime / SOCKET, files))
            _say_hello(gateway)
            await gateway.stopping.wait()
            await drain(gateway)
            gateway.closing.set()
            await signals.settle()
        log.info("stopped")
        return OK


async def drain(gateway: Gateway) -> None:
    """Wait for the requests in flight, as long as the configuration allows."""
    requests = gateway.fleet.state.requests
    limit = gateway.limits.drain_s
    deadline = time.monotonic() + limit
    log.info("stopping; %d requests in flight", len(requests.active))
    while requests.active:
        if time.monotonic() > deadline:
            log.warning("%d requests cut after %g s", len(requests.active), limit)
            return
        await asyncio.sleep(DRAIN_LOOK_S)


@contextmanager
def _announced(gateway: Gateway, socket: Path, files: list[Path]) -> Iterator[None]:
    """Announcement files, and the socket's: gone on the way out."""
    announcement = Announcement.of_this_process(
        gateway.url,
        socket=str(socket),
        metrics_url=gateway.metrics_url,
        started_at=gateway.fleet.state.started_at,
    )
    try:
        for file in files:
            announcement.write(file)
        yield
    finally:
        for file in (*files, socket):
            file.unlink(missing_ok=True)


def _say_hello(gateway: Gateway) -> None:
    settings = gateway.fleet.settings
    log.info("listening on %s, metrics on %s", gateway.url, gateway.metrics_url)
    log.info("configuration: %s", settings.config_path or "none, defaults apply")
    required = gateway.keys.required(gateway.limits.auth)
    asked = "everybody is asked for one" if required else "nobody is asked for one"
    log.info("keys: %s, %d; %s", settings.keys.path, len(settings.keys.entries), asked)
    if settings.catalogue.found:
        count = len(settings.catalogue.entries)
        log.info("catalogue: %s, %d models", settings.catalogue.path, count)
    else:
        log.warning(
            "no catalogue: %s does not exist; every model runs with defaults",
            settings.catalogue.path,
        )


class _Signals:
    """SIGTERM and SIGINT stop, and at the second time at once; SIGHUP reloads."""

    def __init__(self, gateway: Gateway) -> None:
        self._gateway = gateway
        self._loop = asyncio.get_running_loop()
        self._reload: asyncio.Task[None] | None = None

    def __enter__(self) -> "_Signals":
        for number in (signal.SIGTERM, signal.SIGINT):
            self._loop.add_signal_handler(number, self._stop)
        self._loop.add_signal_handler(signal.SIGHUP, self._hang_up)
        return self

    def __exit__(self, *_: object) -> None:
        for number in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP):
            self._loop.remove_signal_handler(number)

    async def settle(self) -> None:
        """Let a reload that runs come to its end."""
        if self._reload is not None:
            await asyncio.wait([self._reload])

    def _stop(self) -> None:
        if self._gateway.stopping.is_set():
            log.warning("stopping at once")
            if self._gateway.fleet.local is not None:
                self._gateway.fleet.local.abandon()
            os._exit(ABORTED)
        self._gateway.stopping.set()

    def _hang_up(self) -> None:
        if self._reload is None or self._reload.done():
            self._reload = asyncio.create_task(_reload(self._gateway))


async def _reload(gateway: Gateway) -> None:
    try:
        restart = await gateway.fleet.reload()
    except (ConfigError, OSError) as error:
        log.error("not reloaded, the old configuration stays: %s", error)
        gateway.fleet.state.events.add(
            "error", "config", f"the configuration was not read again: {error}"
        )
        return
    await gateway.keys.follow(gateway.fleet.settings.keys)
    for key in restart:
        log.warning("%s takes effect after a restart only", key)
