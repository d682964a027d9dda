"""What every handler of the gateway's application shares."""

import asyncio
import os
from dataclasses import dataclass, field
from typing import Self

from aiohttp import web

from neuron.protocol.version import build_version
from services.config import GatewaySection
from services.fleet.fleet import Fleet
from services.gateway.metrics import Metrics
from services.keys.keeper import KeyKeeper, Level
from services.responses.store import ResponsesStore
from services.schema import FleetSnapshot, GatewayView

VERSION = build_version()
"""Asked for at import, because the answer comes from the disk."""


@dataclass(slots=True)
class Gateway:
    """One gateway: its fleet, its numbers, and whether it is on its way out."""

    fleet: Fleet
    metrics: Metrics
    keys: KeyKeeper
    url: str = ""
    metrics_url: str | None = None
    responses: ResponsesStore | None = None
    """None: none are stored."""
    stopping: asyncio.Event = field(default_factory=asyncio.Event)
    """Set once no new request is taken; whoever waits for a load gives up then."""
    closing: asyncio.Event = field(default_factory=asyncio.Event)
    """Set once the last requests have ended; event streams end then."""

    @classmethod
    def before(cls, fleet: Fleet) -> Self:
        """A gateway before this fleet, with metrics that count its operations."""
        metrics = Metrics(fleet.state)
        fleet.operations.on_ended = metrics.operation_ended

        def tell(level: Level, text: str) -> None:
            fleet.state.events.add(level, "keys", text)

        return cls(fleet, metrics, KeyKeeper(fleet.settings.keys, tell))

    @property
    def limits(self) -> GatewaySection:
        return self.fleet.settings.config.gateway

    def view(self) -> GatewayView:
        settings = self.fleet.settings
        return GatewayView(
            version=VERSION,
            pid=os.getpid(),
            url=self.url,
            metrics_url=self.metrics_url,
            started_at=self.fleet.state.started_at,
            config_path=str(settings.config_path) if settings.config_path else None,
            catalogue_path=str(settings.catalogue.path),
        )

    def snapshot(self) -> FleetSnapshot:
        return self.fleet.snapshot(self.view())


GATEWAY = web.AppKey("gateway", Gateway)
