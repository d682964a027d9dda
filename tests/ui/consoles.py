"""The real console, in front of a gateway that speaks the wire."""

import asyncio
import threading
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import asynccontextmanager, contextmanager
from dataclasses import dataclass

from textual.pilot import Pilot
from textual.widget import Widget

from cortex_tui.app import CortexApp, Options
from services.schema import FleetSnapshot
from tests.ui.fake_gateway import FakeGateway, fake_gateway
from tests.ui.fleets import NOW

DEADLINE_S = 15.0


@dataclass(frozen=True, slots=True)
class Console:
    """A running console, its gateway, and the hands on the keys."""

    app: CortexApp
    pilot: Pilot[None]
    gateway: FakeGateway

    async def until(self, condition: Callable[[], bool]) -> None:
        """Wait for the screen or the gateway to get there."""
        await until(self.pilot, condition)

    async def press(self, *keys: str) -> None:
        await self.pilot.press(*keys)

    async def select(self, model: str) -> None:
        """Go down to the model's row."""
        models = self.app.fleet.models
        await self.press("g")
        while models.selected != model:
            assert models.cursor + 1 < len(models.rows), f"no {model}"
            await self.press("j")

    def text(self, selector: str) -> str:
        """What a widget shows, line by line, without trailing blanks."""
        return text_of(self.app.screen.query_one(selector))

    def key_line(self) -> str:
        return text_of(self.app.fleet.keys)

    def asked(self) -> list[str]:
        """The verbs the gateway was asked for."""
        return [kind for kind, _ in self.gateway.actions]


def text_of(widget: Widget) -> str:
    lines = (widget.render_line(y).text.rstrip() for y in range(widget.size.height))
    return "\n".join(lines)


async def until(pilot: Pilot[None], condition: Callable[[], bool]) -> None:
    async with asyncio.timeout(DEADLINE_S):
        while not condition():
            await pilot.pause(0.02)
    await pilot.pause()


@asynccontextmanager
async def console(
    snapshot: FleetSnapshot,
    *,
    size: tuple[int, int] = (80, 24),
    readonly: bool = False,
    ascii_only: bool = False,
) -> AsyncIterator[Console]:
    """Connected, with the fleet on the screen."""
    async with fake_gateway(snapshot) as gateway:
        options = Options(
            attach=gateway.target,
            readonly=readonly,
            ascii_only=ascii_only,
            now=lambda: NOW,
        )
        # Made before there is a loop to block, as on the command line.
        app = await asyncio.to_thread(CortexApp, options)
        async with app.run_test(size=size) as pilot:
            await until(pilot, lambda: shows_the_fleet(app))
            yield Console(app, pilot, gateway)


def shows_the_fleet(app: CortexApp) -> bool:
    """Whether what the gateway sent first has been drawn."""
    return app.store.gateway is not None and len(app.fleet.models.rows) > 0


@contextmanager
def gateway_in_a_thread(snapshot: FleetSnapshot) -> Iterator[FakeGateway]:
    """For tests in which the console runs a loop of its own."""
    ready = threading.Event()
    done = asyncio.Event()
    found: list[FakeGateway] = []
    loop = asyncio.new_event_loop()

    async def serve() -> None:
        async with fake_gateway(snapshot) as gateway:
            found.append(gateway)
            ready.set()
            await done.wait()

    thread = threading.Thread(target=lambda: loop.run_until_complete(serve()))
    thread.start()
    try:
        assert ready.wait(DEADLINE_S)
        yield found[0]
    finally:
        loop.call_soon_threadsafe(done.set)
        thread.join(DEADLINE_S)
        loop.close()
