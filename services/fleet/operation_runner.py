"""Carries operations out: each a task of its own, told when it starts and ends."""

import asyncio
import logging
from collections.abc import Awaitable, Callable

from neuron.protocol.config_file import ConfigError
from neuron.protocol.errors import ApiError, model_not_found, shutting_down
from services.fleet.operations import Kind
from services.fleet.state import FleetState
from services.schema import ModelAction, Operation

log = logging.getLogger(__name__)


class OperationRunner:
    """Owns the tasks of all operations."""

    def __init__(self, state: FleetState) -> None:
        self._state = state
        self._tasks: set[asyncio.Task[None]] = set()
        self._closed = False
        self.on_ended: Callable[[Operation], None] = lambda _: None
        """Told of every operation that has ended."""

    async def close(self) -> None:
        """Cancel what runs; the neurons finish what they were asked for."""
        self._closed = True
        tasks = list(self._tasks)
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)

    def check_target(self, action: ModelAction) -> None:
        """Whether there is such a model, on such a node.

        Raises:
            ApiError: there is not, or the gateway is stopping.
        """
        if self._closed:
            raise shutting_down()
        nodes = self._state.nodes
        if action.node is not None and action.node not in nodes:
            known = ", ".join(sorted(nodes)) or "none"
            raise ApiError(
                404,
                f"node '{action.node}' does not exist; there is: {known}",
                code="node_not_found",
                param="node",
            )
        asked = [action.node] if action.node else list(nodes)
        models = {model for name in asked for model in nodes[name].models}
        if action.model not in models:
            raise model_not_found(action.model, sorted(models))

    def start(self, kind: Kind, action: ModelAction) -> Operation:
        """Enter an operation, and say who asked for it."""
        where = f" on {action.node}" if action.node else ""
        self._state.events.add(
            "info",
            kind,
            f"{kind} of {action.model}{where}, asked for by {action.by}",
            model=action.model,
            node=action.node,
        )
        return self._state.operations.start(kind, action.model, action.node, action.by)

    def run(
        self, operation: Operation, work: Callable[[], Awaitable[None]]
    ) -> asyncio.Task[None]:
        """Do `work`; the operation ends with it, and fails as it does."""
        task = asyncio.create_task(self._carry_out(operation, work), name=operation.id)
        self._tasks.add(task)
        task.add_done_callback(self._forget)
        return task

    async def settle(
        self, operation: Operation, task: asyncio.Task[None], wait: bool
    ) -> Operation:
        """The operation, ended if `wait`."""
        if wait:
            await asyncio.wait([task])
        return operation

    async def _carry_out(
        self, operation: Operation, work: Callable[[], Awaitable[None]]
    ) -> None:
        try:
            await work()
        except (ApiError, ConfigError) as error:
            self._finish(operation, str(error))
            raise
        except asyncio.CancelledError:
            self._finish(operation, "the gateway stopped")
            raise
        except Exception:
            log.exception("operation %s failed", operation.id)
            self._finish(operation, "an internal error; the gateway's log has it")
            raise
        self._finish(operation, None)

    def _finish(self, operation: Operation, error: str | None) -> None:
        self._state.operations.finish(operation, error)
        if error is not None:
            self._state.events.add(
                "error",
                "fail",
                f"{operation.kind} of {operation.model} failed: {error}",
                model=operation.model,
                node=operation.node,
            )
        self.on_ended(operation)

    def _forget(self, task: asyncio.Task[None]) -> None:
        self._tasks.discard(task)
        if not task.cancelled():
            task.exception()  # Told by the operation; asyncio need not warn.
