"""Keeps the store fed: finds the gateway, follows its stream, reconnects, acts.

Plain asyncio. What is heavy to import (aiohttp, the wire types) is imported in a
thread once the first frame stands.
"""

from __future__ import annotations

import asyncio
import importlib
import time
from contextlib import aclosing
from typing import TYPE_CHECKING, Protocol

from cortex_tui.identity import operator_name
from cortex_tui.plain_http import Refused, Unreachable
from cortex_tui.store import FleetStore, Link

if TYPE_CHECKING:
    from collections.abc import AsyncGenerator, Callable
    from pathlib import Path

    from cortex_tui.client import GatewayClient, Message, Piece
    from cortex_tui.supervisor import Supervisor
    from cortex_tui.target import Target
    from cortex_tui.undo import Verb
    from services.schema import FleetDelta, FleetEvent, FleetSnapshot, KeyList

RETRY_S = (0.5, 1.0, 2.0, 5.0)


class View(Protocol):
    """Changes what arrives before it is stored: screenshots fix what varies."""

    def snapshot(self, snapshot: FleetSnapshot) -> FleetSnapshot: ...

    def delta(self, delta: FleetDelta) -> FleetDelta: ...

    def event(self, event: FleetEvent) -> FleetEvent: ...

    def keys(self, keys: KeyList) -> KeyList: ...


class Session:
    """One console's connection, for as long as the console runs."""

    def __init__(
        self,
        store: FleetStore,
        *,
        attach: Target | None = None,
        config: Path | None = None,
        now: Callable[[], float] = time.time,
        view: View | None = None,
        tell: Callable[[str], None] = lambda text: None,
    ) -> None:
        self.store = store
        self.target: Target | None = attach
        self._attach = attach
        self._config = config
        self._now = now
        self._view = view
        self._tell = tell
        self._client: GatewayClient | None = None
        self._supervisor: Supervisor | None = None

    @property
    def owns_gateway(self) -> bool:
        """Whether this console started the gateway it talks to."""
        return self._supervisor is not None and self._supervisor.owns

    async def run(self) -> None:
        """Follow the gateway until cancelled; never ends by itself."""
        failures = 0
        while True:
            try:
                await asyncio.to_thread(self._prepare)
                self.target = await self._locate()
                await self._follow(self.target)
            except (Unreachable, Refused, OSError) as error:
                failures = 0 if self.store.link is Link.LIVE else failures + 1
                pause = RETRY_S[min(failures, len(RETRY_S) - 1)]
                # One that is started elsewhere is found even so: only no time is told.
                retry_at = None if _given_up(error) else self._now() + pause
                self.store.lost(_words(error), retry_at)
                await asyncio.sleep(pause)

    async def act(
        self,
        verb: Verb,
        model: str,
        node: str | None = None,
        drain_s: float | None = None,
    ) -> None:
        """Ask for a change, shown as pending until the gateway confirms it.

        `drain_s` is how long an unload lets running requests finish; None leaves it
        to the node.

        Raises:
            Unreachable: no answer.
            Refused: the gateway will not do it.
        """
        from services.schema import ModelAction

        pending = self.store.begin(verb, model, self._now())
        try:
            by = await asyncio.to_thread(operator_name, "console")
            action = ModelAction(
                model=model, node=node, wait=False, drain_s=drain_s, by=by
            )
            operation = await self._connected().act(verb, action)
        except BaseException:
            self.store.refused(pending)
            raise
        self.store.accepted(pending, operation, self._now())
        if operation.state == "failed":
            raise Refused(operation.error or f"{verb} {model} failed")

    def prompt(
        self, model: str, prompt: str, chat: bool, max_tokens: int
    ) -> AsyncGenerator[Piece, None]:
        """One test answer, streamed; see `GatewayClient.prompt`."""
        return self._connected().prompt(model, prompt, chat=chat, max_tokens=max_tokens)

    async def keys(self) -> KeyList:
        """Who may use the gateway, and what they have spent.

        Raises:
            Unreachable: no answer.
            Refused: the gateway will not tell.
        """
        keys = await self._connected().keys()
        return self._view.keys(keys) if self._view else keys

    async def stop_gateway(self) -> None:
        """End the gateway of this host.

        Raises:
            Unreachable: it does not end.
        """
        from cortex_tui.local_gateway import LocalGatewayError

        if self._supervisor is None:
            raise Unreachable("this console is attached to a gateway elsewhere")
        try:
            await self._supervisor.stop()
        except LocalGatewayError as error:
            raise Unreachable(str(error)) from error

    def _connected(self) -> GatewayClient:
        if self._client is None:
            raise Unreachable("not connected to a gateway")
        return self._client

    def _prepare(self) -> None:
        """Import what is heavy, and make the user's folders; nothing the second time.

        Raises:
            OSError: a folder is somebody else's, or cannot be written.
        """
        importlib.import_module("cortex_tui.client")
        if self._attach is None and self._supervisor is None:
            from cortex_tui.supervisor import Supervisor

            self._supervisor = Supervisor(config=self._config)

    async def _locate(self) -> Target:
        if self._attach is not None:
            return self._attach
        from cortex_tui.local_gateway import LocalGatewayError

        assert self._supervisor is not None
        if self.store.gateway is None:
            self.store.connecting("starting the gateway")
        try:
            target = await self._supervisor.locate()
        except LocalGatewayError as error:
            raise Unreachable(str(error)) from error
        if self._config is not None and not self.owns_gateway:
            self._tell(f"a gateway was running already: {self._config} is not in force")
        return target

    async def _follow(self, target: Target) -> None:
        from cortex_tui.client import GatewayClient

        async with GatewayClient(target) as client:
            self._client = client
            try:
                async with aclosing(client.events(self.store.last_event_id)) as stream:
                    async for message in stream:
                        self._apply(message)
            finally:
                self._client = None

    def _apply(self, message: Message) -> None:
        from services.schema import FleetDelta, FleetSnapshot

        now, view = self._now(), self._view
        if message is None:
            self.store.heard(now)
        elif isinstance(message, FleetSnapshot):
            self.store.apply_snapshot(view.snapshot(message) if view else message, now)
        elif isinstance(message, FleetDelta):
            self.store.apply_delta(view.delta(message) if view else message, now)
        else:
            self.store.apply_event(view.event(message) if view else message, now)


def _words(error: Exception) -> str:
    if isinstance(error, OSError) and error.filename and error.strerror:
        return f"{error.filename}: {error.strerror.lower()}"
    return str(error)


def _given_up(error: Exception) -> bool:
    """Whether nothing will be tried again, short of looking."""
    from cortex_tui.local_gateway import NotStartedAgain

    return isinstance(error.__cause__, NotStartedAgain)
