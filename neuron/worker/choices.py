"""The choices of one request while they run."""

import asyncio
import contextlib
import logging
import time
from collections.abc import Callable, Coroutine, Iterator, Sequence
from types import TracebackType
from typing import Any, Final, Self

from neuron.engines.base import EngineError
from neuron.protocol.errors import ApiError
from neuron.text.tokenizer import TextTokenizer
from neuron.worker.admission import Ticket
from neuron.worker.engine_host import EngineHost
from neuron.worker.generation import Generation, Times
from neuron.worker.preparation import Prepared

log = logging.getLogger(__name__)

_STATUS: Final = {
    "context_length_exceeded": 400,
    "invalid_value": 400,
    "unsupported_parameter": 400,
}


class Runner:
    """Starts generations on the engine, and knows all that run."""

    def __init__(self, host: EngineHost, tokenizer: TextTokenizer) -> None:
        self._host = host
        self._tokenizer = tokenizer
        self._running: set[Generation] = set()

    def stop(self, reason: ApiError) -> None:
        """End every running generation with `reason`."""
        error = EngineError(str(reason), code=reason.code, retryable=True)
        for generation in list(self._running):
            generation.fail(error)

    @contextlib.contextmanager
    def generation(
        self, prepared: Prepared, ticket: Ticket, arrived: float, news: asyncio.Event
    ) -> Iterator[Generation]:
        """A running generation; leaving in any way takes it from the engine."""

        def end() -> None:
            # The engine is done, or forgets it: a slow client holds no slot.
            self._host.cancel(prepared.request.id)
            ticket.release()

        generation = Generation(
            prepared.request,
            prepared.shape,
            self._tokenizer,
            Times(arrived, admitted=time.monotonic()),
            on_news=news.set,
            on_end=end,
        )
        self._running.add(generation)
        self._host.submit(prepared.request, generation.accept)
        try:
            yield generation
        finally:
            self._running.discard(generation)
            end()


class Choices:
    """Prepares the choices, then runs each as soon as its ticket has a slot; all fail
    together.

    None waits for another, so that the choices of several requests cannot hold each
    other up. As a context manager it owns what runs: nothing does afterwards.
    """

    def __init__(
        self,
        runner: Runner,
        preparation: Callable[[], Coroutine[Any, Any, Sequence[Prepared]]],
        tickets: Sequence[Ticket],
        arrived: float,
    ) -> None:
        self.prepared: Sequence[Prepared] = ()
        """All of them, or none yet."""
        self.generations: dict[int, Generation] = {}
        """By the choice's index, those that have begun."""
        self._runner = runner
        self._preparation = preparation
        self._tickets = tickets
        self._arrived = arrived
        self._news = asyncio.Event()
        self._failure: Exception | None = None
        self._tasks: list[asyncio.Task[None]] = []

    async def __aenter__(self) -> Self:
        preparing = asyncio.create_task(self._prepare())
        self._tasks = [
            preparing,
            *(
                asyncio.create_task(self._run(index, ticket, preparing))
                for index, ticket in enumerate(self._tickets)
            ),
        ]
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)

    async def _prepare(self) -> None:
        self.prepared = await self._preparation()

    async def _run(
        self, index: int, ticket: Ticket, preparing: "asyncio.Task[None]"
    ) -> None:
        try:
            await ticket.meanwhile(preparing)
            prepared = self.prepared[index]
            await ticket.wait()
            with self._runner.generation(
                prepared, ticket, self._arrived, self._news
            ) as generation:
                self.generations[index] = generation
                self._news.set()
                await generation.ended()
        except EngineError as error:
            failure = as_api_error(error)
            failure.__cause__ = error
            self._fail(failure)
        except Exception as error:
            self._fail(error)

    def _fail(self, error: Exception) -> None:
        self._failure = self._failure or error
        self._news.set()

    @property
    def over(self) -> bool:
        """Whether all have come to a good end."""
        return len(self.generations) == len(self._tickets) and all(
            each.finish_reason is not None for each in self.generations.values()
        )

    @property
    def phase(self) -> str:
        """What is going on, in words."""
        if not self.prepared:
            return "preparing"
        running = [each for each in self.generations.values() if not each.over]
        return running[0].phase if running else "queued"

    async def news(self, timeout: float | None) -> bool:
        """Wait for something to happen; False after `timeout` seconds without.

        Raises:
            ApiError: one of the choices failed.
        """
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(timeout):
                await self._news.wait()
        if self._failure is not None:
            raise self._failure
        happened = self._news.is_set()
        self._news.clear()
        return happened


def as_api_error(error: EngineError) -> ApiError:
    """An engine's failure as the client is told of it."""
    status = 503 if error.retryable else _STATUS.get(error.code, 500)
    return ApiError(
        status,
        str(error),
        code=error.code,
        type="invalid_request_error" if status == 400 else "server_error",
        param=error.param,
        retry_after=3 if error.retryable else None,
    )
