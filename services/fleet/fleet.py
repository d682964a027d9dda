"""The fleet: its state, the tasks that keep it true, and what can be done to it."""

import asyncio
import logging
from collections.abc import Awaitable, Callable, Iterable
from typing import Self

from neuron.protocol.address import Address
from neuron.protocol.errors import ApiError
from services import config
from services.config import LOCAL_NODE, NeuronSection, Settings
from services.fleet import views
from services.fleet.client import NodeClient, NodeError, new_session
from services.fleet.dispatch import Dispatcher
from services.fleet.idle import IdleModels
from services.fleet.lifecycle import Lifecycle
from services.fleet.local_neuron import LocalNeuron
from services.fleet.operation_runner import OperationRunner
from services.fleet.pins import Pins
from services.fleet.state import FleetState
from services.fleet.watcher import NodeWatcher
from services.schema import FleetSnapshot, GatewayView

log = logging.getLogger(__name__)

TICK_S = 1.0
RESTART_S = 1.0


class Fleet:
    """Use as an async context manager; every task it starts ends with it.

    Its nodes are known from the start, and watched inside the context.
    """

    def __init__(self, settings: Settings) -> None:
        self.settings = settings
        self.state = FleetState(settings.catalogue)
        self.session = new_session()
        self.clients: dict[str, NodeClient] = {}
        self.operations = OperationRunner(self.state)
        self.lifecycle = Lifecycle(
            self.state, self.clients, self.operations, self.refresh
        )
        self.pins = Pins(self.state, self.operations)
        self.dispatcher = Dispatcher(self.state, self.lifecycle)
        self.idle = IdleModels(self.state, self.lifecycle.unload)
        self.local: LocalNeuron | None = None
        self._watchers: dict[str, NodeWatcher] = {}
        self._tasks: dict[str, asyncio.Task[None]] = {}
        for neuron in settings.config.neurons:
            self._add(neuron.name, neuron.endpoint, neuron.token)
        if settings.config.runs_local_neuron:
            self._add(LOCAL_NODE, "", None)

    async def __aenter__(self) -> Self:
        for name in self._watchers:
            self._watch(name)
        if self.settings.config.runs_local_neuron:
            self._run_local()
        self._supervise("ticker", self._tick)
        self._supervise("idle models", self.idle.run)
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.operations.close()
        await self._cancel(list(self._tasks))
        if self.local is not None:
            await self.local.stop()
        await self.session.close()

    async def refresh(self, node: str) -> None:
        """Ask a node for its models now: it contradicted, or changed, what is known."""
        watcher = self._watchers.get(node)
        if watcher is None:
            return
        try:
            await watcher.refresh_models()
        except (NodeError, ApiError) as error:
            self.state.unreachable(watcher.node, str(error))

    def snapshot(self, gateway: GatewayView) -> FleetSnapshot:
        return views.snapshot(self.state, gateway)

    # Configuration.

    async def reload(self) -> list[str]:
        """Read both files again; returns what needs a restart to take effect.

        Raises:
            ConfigError: a file cannot be used; everything stays as it was.
        """
        old = self.settings
        new = await asyncio.to_thread(
            config.load_settings, old.explicit_path, old.listen
        )
        self.settings = new
        self.state.catalogue = new.catalogue
        await self._replace_neurons(old.config.neurons, new.config.neurons)
        self.state.events.add("info", "config", "the configuration was read again")
        return config.needs_restart(old.config, new.config)

    async def _replace_neurons(
        self, old: Iterable[NeuronSection], new: Iterable[NeuronSection]
    ) -> None:
        """Forget those that are gone or different, and meet those that are new."""
        wanted = {neuron.name: neuron for neuron in new}
        gone = [neuron.name for neuron in old if neuron != wanted.get(neuron.name)]
        await self._cancel([f"watch {name}" for name in gone])
        for name in gone:
            del self._watchers[name], self.clients[name]
            self.state.remove_node(name)
        for name, neuron in wanted.items():
            if name not in self.clients:
                self._add(name, neuron.endpoint, neuron.token)
                self._watch(name)

    # Tasks.

    def _add(self, name: str, endpoint: str, token: str | None) -> None:
        node = self.state.add_node(name, endpoint)
        client = self.clients[name] = NodeClient(self.session, endpoint, token)
        self._watchers[name] = NodeWatcher(node, client, self.state)

    def _watch(self, name: str) -> None:
        self._supervise(f"watch {name}", self._watchers[name].run)

    def _run_local(self) -> None:
        node = self.state.nodes[LOCAL_NODE]

        def endpoint(url: str) -> None:
            node.endpoint = url
            self.state.signal.touch()

        def trouble(text: str) -> None:
            node.problem = text
            self.state.events.add("error", "node", text, node=LOCAL_NODE)

        local = self.settings.config.local
        listen = Address.parse(local.listen)
        client = self.clients[LOCAL_NODE]
        self.local = LocalNeuron(listen, local.token, client, endpoint, trouble)
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
