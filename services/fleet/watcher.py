"""Keeps one node's picture fresh: health every second, changes as they happen."""

import asyncio
import logging
from typing import Protocol

from neuron.protocol.errors import ApiError
from neuron.protocol.types import Discovery, Event, Health, Model
from services.fleet.client import NodeClient, NodeError
from services.fleet.node import Node

log = logging.getLogger(__name__)

POLL_S = 1.0
ENDPOINT_LOOK_S = 0.05
"""How often to look whether a neuron that is being started has a URL yet."""
RECONNECT_S = (0.2, 0.5, 1.0, 2.0)
"""Pauses before the event stream is opened again; the last one repeats."""
REFRESH_ATTEMPTS = 3


class NodeSink(Protocol):
    """Who is told what a watcher learns."""

    def discovered(self, node: Node, discovery: Discovery) -> None: ...
    def answered(self, node: Node, health: Health) -> None: ...
    def has_models(self, node: Node, models: list[Model]) -> None: ...
    def model_changed(self, node: Node, model: Model) -> None: ...
    def unreachable(self, node: Node, problem: str) -> None: ...


class NodeWatcher:
    """Polls and listens to one neuron; independent of every other node's."""

    def __init__(self, node: Node, client: NodeClient, sink: NodeSink) -> None:
        self.node = node
        self.client = client
        self._sink = sink
        self._seq = -1
        self._uptime: float | None = None

    async def run(self) -> None:
        """Until cancelled."""
        async with asyncio.TaskGroup() as tasks:
            tasks.create_task(self._poll())
            tasks.create_task(self._listen())

    async def refresh_models(self) -> None:
        """Ask for the list of models now.

        Raises:
            NodeError: there is no answer.
        """
        seq, models = self._seq, await self.client.models()
        for _ in range(REFRESH_ATTEMPTS):
            if seq == self._seq:
                break
            # A change arrived meanwhile, and the list may be older than it: again.
            seq, models = self._seq, await self.client.models()
        self._sink.has_models(self.node, models)

    async def _poll(self) -> None:
        while True:
            if not self.client.endpoint:
                await asyncio.sleep(ENDPOINT_LOOK_S)
                continue
            try:
                await self._poll_once()
            except (NodeError, ApiError) as error:
                # It may be another process that answers next: ask it everything.
                self._uptime = None
                self._sink.unreachable(self.node, str(error))
            await asyncio.sleep(POLL_S)

    async def _poll_once(self) -> None:
        health = await self.client.health()
        restarted = self._uptime is None or health.uptime_s < self._uptime
        self._uptime = health.uptime_s
        if restarted or self.node.discovery is None:
            self._sink.discovered(self.node, await self.client.discovery())
        missed = health.event_seq > self._seq
        if restarted or missed or not self.node.models_known:
            await self.refresh_models()
            # Events may have come meanwhile; after a restart they count from the start.
            newest = health.event_seq
            self._seq = newest if restarted else max(newest, self._seq)
        self._sink.answered(self.node, health)

    async def _listen(self) -> None:
        failures = 0
        while True:
            if self.client.endpoint:
                try:
                    async with self.client.events() as events:
                        failures = 0
                        async for event in events:
                            await self._take(event)
                except (NodeError, ApiError) as error:
                    # The poll decides whether the node is alive; this only listens.
                    log.debug("events of %s: %s", self.node.name, error)
            await asyncio.sleep(RECONNECT_S[min(failures, len(RECONNECT_S) - 1)])
            failures += 1

    async def _take(self, event: Event) -> None:
        in_order = event.seq == self._seq + 1
        self._seq = event.seq
        if event.model is not None:
            self._sink.model_changed(self.node, event.model)
        # An event of no model is the node's own: what it has on disk may have changed.
        if event.model is None or not in_order:
            await self.refresh_models()
