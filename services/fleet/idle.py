"""Unloads models that nobody has used for as long as they are to live without it.

A model's time to live is its `ttl` in models.toml. A client may wish for another one
(Ollama's `keep_alive`), which holds while the model stays loaded; the shorter of both
counts, and none at all for a pinned model.
"""

import asyncio
import logging
import math
import time
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass

from neuron.protocol.errors import ApiError
from neuron.protocol.types import ModelLoad, ModelState
from services.fleet.state import FleetState
from services.schema import ModelAction, NodeState, Operation, OperationState

log = logging.getLogger(__name__)

LOOK_S = 1.0
AGAIN_S = 30.0
"""How long after an unload was begun the next one may be, if it did not help."""


@dataclass(slots=True)
class _Use:
    """What was seen of one model last."""

    since: float
    """When it was used last, or first seen."""
    requests: int
    """Through this gateway, since its start."""
    steps: Mapping[str, int | None]
    """Node → what its engine has done, for whomever."""
    unload_after: float = 0.0
    """No unload is begun before."""


class IdleModels:
    """Knows since when each loaded model is idle; `run` unloads."""

    def __init__(
        self,
        state: FleetState,
        unload: Callable[[ModelAction], Awaitable[Operation]],
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._state = state
        self._unload = unload
        self._clock = clock
        self._uses: dict[str, _Use] = {}
        self._wishes: dict[str, float] = {}

    def keep_alive(self, model: str, seconds: float) -> None:
        """A client's wish for a model that is loaded; infinity: as long as may be."""
        self._wishes[model] = seconds

    def ttl(self, model: str) -> float:
        """Seconds; infinity where it stays."""
        entry = self._state.entry(model)
        if entry.pinned:
            return math.inf
        configured = math.inf if entry.ttl is None else entry.ttl
        return min(configured, self._wishes.get(model, math.inf))

    def expires_at(self, model: str) -> float | None:
        """Epoch seconds, if no request comes before; None: never."""
        if math.isinf(ttl := self.ttl(model)):
            return None
        return time.time() + ttl - (self._idle_s(model) or 0.0)

    async def run(self) -> None:
        """Until cancelled."""
        while True:
            self._forget_unloaded()
            for model in self._ready():
                if self._is_due(model):
                    await self._begin_unload(model)
            await asyncio.sleep(LOOK_S)

    async def unload_now(self, model: str, by: str) -> bool:
        """Unload it, unless this gateway has requests for it, or it is being loaded.

        Returns:
            Whether it is unloaded now.

        Raises:
            ApiError: it could not be.
        """
        loading = any(
            candidate.model.state in (ModelState.LOADING, ModelState.RECOVERING)
            for candidate in self._state.candidates(model)
        )
        if loading or any(self._state.requests.phases(model)):
            return False
        for node in self._ready().get(model, []):
            operation = await self._unload(ModelAction(model=model, node=node, by=by))
            if operation.state is OperationState.FAILED:
                why = operation.error or "no reason given"
                raise ApiError(502, why, code="unload_failed", type="server_error")
        self._wishes.pop(model, None)
        return True

    def _ready(self) -> dict[str, list[str]]:
        """Model → nodes that have it ready."""
        ready: dict[str, list[str]] = {}
        for node in self._state.nodes.values():
            for model in node.models.values():
                if node.state is not NodeState.DOWN and model.state is ModelState.READY:
                    ready.setdefault(model.id, []).append(node.name)
        return ready

    def _forget_unloaded(self) -> None:
        """Loaded again, a model is new, and nobody has wished for anything yet."""
        loaded = {
            model.id
            for node in self._state.nodes.values()
            for model in node.models.values()
            if model.state is not ModelState.UNLOADED
        }
        for known in (self._uses, self._wishes):
            for model in known.keys() - loaded:
                del known[model]

    def _idle_s(self, model: str) -> float | None:
        """How long it has not been used, as far as can be seen; None: it is in use."""
        now = self._clock()
        loads = self._loads(model)
        steps = {node: load.steps for node, load in loads.items()}
        stats = self._state.requests.stats.get(model)
        requests = 0 if stats is None else stats.requests
        used = self._uses.setdefault(model, _Use(now, requests, steps))
        busy = any(self._state.requests.phases(model)) or any(
            load.in_flight or load.queued for load in loads.values()
        )
        if busy or (used.requests, used.steps) != (requests, steps):
            used = self._uses[model] = _Use(now, requests, steps)
        return None if busy else now - used.since

    def _loads(self, model: str) -> dict[str, ModelLoad]:
        """Node → how busy the model is there."""
        return {
            node.name: load
            for node in self._state.nodes.values()
            if node.health is not None and node.state is not NodeState.DOWN
            for load in node.health.models
            if load.id == model
        }

    def _is_due(self, model: str) -> bool:
        idle = self._idle_s(model)
        if idle is None or idle < self.ttl(model):
            return False
        return self._clock() >= self._uses[model].unload_after

    async def _begin_unload(self, model: str) -> None:
        self._uses[model].unload_after = self._clock() + AGAIN_S
        by = f"its time to live of {self.ttl(model):g} s"
        for node in self._ready().get(model, []):
            action = ModelAction(model=model, node=node, wait=False, by=by)
            try:
                await self._unload(action)
            except ApiError as error:
                log.info("%s stays on %s: %s", model, node, error)
