"""`python -m cortex_tui.screenshots` makes the pictures in `screenshots/`.

Drives the real console, which starts the real gateway, neuron and worker with the
bundled model, by the keys an operator presses. What differs from run to run and from
host to host is made the same where it enters the console (`Normalised`), never in the
pictures: clock, pid, port, version, hardware, memory, speeds and the speed history.
`--check` says whether the pictures kept are still what the console looks like.
"""

import argparse
import asyncio
import math
import os
import re
import sys
import tempfile
import time
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import aclosing, asynccontextmanager, contextmanager
from pathlib import Path

from textual.pilot import Pilot

from cortex_tui.app import CortexApp, Options
from cortex_tui.client import GatewayClient
from cortex_tui.dialogs.keys import KeysDialog
from cortex_tui.dialogs.test import TestDialog
from cortex_tui.identity import operator_name
from neuron.protocol.paths import config_dir
from services import schema

NOW = 1_760_000_000.0
DEADLINE_S = 60.0
STREAMS = 3
STORY_TOKENS = 48
FOLDER = Path(__file__).parent.parent / "screenshots"
KEYS_TOML = f"""
[[keys]]
id = "h7kq2m9x"
name = "alice"
hash = "sha256:{"0" * 64}"
scope = "admin"

[[keys]]
id = "x3vd8wpa"
name = "ci"
hash = "sha256:{"0" * 64}"
models = ["tinystories-*"]
requests_per_minute = 60
budget_tokens = 4000000
priority = -10
window = "7d"

[[keys]]
id = "t5gc7hkd"
name = "bob"
hash = "sha256:{"0" * 64}"
revoked = true
"""


class Normalised:
    """A `View` in which every run and every host look alike."""

    def __init__(self) -> None:
        self._first_seq: int | None = None

    def snapshot(self, snapshot: schema.FleetSnapshot) -> schema.FleetSnapshot:
        gateway = schema.GatewayView(
            version="0.1.0",
            pid=4121,
            url="http://127.0.0.1:31313",
            started_at=NOW - 7260,
        )
        return snapshot.model_copy(
            update={
                "gateway": gateway,
                "nodes": [self._node(node) for node in snapshot.nodes],
                "models": [self._model(model) for model in snapshot.models],
                "requests": self._requests(snapshot.requests),
                "events": [self.event(event) for event in snapshot.events],
                "history": _history(),
            }
        )

    def delta(self, delta: schema.FleetDelta) -> schema.FleetDelta:
        return delta.model_copy(
            update={
                "nodes": [self._node(node) for node in delta.nodes],
                "models": [self._model(model) for model in delta.models],
                "requests": self._requests(delta.requests),
                "history": [],
            }
        )

    def event(self, event: schema.FleetEvent) -> schema.FleetEvent:
        text = event.text.replace(operator_name("console"), "op@laptop (console)")
        self._first_seq = self._first_seq or event.seq
        when = NOW - 60 + 4 * (event.seq - self._first_seq)
        return event.model_copy(update={"time": when, "text": text})

    def keys(self, keys: schema.KeyList) -> schema.KeyList:
        return keys.model_copy(
            update={"keys": [_key(n, key) for n, key in enumerate(keys.keys)]}
        )

    def _node(self, node: schema.NodeView) -> schema.NodeView:
        busy = node.state == schema.NodeState.READY
        return node.model_copy(
            update={
                "version": "0.1.0",
                "devices": [],
                "live": [],
                "ram_total_mb": 32_768,
                "ram_free_mb": 29_900,
                "tok_s": 402.0 if busy else None,
                "running": STREAMS,
                "waiting": 0,
                "last_seen": NOW,
            }
        )

    def _model(self, model: schema.ModelView) -> schema.ModelView:
        replicas = [
            replica.model_copy(
                update={
                    "memory_mb": None if replica.memory_mb is None else 126,
                    "progress": None,
                }
            )
            for replica in model.replicas
        ]
        return model.model_copy(
            update={
                "replicas": replicas,
                "tok_s": 402.0 if model.running else None,
                "ttft_s": None if model.ttft_s is None else 0.05,
                "requests": 61 if model.requests else 0,
                "last_used": None if model.last_used is None else NOW,
            }
        )

    def _requests(self, requests: list[schema.RequestView]) -> list[schema.RequestView]:
        return [
            request.model_copy(
                update={
                    "client": "127.0.0.1",
                    "started_at": NOW - 1,
                    "ttft_s": None if request.ttft_s is None else 0.05,
                    "tokens": 0 if request.ttft_s is None else 134,
                    "tok_s": None if request.ttft_s is None else 134.0,
                }
            )
            for request in requests
        ]


def _key(number: int, key: schema.KeyView) -> schema.KeyView:
    """As if its owner had been at work for some days."""
    if key.revoked:
        return key
    return key.model_copy(
        update={
            "renews_at": NOW + 11 * 86_400,
            "last_used": NOW - 40 * number,
            "prompt_tokens": 1_480_000 * (number + 1),
            "completion_tokens": 96_000 * (number + 1),
            "cost": 1.27 * (number + 1) if key.budget_cost else 0,
            "last_minute_requests": 4 + number,
            "last_minute_tokens": 18_300 * (number + 1),
        }
    )


def _history() -> list[schema.Sample]:
    """Five minutes in which one stream after the other joins."""
    samples = []
    for second in range(300):
        running = min(STREAMS, second // 70)
        ripple = 1 + 0.06 * math.sin(second / 7)
        samples.append(
            schema.Sample(
                time=NOW - 299 + second,
                tok_s=(0.0, 260.0, 350.0, 402.0)[running] * ripple,
                running=running,
                ttft_s=0.05 * ripple if running else None,
            )
        )
    return samples


class Photographer:
    """Presses keys and takes the pictures, by name."""

    def __init__(self, app: CortexApp, pilot: Pilot[None]) -> None:
        self.app = app
        self.pilot = pilot
        self.pictures: dict[str, str] = {}

    async def until(self, condition: Callable[[], bool]) -> None:
        async with asyncio.timeout(DEADLINE_S):
            while not condition():
                await self.pilot.pause(0.02)

    async def take(self, name: str, width: int, height: int) -> None:
        """One picture at that size, once everything has been painted."""
        await self.pilot.resize_terminal(width, height)
        for _ in range(3):
            self.app.refresh_fleet()
            await self.pilot.pause(0.05)
        # Rich scopes its style names by a number that differs from run to run.
        svg = re.sub(r"\bterminal-\d+", f"{name}-{width}", self.app.export_screenshot())
        self.pictures[f"{name}-{width}x{height}.svg"] = svg

    async def everything(self) -> dict[str, str]:
        await self._load()
        await self._test()
        await self._keys()
        await self._busy()
        return self.pictures

    async def _load(self) -> None:
        app = self.app
        await self.until(lambda: app.fleet.selected_model is not None)
        await self.pilot.press("l")
        await self.take("load", 80, 24)
        await self.pilot.press("enter")
        await self.until(lambda: _state(app) == "ready")

    async def _test(self) -> None:
        dialog = self.app.dialog(TestDialog)
        dialog.max_tokens = STORY_TOKENS
        dialog.clock = lambda: _story_time(dialog)
        await self.pilot.press("t")
        await self.pilot.press("enter")
        await self.until(lambda: dialog.state.startswith("done"))
        await self.until(lambda: not self.app.store.requests)
        await self.take("test", 80, 24)
        await self.pilot.press("escape")

    async def _keys(self) -> None:
        await self.pilot.press("K")
        await self.until(lambda: bool(self.app.dialog(KeysDialog).table.rows))
        await self.take("keys", 80, 24)
        await self.pilot.press("escape")

    async def _busy(self) -> None:
        app = self.app
        assert app.session.target is not None
        async with streams(GatewayClient(app.session.target), STREAMS):
            await self.until(lambda: _all_decode(app))
            # Held as it is now: the streams go on, and the console no longer listens.
            app.workers.cancel_group(app, "session")
        await self.pilot.press("escape")
        for width, height in ((140, 40), (80, 24), (60, 16)):
            await self.take("fleet", width, height)


def _state(app: CortexApp) -> str:
    return next((str(model.state) for model in app.store.models.values()), "")


def _all_decode(app: CortexApp) -> bool:
    phases = [request.phase for request in app.store.requests.values()]
    model = next(iter(app.store.models.values()))
    return phases == ["decoding"] * STREAMS and model.running == STREAMS


def _story_time(dialog: TestDialog) -> float:
    """Two moments: the first token, and the last one."""
    if dialog.answer is None:
        return 0.0
    return 0.05 if dialog.answer.first is None else 0.05 + STORY_TOKENS / 390


@asynccontextmanager
async def streams(client: GatewayClient, number: int) -> AsyncIterator[None]:
    """That many clients which ask for one story after the other."""

    async def ask() -> None:
        while True:
            pieces = client.prompt(
                "tinystories-15m", "Once upon a time", chat=False, max_tokens=200
            )
            async with aclosing(pieces):
                async for _ in pieces:
                    pass

    async with client, asyncio.TaskGroup() as group:
        tasks = [group.create_task(ask()) for _ in range(number)]
        yield
        for task in tasks:
            task.cancel()


@contextmanager
def fresh_home() -> Iterator[None]:
    """This process and what it starts: an empty home, free ports, one time zone."""
    kept = dict(os.environ)
    with tempfile.TemporaryDirectory(prefix="cx", ignore_cleanup_errors=True) as folder:
        for name in list(os.environ):
            if name.startswith(("XDG_", "CORTEX_", "NEURON_")) or name == "NO_COLOR":
                del os.environ[name]
        os.environ |= {
            "HOME": folder,
            "XDG_RUNTIME_DIR": folder,
            "CORTEX_GATEWAY__LISTEN": "127.0.0.1:0",
            "CORTEX_GATEWAY__METRICS_LISTEN": "127.0.0.1:0",
            "CORTEX_LOCAL__LISTEN": "127.0.0.1:0",
            "TEXTUAL_ANIMATIONS": "none",
            "TZ": "UTC",
        }
        time.tzset()
        file = config_dir() / "keys.toml"
        file.parent.mkdir(parents=True)
        file.write_text(KEYS_TOML, encoding="utf-8")
        file.chmod(0o600)
        try:
            yield
        finally:
            os.environ.clear()
            os.environ.update(kept)
            time.tzset()


async def photograph() -> dict[str, str]:
    """Pictures by file name."""
    options = Options(now=lambda: NOW, view=Normalised(), label="local:31313")
    app = CortexApp(options)
    async with app.run_test(size=(80, 24)) as pilot:
        try:
            return await Photographer(app, pilot).everything()
        finally:
            await app.session.stop_gateway()


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m cortex_tui.screenshots")
    parser.add_argument("--check", action="store_true", help="compare, write nothing")
    parser.add_argument("folder", nargs="?", type=Path, default=FOLDER)
    arguments = parser.parse_args()
    folder: Path = arguments.folder.absolute()
    with fresh_home():
        pictures = asyncio.run(photograph())
    if arguments.check:
        return check(folder, pictures)
    folder.mkdir(parents=True, exist_ok=True)
    for name, svg in pictures.items():
        (folder / name).write_text(svg, encoding="utf-8")
        print(folder / name)
    return 0


def check(folder: Path, pictures: dict[str, str]) -> int:
    """0 where the folder holds exactly these pictures; says which differ."""
    kept = {path.name: path.read_text("utf-8") for path in folder.glob("*.svg")}
    stale = sorted(n for n in kept.keys() | pictures if kept.get(n) != pictures.get(n))
    for name in stale:
        print(f"{name}: the console looks different now", file=sys.stderr)
    if stale:
        print("look, then: python -m cortex_tui.screenshots", file=sys.stderr)
    return 1 if stale else 0


if __name__ == "__main__":
    sys.exit(main())
