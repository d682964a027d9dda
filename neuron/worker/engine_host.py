"""The one thread that touches the engine, and the way in and out of it."""

import asyncio
import logging
import threading
from collections.abc import Callable, Sequence
from queue import SimpleQueue
from typing import Final

from neuron.engines.base import (
    Engine,
    EngineError,
    EngineEvent,
    EngineStats,
    Failed,
    Finished,
    GenerationRequest,
    LoadSpec,
    ProgressCallback,
)

log = logging.getLogger(__name__)

Sink = Callable[[Sequence[EngineEvent]], None]
"""Takes one request's events of one step, on the loop; must not block."""

_Command = Callable[[Engine], EngineEvent | None]


class EngineHost:
    """Runs an engine in a thread of its own: import, load, every step, unload.

    Commands go in through a queue that is emptied before every step; events come back
    to the loop once per step. `on_fatal` is called on the loop when the engine is
    beyond use: the process must be replaced.
    """

    def __init__(self, on_fatal: Callable[[EngineError], None]) -> None:
        self._on_fatal = on_fatal
        self._loop = asyncio.get_running_loop()
        self._commands: SimpleQueue[_Command | None] = SimpleQueue()
        self._sinks: dict[str, Sink] = {}
        self._load_cancelled = threading.Event()
        self._ended = asyncio.Event()
        self._thread: threading.Thread | None = None
        self.stats: EngineStats | None = None
        self.busy = False

    async def load(
        self, prepare: Callable[[], tuple[Engine, LoadSpec]], progress: ProgressCallback
    ) -> None:
        """Load what `prepare` makes, in the thread; `progress` is called there too.

        Raises:
            EngineError: or whatever else `prepare` and the engine's `load` raise.
        """
        loaded: asyncio.Future[None] = self._loop.create_future()

        def run() -> None:
            try:
                engine, spec = prepare()
                engine.load(spec, progress, self._load_cancelled.is_set)
            except BaseException as error:
                self._call(_settle, loaded, error)
                self._call(self._ended.set)
                return
            self._call(_settle, loaded, None)
            self._serve(engine)

        self._thread = threading.Thread(target=run, name="engine", daemon=True)
        self._thread.start()
        try:
            await asyncio.shield(loaded)
        except asyncio.CancelledError:
            self._load_cancelled.set()
            # How it ends concerns nobody any more, and asyncio need not warn.
            loaded.add_done_callback(lambda ended: ended.exception())
            raise

    def submit(self, request: GenerationRequest, sink: Sink) -> None:
        """Queue a request; its events go to `sink`, Finished or Failed the last."""
        self._sinks[request.id] = sink

        def command(engine: Engine) -> EngineEvent | None:
            try:
                engine.submit(request)
            except EngineError as error:
                return Failed(request.id, error)
            return None

        self._commands.put(command)

    def cancel(self, request_id: str) -> None:
        """Forget a request: no more events now, no more work after this step."""
        if self._sinks.pop(request_id, None) is None:
            return

        def command(engine: Engine) -> None:
            engine.cancel(request_id)

        self._commands.put(command)

    async def close(self) -> None:
        """Unload and end the thread; requests still running get no further event."""
        self._sinks.clear()
        self._load_cancelled.set()
        if self._thread is not None:
            self._commands.put(None)
            await self._ended.wait()

    # In the thread.

    def _serve(self, engine: Engine) -> None:
        try:
            while self._obey(engine):
                self._report(engine.step(), engine)
            engine.unload()
        except BaseException as error:
            log.exception("the engine failed")
            fatal = EngineError(f"the engine failed: {error}", code="engine_failed",
                                retryable=True, fatal=True)  # fmt: skip
            fatal.__cause__ = error
            self._call(self._fail, fatal)
        finally:
            self._call(self._ended.set)

    def _obey(self, engine: Engine) -> bool:
        """Run every waiting command, and wait for one while there is no work."""
        while True:
            # Told before the step: one that hangs must not look idle.
            self.busy = engine.has_work()
            if self.busy and self._commands.empty():
                return True
            self.stats = engine.stats()
            command = self._commands.get()
            if command is None:
                return False
            if (event := command(engine)) is not None:
                self._report([event], engine)

    def _report(self, events: list[EngineEvent], engine: Engine) -> None:
        self.stats = engine.stats()
        if events:
            self._call(self._deliver, events)

    def _call(self, function: Callable[..., None], *arguments: object) -> None:
        try:
            self._loop.call_soon_threadsafe(function, *arguments)
        except RuntimeError:
            log.debug("the loop is closed; %r is dropped", function)

    # On the loop.

    def _deliver(self, events: list[EngineEvent]) -> None:
        per_request: dict[str, list[EngineEvent]] = {}
        for event in events:
            per_request.setdefault(event.id, []).append(event)
        for request_id, own in per_request.items():
            over = isinstance(own[-1], _LAST)
            sink = (
                self._sinks.pop(request_id, None)
                if over
                else self._sinks.get(request_id)
            )
            if sink is not None:
                sink(own)
            last = own[-1]
            if isinstance(last, Failed) and last.error.fatal:
                self._on_fatal(last.error)

    def _fail(self, error: EngineError) -> None:
        sinks, self._sinks = self._sinks, {}
        for request_id, sink in sinks.items():
            sink([Failed(request_id, error)])
        self._on_fatal(error)


_LAST: Final = (Finished, Failed)


def _settle(future: "asyncio.Future[None]", error: BaseException | None) -> None:
    if future.done():
        return
    if error is None:
        future.set_result(None)
    else:
        future.set_exception(error)
