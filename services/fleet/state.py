"""The state of the fleet: what every watcher, request and operation adds to."""

import time
from collections import deque

from neuron.protocol.types import Discovery, Health, Model, ModelState
from services.catalogue import Catalogue, ModelEntry
from services.fleet.journal import ChangeSignal, EventLog
from services.fleet.node import Node, describe_state, describe_transition, state_at
from services.fleet.operations import OperationLog
from services.fleet.requests import RequestBook
from services.fleet.routing import Candidate
from services.schema import Sample

HISTORY_SAMPLES = 300
"""One a second: five minutes."""


class FleetState:
    """Everything the gateway knows; only its own event loop touches it."""

    def __init__(self, catalogue: Catalogue) -> None:
        self.signal = ChangeSignal()
        self.events = EventLog(self.signal)
        self.operations = OperationLog(self.signal)
        self.requests = RequestBook(self.signal)
        self.catalogue = catalogue
        self.nodes: dict[str, Node] = {}
        self.history: deque[Sample] = deque(maxlen=HISTORY_SAMPLES)
        self.started = time.monotonic()
        self.started_at = time.time()

    def entry(self, model: str) -> ModelEntry:
        return self.catalogue.entry(model)

    def add_node(self, name: str, endpoint: str) -> Node:
        node = self.nodes[name] = Node(name, endpoint)
        self.signal.touch()
        return node

    def remove_node(self, name: str) -> None:
        del self.nodes[name]
        self.signal.touch()

    def candidates(self, model: str) -> list[Candidate]:
        """The model on every node that knows it."""
        return [
            Candidate(
                node=node.name,
                node_state=node.state,
                node_reason=node.reason,
                model=node.models[model],
                in_flight=self.requests.in_flight(model, node.name),
                free_mb=node.free_mb,
            )
            for node in self.nodes.values()
            if model in node.models
        ]

    def knows(self, model: str) -> bool:
        """Whether a node that has been heard of has it."""
        return any(n.heard and model in n.models for n in self.nodes.values())

    @property
    def all_heard(self) -> bool:
        """Whether every node has told its models at least once."""
        return all(node.heard for node in self.nodes.values())

    # What watchers report.

    def discovered(self, node: Node, discovery: Discovery) -> None:
        node.discovery = discovery
        if discovery.driver_problem:
            self.events.add(
                "error",
                "node",
                f"{node.name}: {discovery.driver_problem}",
                node=node.name,
            )
        self.signal.touch()

    def answered(self, node: Node, health: Health) -> None:
        node.health = health
        node.seen_at = time.monotonic()
        node.last_seen = time.time()
        node.problem = None
        self._update_node_state(node)
        self.signal.touch()

    def unreachable(self, node: Node, problem: str) -> None:
        news = node.last_seen is None and node.problem != problem
        node.problem = problem
        self._update_node_state(node)
        if news:
            # It never was anything but down: nothing else tells why.
            self._tell_state(node)

    def has_models(self, node: Node, models: list[Model]) -> None:
        first = not node.models_known
        node.models_known = True
        for gone in node.models.keys() - {model.id for model in models}:
            del node.models[gone]
        for model in models:
            self._set_model(node, model, silent=first)
        self.signal.touch()

    def model_changed(self, node: Node, model: Model) -> None:
        self._set_model(node, model)
        self.signal.touch()

    def _set_model(self, node: Node, model: Model, *, silent: bool = False) -> None:
        news = describe_transition(node.name, node.models.get(model.id), model)
        node.models[model.id] = model
        if news is None or (silent and model.state is ModelState.READY):
            return
        level, kind, text = news
        self.events.add(level, kind, text, model=model.id, node=node.name)

    # What time does.

    def tick(self) -> None:
        """Once a second: nodes that fell silent, and one sample of the history."""
        for node in self.nodes.values():
            self._update_node_state(node)
        running, waiting = self.requests.phases()
        self.history.append(
            Sample(
                time=time.time(),
                tok_s=sum(node.tok_s or 0 for node in self.nodes.values()),
                running=running,
                waiting=waiting,
                ttft_s=self.requests.take_fresh_ttft(),
            )
        )
        self.signal.touch()

    def _update_node_state(self, node: Node) -> None:
        before, node.state = node.state, state_at(node, time.monotonic())
        if before is not node.state:
            self._tell_state(node)

    def _tell_state(self, node: Node) -> None:
        level, text = describe_state(node)
        self.events.add(level, "node", text, node=node.name)
