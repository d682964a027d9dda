"""Finds the replica that takes a request, and waits where there is none yet."""

import time
from collections.abc import Callable

from neuron.protocol.errors import model_not_found, unavailable
from neuron.protocol.types import ModelState
from services.fleet import views
from services.fleet.lifecycle import Lifecycle
from services.fleet.routing import (
    Decision,
    Load,
    Refuse,
    Serve,
    Unknown,
    Wait,
    route,
)
from services.fleet.state import FleetState

MayUse = Callable[[str], bool]
"""Whether whoever asks may use the model of that id."""
LOOK_AGAIN_S = 1.0
"""Waiting ends with the next change; this bounds what a missed one costs."""
MAX_LOADS = 2
"""For one request; a model that is gone again by then would go on like that."""
LATEST = ":latest"
"""What Ollama's clients have behind names that have no tag."""
HEARING_S = 15.0
"""How long after the start a node that has not answered may still bring news."""


class Dispatcher:
    """Routing decisions over the fleet as it is now, and loads where they need one."""

    def __init__(self, state: FleetState, lifecycle: Lifecycle) -> None:
        self._state = state
        self._lifecycle = lifecycle

    def _decide(self, model: str, failed_nodes: frozenset[str]) -> Decision:
        candidates = self._state.candidates(model)
        return route(self._state.entry(model), candidates, failed_nodes)

    def ready_replica(
        self, model: str, failed_nodes: frozenset[str] = frozenset()
    ) -> str | None:
        """Name of the node that can take a request for `model` at once."""
        decision = self._decide(model, failed_nodes)
        return decision.node if isinstance(decision, Serve) else None

    def has_another(self, model: str, failed_nodes: frozenset[str]) -> bool:
        """Whether a node that has not failed yet has the model, or gets it now."""
        return isinstance(self._decide(model, failed_nodes), Serve | Wait)

    def model_state(self, node: str, model: str) -> ModelState | None:
        known = self._state.nodes[node].models if node in self._state.nodes else {}
        return known[model].state if model in known else None

    def progress(self, model: str) -> str:
        """How far the model's load is, in words."""
        for candidate in self._state.candidates(model):
            progress = candidate.model.progress
            if progress is not None and progress.total:
                done = f"{progress.done}/{progress.total}"
                return f"{progress.stage} {model} on {candidate.node}: {done}"
        return f"waiting for {model}"

    async def replica_for(
        self,
        model: str,
        failed_nodes: frozenset[str] = frozenset(),
    ) -> str:
        """Name of the node that takes a request for `model`; loads it where needed.

        No deadline of its own.

        Raises:
            ApiError: nobody can serve it.
        """
        loads = 0
        while True:
            version = self._state.signal.version
            match self._decide(model, failed_nodes):
                case Serve(node):
                    return node
                case Load():
                    if loads >= MAX_LOADS:
                        raise unavailable(
                            f"'{model}' was loaded, but no replica became ready",
                            code="load_failed",
                        )
                    loads += 1
                    await self._lifecycle.load_on_demand(model)
                case Wait():
                    # What failed this request is being put right.
                    failed_nodes = frozenset()
                    await self._state.signal.wait_beyond(version, LOOK_AGAIN_S)
                case Refuse(error):
                    raise error
                case Unknown():
                    await self.wait_to_hear_of(model)

    async def concrete(self, asked: str, may_use: MayUse = lambda _: True) -> str:
        """The model that a client means: one of that id, else what the catalogue has
        the name stand for, else the default model. The tag `latest` says nothing.

        Raises:
            ApiError: as `wait_to_hear_of`.
        """
        catalogue = self._state.catalogue
        untagged = asked.removesuffix(LATEST)
        if known := self._known(asked, untagged):
            return known
        meant = catalogue.meant_by(asked if asked in catalogue.aliases else untagged)
        if meant != asked:
            # A node that is yet to be heard may have a model of that very id.
            await self.wait_for_first_answers()
        model = self._known(asked, untagged) or meant
        await self.wait_to_hear_of(model, may_use)
        return model

    def _known(self, *names: str) -> str | None:
        return next((name for name in names if self._state.knows(name)), None)

    async def wait_to_hear_of(
        self, model: str, may_use: MayUse = lambda _: True
    ) -> None:
        """Until a node knows it; 404 once all have spoken, 503 while some may yet.

        Of other models only those are told that whoever asks may use.

        Raises:
            ApiError: nobody has it.
        """
        state = self._state
        while not state.knows(model):
            if state.all_heard:
                raise model_not_found(
                    model, list(filter(may_use, self.served_models()))
                )
            if self._age() > HEARING_S:
                silent = ", ".join(
                    sorted(n.name for n in state.nodes.values() if not n.heard)
                )
                raise unavailable(
                    f"no node that answers has '{model}', and {silent} has not "
                    "answered yet",
                    code="node_unavailable",
                )
            await state.signal.wait_beyond(state.signal.version, LOOK_AGAIN_S)

    async def wait_for_first_answers(self) -> None:
        """Until each node has answered, or failed to, since the start; not for long."""
        state = self._state
        while not all(n.heard or n.problem for n in state.nodes.values()):
            if self._age() > HEARING_S:
                return
            await state.signal.wait_beyond(state.signal.version, LOOK_AGAIN_S)

    def _age(self) -> float:
        return time.monotonic() - self._state.started

    def served_models(self) -> list[str]:
        """Ids of the models that clients may name now."""
        return [view.id for view in views.servable_models(self._state)]
