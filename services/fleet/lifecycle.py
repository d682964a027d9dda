"""Loads, unloads and pins: as operations, and one load however many ask for it."""

import asyncio
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import replace
from functools import partial
from typing import Literal

from neuron.protocol.config_file import ConfigError
from neuron.protocol.errors import ApiError, model_not_found, shutting_down, unavailable
from neuron.protocol.types import (
    LoadProgress,
    LoadRequest,
    Model,
    ModelState,
    UnloadRequest,
)
from services import catalogue_file
from services.fleet.client import INSUFFICIENT_MEMORY, NodeClient, NodeError
from services.fleet.placement import Offer, rank
from services.fleet.routing import Candidate, cold_candidates
from services.fleet.state import FleetState
from services.schema import ModelAction, NodeState, Operation

ON_DEMAND = "a request"
"""Who asked for a load that nobody but a request asked for."""
LOAD_IDLE_TIMEOUT_S = 600.0
"""A load that reports nothing for this long is given up on."""
UNLOAD_MARGIN_S = 60.0
DEFAULT_DRAIN_S = 300.0


class Lifecycle:
    """Steers the fleet's neurons; owns the tasks that do so."""

    def __init__(self, state: FleetState, clients: Mapping[str, NodeClient]) -> None:
        self._state = state
        self._clients = clients
        self._cold: dict[str, asyncio.Task[None]] = {}
        self._tasks: set[asyncio.Task[None]] = set()
        self._file_lock = asyncio.Lock()
        self._closed = False
        self.on_ended: Callable[[Operation], None] = lambda _: None
        """Told of every operation that has ended."""

    async def close(self) -> None:
        """Cancel what runs; the neurons finish what they were asked for."""
        self._closed = True
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)

    # Loads.

    async def load_on_demand(self, model: str) -> None:
        """Wait until the model is loaded somewhere; the first caller starts it.

        Raises:
            ApiError: it could not be loaded; every waiting caller gets the same one.
        """
        task = self._cold.get(model)
        if task is None:
            _, task = self._start_cold(ModelAction(model=model, by=ON_DEMAND))
        await asyncio.shield(task)

    async def load(self, action: ModelAction) -> Operation:
        """An operator's load; joins one of the same model that runs already.

        Raises:
            ApiError: no such model or node.
        """
        self._check_target(action)
        if action.node is None and action.model in self._cold:
            operation = self._state.operations.start(
                "load", action.model, None, action.by
            )
            task = self._spawn(
                operation, partial(asyncio.shield, self._cold[action.model])
            )
        elif action.node is None:
            operation, task = self._start_cold(action)
        else:
            operation = self._announce("load", action)
            task = self._spawn(
                operation, partial(self._load_on, operation, action, action.node)
            )
        return await self._settle(operation, task, action.wait)

    def _start_cold(self, action: ModelAction) -> tuple[Operation, asyncio.Task[None]]:
        operation = self._announce("load", action)
        task = self._spawn(operation, partial(self._load_somewhere, operation, action))
        self._cold[action.model] = task
        task.add_done_callback(lambda _: self._cold.pop(action.model, None))
        return operation, task

    async def _load_somewhere(self, operation: Operation, action: ModelAction) -> None:
        if present := self._present(action.model):
            # The neuron says whether what it has is what was asked for.
            return await self._load_on(operation, action, present)
        candidates = self._loadable(action)
        refusal: ApiError | None = None
        for node in await self._ranked(action, candidates):
            try:
                return await self._load_on(operation, action, node)
            except ApiError as error:
                if error.status not in (INSUFFICIENT_MEMORY, 502):
                    raise
                refusal = error
        raise refusal or unavailable(
            f"no node can load '{action.model}' now", code="node_unavailable"
        )

    def _present(self, model: str) -> str | None:
        """A node that has it loaded, or is about to."""
        states = (ModelState.READY, ModelState.LOADING, ModelState.RECOVERING)
        nodes = [
            c.node
            for c in self._state.candidates(model)
            if c.answers and c.model.state in states
        ]
        return min(nodes, default=None)

    def _loadable(self, action: ModelAction) -> list[Candidate]:
        """Where it could go; an operator's load also revives a failed model."""
        entry = self._state.entry(action.model)
        candidates = self._state.candidates(action.model)
        if action.by != ON_DEMAND:
            candidates = [_revived(c) for c in candidates]
        return cold_candidates(entry, candidates)

    async def _ranked(
        self, action: ModelAction, candidates: list[Candidate]
    ) -> list[str]:
        if len(candidates) < 2:
            return [c.node for c in candidates]
        request = self._load_request(action)
        offers = await asyncio.gather(
            *(self._offer(c.node, request) for c in candidates)
        )
        ranked = rank(offers)
        if not ranked:
            reasons = "; ".join(f"{o.node}: {o.refusal}" for o in offers)
            raise ApiError(
                422,
                f"no node can load '{action.model}': {reasons}",
                code="not_loadable",
                param="model",
            )
        return ranked

    async def _offer(self, node: str, request: LoadRequest) -> Offer:
        try:
            return Offer(node, await self._clients[node].plan(request))
        except NodeError:
            return Offer(node)
        except ApiError as error:
            # Only a refusal of the request itself says that it never could.
            return Offer(node, refusal=str(error) if error.status == 422 else None)

    async def _load_on(
        self, operation: Operation, action: ModelAction, node: str
    ) -> None:
        operation.node = node
        self._state.signal.touch()

        def progress(progress: LoadProgress) -> None:
            self._report(node, self._loading(node, action.model, progress))

        try:
            result = await self._clients[node].load(
                self._load_request(action), progress, LOAD_IDLE_TIMEOUT_S
            )
        except NodeError as error:
            raise _node_failed(node, error) from error
        if result.model.id:
            self._report(node, result.model)

    def _loading(self, node: str, model: str, progress: LoadProgress) -> Model:
        state = self._state.nodes.get(node)
        known = state.models.get(model) if state else None
        return (known or Model(id=model)).model_copy(
            update={"state": ModelState.LOADING, "progress": progress}
        )

    def _report(self, node: str, model: Model) -> None:
        """Ahead of the neuron's own event; nothing where the node was taken away."""
        if node in self._state.nodes:
            self._state.model_changed(self._state.nodes[node], model)

    def _load_request(self, action: ModelAction) -> LoadRequest:
        entry = self._state.entry(action.model)
        return LoadRequest(
            model=action.model,
            engine=entry.engine,
            max_seq_len=action.max_seq_len or entry.max_seq_len,
            slots=action.slots or entry.slots,
            cache_mode=entry.cache_mode,
            cache_tokens=entry.cache_tokens,
        )

    # Unloads.

    async def unload(self, action: ModelAction) -> Operation:
        """Give its memory back, on one node or on all.

        Raises:
            ApiError: no such model or node.
        """
        self._check_target(action)
        operation = self._announce("unload", action)
        task = self._spawn(operation, partial(self._unload, operation, action))
        return await self._settle(operation, task, action.wait)

    async def _unload(self, operation: Operation, action: ModelAction) -> None:
        nodes = [action.node] if action.node else self._loaded_on(action.model)
        request = UnloadRequest(model=action.model, drain_s=action.drain_s)
        timeout = (action.drain_s or DEFAULT_DRAIN_S) + UNLOAD_MARGIN_S
        results = await asyncio.gather(
            *(self._unload_from(node, request, timeout) for node in nodes),
            return_exceptions=True,
        )
        freed = [r for r in results if isinstance(r, int)]
        operation.freed_bytes = sum(freed) if freed else None
        for result in results:
            if isinstance(result, BaseException):
                raise result

    async def _unload_from(
        self, node: str, request: UnloadRequest, timeout: float
    ) -> int | None:
        try:
            return (await self._clients[node].unload(request, timeout)).freed_bytes
        except NodeError as error:
            raise _node_failed(node, error) from error

    def _loaded_on(self, model: str) -> list[str]:
        return [
            c.node
            for c in self._state.candidates(model)
            if c.node_state is not NodeState.DOWN
            and c.model.state is not ModelState.UNLOADED
        ]

    # Pins.

    async def pin(self, action: ModelAction, pinned: bool) -> Operation:
        """Pin or unpin, in models.toml too.

        Raises:
            ApiError: no such model.
        """
        if action.model not in self._state.catalogue.entries:
            self._check_target(action)
        kind: Literal["pin", "unpin"] = "pin" if pinned else "unpin"
        operation = self._state.operations.start(kind, action.model, None, action.by)
        task = self._spawn(operation, partial(self._pin, action, pinned))
        return await self._settle(operation, task, action.wait)

    async def _pin(self, action: ModelAction, pinned: bool) -> None:
        async with self._file_lock:
            path = self._state.catalogue.path
            await asyncio.to_thread(
                catalogue_file.set_pinned, path, action.model, pinned
            )
            catalogue = self._state.catalogue
            entry = catalogue.entry(action.model).model_copy(update={"pinned": pinned})
            self._state.catalogue = replace(
                catalogue, entries=catalogue.entries | {entry.id: entry}
            )
        kind, verb = ("pin", "pinned") if pinned else ("unpin", "no longer pinned")
        self._state.events.add(
            "info", kind, f"{action.model} is {verb} ({action.by})", model=action.model
        )

    # What all of them share.

    def _check_target(self, action: ModelAction) -> None:
        if self._closed:
            raise shutting_down()
        if action.node is not None and action.node not in self._state.nodes:
            known = ", ".join(sorted(self._state.nodes)) or "none"
            raise ApiError(
                404,
                f"node '{action.node}' does not exist; there is: {known}",
                code="node_not_found",
                param="node",
            )
        nodes = [action.node] if action.node else list(self._state.nodes)
        if not any(action.model in self._state.nodes[name].models for name in nodes):
            known_models = {m for name in nodes for m in self._state.nodes[name].models}
            raise model_not_found(action.model, sorted(known_models))

    def _announce(
        self, kind: Literal["load", "unload"], action: ModelAction
    ) -> Operation:
        where = f" on {action.node}" if action.node else ""
        self._state.events.add(
            "info",
            kind,
            f"{kind} of {action.model}{where}, asked for by {action.by}",
            model=action.model,
            node=action.node,
        )
        return self._state.operations.start(kind, action.model, action.node, action.by)

    def _spawn(
        self, operation: Operation, work: Callable[[], Awaitable[None]]
    ) -> asyncio.Task[None]:
        task = asyncio.create_task(self._carry_out(operation, work), name=operation.id)
        self._tasks.add(task)
        task.add_done_callback(_ended(self._tasks))
        return task

    async def _carry_out(
        self, operation: Operation, work: Callable[[], Awaitable[None]]
    ) -> None:
        finish = partial(self._finish, operation)
        try:
            await work()
        except (ApiError, ConfigError) as error:
            finish(str(error))
            self._state.events.add(
                "error",
                "fail",
                f"{operation.kind} of {operation.model} failed: {error}",
                model=operation.model,
                node=operation.node,
            )
            raise
        except asyncio.CancelledError:
            finish("the gateway stopped")
            raise
        except BaseException as error:
            finish(f"internal error: {error!r}")
            raise
        finish(None)

    def _finish(self, operation: Operation, error: str | None) -> None:
        self._state.operations.finish(operation, error)
        self.on_ended(operation)

    async def _settle(
        self, operation: Operation, task: asyncio.Task[None], wait: bool
    ) -> Operation:
        if wait:
            await asyncio.wait([task])
        return operation


def _ended(
    tasks: set[asyncio.Task[None]],
) -> Callable[[asyncio.Task[None]], None]:
    """Forgets a task, and takes its exception: the operation has told it."""

    def callback(task: asyncio.Task[None]) -> None:
        tasks.discard(task)
        if not task.cancelled():
            task.exception()

    return callback


def _node_failed(node: str, error: NodeError) -> ApiError:
    return ApiError(
        502,
        f"{node}: {error}",
        code="node_failed",
        type="server_error",
        retry_after=3,
    )


def _revived(candidate: Candidate) -> Candidate:
    if candidate.model.state is not ModelState.FAILED:
        return candidate
    model = candidate.model.model_copy(update={"state": ModelState.UNLOADED})
    return replace(candidate, model=model)
