"""Turns for the text work of requests: templates, tokens, grammars."""

import asyncio
import contextlib
import threading
from collections.abc import Callable, Coroutine
from typing import Any, Final, TypeVar

from neuron.text.abandonment import abandoned_by
from neuron.worker.admission import Admission

T = TypeVar("T")

_TURNS: Final = 4
_TURNS_PER_CALLER: Final = 2
"""Slow templates of one caller must leave the others a turn."""


class TextWork:
    """Lets few requests work on their texts at once, shared evenly among callers.

    Each is done in threads, which take the interpreter from the engine and from the
    streams; and a thread cannot be stopped, it has to notice.
    """

    def __init__(self, admission: Admission) -> None:
        """`admission` is what requests go through, with its bounds and its counts."""
        self._line = Admission(
            _TURNS, admission.capacity, admission.wait_s, _TURNS_PER_CALLER
        )
        self._line.rejections = admission.rejections
        self._tasks: set[asyncio.Task[Any]] = set()

    @property
    def running(self) -> int:
        """How many turns are taken."""
        return self._line.running

    async def run(
        self,
        work: Callable[[], Coroutine[Any, Any, T]],
        *,
        caller: str = "",
        priority: int = 0,
    ) -> T:
        """Await `work` in its turn, in a task of its own.

        Who is cancelled leaves at once. The turn is over only when the work has
        noticed, so that leaving again and again is no way to more turns.

        Raises:
            ApiError: as `Admission`, there is no turn to be had.
        """
        abandoned = threading.Event()
        with contextlib.ExitStack() as turn:
            ticket = turn.enter_context(
                self._line.enter(caller=caller, priority=priority)
            )
            await ticket.wait()
            with abandoned_by(abandoned):
                task = asyncio.create_task(_with(turn.pop_all(), work))
        self._tasks.add(task)
        task.add_done_callback(self._ended)
        try:
            return await asyncio.shield(task)
        finally:
            abandoned.set()

    def _ended(self, task: "asyncio.Task[Any]") -> None:
        self._tasks.discard(task)
        if not task.cancelled():
            task.exception()  # Seen, or nobody is left to see it.

    async def close(self) -> None:
        """End what still runs."""
        tasks = list(self._tasks)
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)


async def _with(
    turn: contextlib.ExitStack, work: Callable[[], Coroutine[Any, Any, T]]
) -> T:
    with turn:
        return await work()
