"""Loads and unloads: as operations, and one load however many ask for it."""

import asyncio
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import replace
from functools import partial

from neuron.protocol.errors import ApiError, unavailable
from neuron.protocol.types import (
    LoadOptions,
    LoadProgress,
    LoadRequest,
    ModelState,
    UnloadRequest,
)
from services.fleet.client import INSUFFICIENT_MEMORY, NodeClient, NodeError
from services.fleet.operation_runner import OperationRunner
from services.fleet.placement import Offer, rank
from services.fleet.routing import FAILED_RETRY_S, Candidate, cold_candidates, why_not
from services.fleet.state import FleetState
from services.schema import ModelAction, NodeState, Operation

ON_DEMAND = "a request"
"""Who asked for a load that nobody but a request asked for."""
LOAD_IDLE_TIMEOUT_S = 600.0
"""A load that reports nothing for this long is given up on."""
UNLOAD_MARGIN_S = 60.0
DEFAULT_DRAIN_S = 300.0


class Lifecycle:
    """Steers the fleet's neurons."""

    def __init__(
        self,
        state: FleetState,
        clients: Mapping[str, NodeClient],
        runner: OperationRunner,
        refresh: Callable[[str], Awaitable[None]],
    ) -> None:
        self._state = state
        self._clients = clients
        self._runner = runner
        self._refresh = refresh
        self._cold: dict[str, asyncio.Task[None]] = {}

    # Loads.

    async def load_on_demand(self, model: str) -> None:
        """Wait until the model is loaded somewhere; the first caller starts it.

        Raises:
            ApiError: it could not be loaded; every waiting caller gets the same one.
        """
        task = self._cold.get(model)
        if task is None:
            _, task = self._start_cold(ModelAction(model=model, by=ON_DEMAND))
        try:
            await asyncio.shield(task)
        except ApiError as error:
            if error.status >= 500:
                raise
            # Wrong is how the load was asked for, which was not the client's doing.
            raise unavailable(
                f"'{model}' cannot be loaded: {error}",
                code=error.code,
                retry_after=FAILED_RETRY_S,
            ) from error

    async def load(self, action: ModelAction) -> Operation:
        """An operator's load; joins one of the same model that runs already.

        Raises:
            ApiError: no such model or node.
        """
        self._runner.check_target(action)
        if action.node is None and action.model in self._cold:
            operation = self._runner.start("load", action)
            running = self._cold[action.model]
            task = self._runner.run(
                operation, partial(self._join, running, operation, action)
            )
        elif action.node is None:
            operation, task = self._start_cold(action)
        else:
            operation = self._runner.start("load", action)
            task = self._runner.run(
                operation, partial(self._load_on, operation, action, action.node)
            )
        return await self._runner.settle(operation, task, action.wait)

    async def _join(
        self, running: asyncio.Task[None], operation: Operation, action: ModelAction
    ) -> None:
        if action.max_seq_len is None and action.slots is None:
            return await asyncio.shield(running)
        # What was asked for may differ from what is being loaded: the neuron says so.
        await asyncio.wait([running])
        return await self._load_somewhere(operation, action)

    def _start_cold(self, action: ModelAction) -> tuple[Operation, asyncio.Task[None]]:
        operation = self._runner.start("load", action)
        task = self._runner.run(
            operation, partial(self._load_somewhere, operation, action)
        )
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
        entry = self._state.entry(action.model)
        raise refusal or why_not(entry, self._state.candidates(action.model))

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
        try:
            await self._clients[node].load(
                self._load_request(action),
                partial(self._show_progress, node, action.model),
                LOAD_IDLE_TIMEOUT_S,
            )
        except NodeError as error:
            raise _node_failed(node, error) from error
        # The news of it may be slower than this answer, and requests wait for it.
        await self._refresh(node)

    def _show_progress(self, node: str, model: str, progress: LoadProgress) -> None:
        """Of a model that loads: its state is told by the neuron's events alone."""
        known = self._state.nodes[node].models if node in self._state.nodes else {}
        if model in known and known[model].state is ModelState.LOADING:
            known[model] = known[model].model_copy(update={"progress": progress})
            self._state.signal.touch()

    def _load_request(self, action: ModelAction) -> LoadRequest:
        entry = self._state.entry(action.model)
        return LoadRequest(
            model=action.model,
            engine=entry.engine,
            max_seq_len=action.max_seq_len or entry.max_seq_len,
            slots=action.slots or entry.slots,
            cache_mode=entry.cache_mode,
            cache_tokens=entry.cache_tokens,
            **entry.model_dump(include=set(LoadOptions.model_fields)),
        )

    # Unloads.

    async def unload(self, action: ModelAction) -> Operation:
        """Give its memory back, on one node or on all.

        Raises:
            ApiError: no such model or node.
        """
        self._runner.check_target(action)
        operation = self._runner.start("unload", action)
        task = self._runner.run(operation, partial(self._unload, operation, action))
        return await self._runner.settle(operation, task, action.wait)

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
            result = await self._clients[node].unload(request, timeout)
        except NodeError as error:
            raise _node_failed(node, error) from error
        await self._refresh(node)
        return result.freed_bytes

    def _loaded_on(self, model: str) -> list[str]:
        return [
            c.node
            for c in self._state.candidates(model)
            if c.node_state is not NodeState.DOWN
            and c.model.state is not ModelState.UNLOADED
        ]


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
