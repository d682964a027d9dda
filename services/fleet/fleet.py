"""The fleet: its state, the tasks that keep it true, and what can be done to it."""

import asyncio
import logging
import time
from collections.abc import Awaitable, Callable

from neuron.protocol.errors import ApiError, model_not_found, unavailable
from neuron.protocol.types import ModelState
from services import config
from services.config import LOCAL_NODE, Settings
from services.fleet import views
from services.fleet.client import NodeClient, NodeError, new_session
from services.fleet.lifecycle import Lifecycle
from services.fleet.local_neuron import LocalNeuron
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
from services.fleet.watcher import NodeWatcher
from services.schema import FleetSnapshot, GatewayView

log = logging.getLogger(__name__)

TICK_S = 1.0
RESTART_S = 1.0
MAX_LOADS = 2
"""For one request; a model that is gone again by then would go on like that."""
HEARING_S = 15.0
"""How long after the start a node that has not answered may still bring news."""


class Fleet:
    """Use as an async context manager; every task it starts ends with it."""

    def __init__(self, settings: Settings) -> None:
        self.settings = settings
        self.state = FleetState(settings.catalogue)
        self.session = new_session()
        self.clients: dict[str, NodeClient] = {}
        self.lifecycle = Lifecycle(self.state, self.clients)
        self.local: LocalNeuron | None = None
        self._watchers: dict[str, NodeWatcher] = {}
        self._tasks: dict[str, asyncio.Task[None]] = {}

    async def __aenter__(self) -> "Fleet":
        for neuron in self.settings.config.neurons:
            self._watch(neuron.name, neuron.endpoint, neuron.token)
        if self.settings.config.runs_local_neuron:
            self._run_local()
        self._supervise("ticker", self._tick)
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.lifecycle.close()
        await self._cancel(list(self._tasks))
        if self.local is not None:
            await self.local.stop()
        await self.session.close()

    # Requests.

    def _decide(self, model: str, failed_nodes: frozenset[str]) -> Decision:
        candidates = self.state.candidates(model)
        return route(self.state.entry(model), candidates, failed_nodes)

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
        known = self.state.nodes[node].models if node in self.state.nodes else {}
        return known[model].state if model in known else None

    def progress(self, model: str) -> str:
        """How far the model's load is, in words."""
        for candidate in self.state.candidates(model):
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
            version = self.state.signal.version
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
                    await self.lifecycle.load_on_demand(model)
                case Wait():
                    # What failed this request is being put right.
                    failed_nodes = frozenset()
                    await self.state.signal.wait_beyond(version, TICK_S)
                case Refuse(error):
                    raise error
                case Unknown():
                    await self.wait_to_hear_of(model)

    async def wait_to_hear_of(self, model: str) -> None:
        """Until a node knows it; 404 once all have spoken, 503 while some may yet.

        Raises:
            ApiError: nobody has it.
        """
        state = self.state
        while not state.knows(model):
            if state.all_heard:
                raise model_not_found(model, self.served_models())
            if self._age() > HEARING_S:
                silent = ", ".join(
                    sorted(n.name for n in state.nodes.values() if not n.heard)
                )
                raise unavailable(
                    f"no node that answers has '{model}', and {silent} has not "
                    "answered yet",
                    code="node_unavailable",
                )
            await state.signal.wait_beyond(state.signal.version, TICK_S)

    async def wait_for_first_answers(self) -> None:
        """Until each node has answered, or failed to, since the start; not for long."""
        state = self.state
        while not all(n.heard or n.problem for n in state.nodes.values()):
            if self._age() > HEARING_S:
                return
            await state.signal.wait_beyond(state.signal.version, TICK_S)

    def _age(self) -> float:
        return time.monotonic() - self.state.started

    async def refresh(self, node: str) -> None:
        """Ask a node for its models now, because it contradicted what is known."""
        watcher = self._watchers.get(node)
        if watcher is None:
            return
        try:
            await watcher.refresh_models()
        except (NodeError, ApiError) as error:
            self.state.unreachable(self.state.nodes[node], str(error))

    def served_models(self) -> list[str]:
        """Ids of the models that clients may name now."""
        return [view.id for view in views.servable_models(self.state)]

    def snapshot(self, gateway: GatewayView) -> FleetSnapshot:
        return views.snapshot(self.state, gateway)

    # Configuration.

    async def reload(self) -> list[str]:
        """Read both files again; returns what needs a restart to take effect.

        Raises:
            ConfigError: a file cannot be used; everything stays as it was.
        """
        was = self.settings
        new = await asyncio.to_thread(
            config.load_settings, was.explicit_path, was.listen
        )
        old, self.settings = was.config, new
        self.state.catalogue = new.catalogue
        before = {neuron.name: neuron for neuron in old.neurons}
        after = {neuron.name: neuron for neuron in new.config.neurons}
        changed = [name for name in before if before[name] != after.get(name)]
        await self._cancel([f"watch {name}" for name in changed])
        for name in changed:
            self._watchers.pop(name)
            del self.clients[name]
            self.state.remove_node(name)
        for name, neuron in after.items():
            if name not in self.clients:
                self._watch(name, neuron.endpoint, neuron.token)
        self.state.events.add("info", "config", "the configuration was read again")
        gateway_keys = ("listen", "metrics_listen", "auth", "max_body_mb")
        restart = [
            f"gateway.{key}"
            for key in gateway_keys
            if getattr(new.config.gateway, key) != getattr(old.gateway, key)
        ]
        if new.config.local != old.local or (
            new.config.runs_local_neuron != old.runs_local_neuron
        ):
            restart.append("local")
        return restart

    # Tasks.

    def _watch(self, name: str, endpoint: str, token: str | None) -> None:
        node = self.state.add_node(name, endpoint)
        client = self.clients[name] = NodeClient(self.session, endpoint, token)
        watcher = self._watchers[name] = NodeWatcher(node, client, self.state)
        self._supervise(f"watch {name}", watcher.run)

    def _run_local(self) -> None:
        self._watch(LOCAL_NODE, "", None)
        node = self.state.nodes[LOCAL_NODE]

        def endpoint(url: str) -> None:
            node.endpoint = url
            self.state.signal.touch()

        def trouble(text: str) -> None:
            node.problem = text
            self.state.events.add("error", "node", text, node=LOCAL_NODE)

        listen = config.Address.parse(self.settings.config.local.listen)
        client = self.clients[LOCAL_NODE]
        self.local = LocalNeuron(listen, client, endpoint, trouble)
        self._supervise("local neuron", self.local.run)

    def _supervise(self, name: str, work: Callable[[], Awaitable[None]]) -> None:
        self._tasks[name] = asyncio.create_task(self._keep_running(name, work))

    async def _keep_running(
        self, name: str, work: Callable[[], Awaitable[None]]
    ) -> None:
        """One node's defect must neither end the gateway nor pass unseen."""
        while True:
            try:
                await work()
            except Exception:
                log.exception("%s failed; starting it again", name)
                self.state.events.add(
                    "error", "node", f"internal error in '{name}'; see the log"
                )
            await asyncio.sleep(RESTART_S)

    async def _cancel(self, names: list[str]) -> None:
        tasks = [self._tasks.pop(name) for name in names]
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)

    async def _tick(self) -> None:
        while True:
            self.state.tick()
            await asyncio.sleep(TICK_S)
