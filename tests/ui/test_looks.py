"""SVG snapshots of the screens: `--snapshot-update` records, after a look at each."""

import re
from collections.abc import Awaitable, Callable

import pytest
from textual.pilot import Pilot

from cortex_tui.app import TICK_S, CortexApp, Options
from cortex_tui.dialogs.keys import KeysDialog
from services.schema import FleetSnapshot
from tests.ui import fleets
from tests.ui.consoles import gateway_in_a_thread, shows_the_fleet, until

Compare = Callable[..., bool]
Prepare = Callable[[Pilot[None]], Awaitable[None]]
SIZES = ((60, 16), (80, 24), (140, 40))


def looks_the_same(
    compare: Compare,
    snapshot: FleetSnapshot,
    *,
    size: tuple[int, int] = (80, 24),
    press: tuple[str, ...] = (),
    readonly: bool = False,
    ascii_only: bool = False,
    then: Prepare | None = None,
) -> bool:
    with gateway_in_a_thread(snapshot) as gateway:
        gateway.keys = fleets.keys()
        app = CortexApp(
            Options(
                attach=gateway.target,
                readonly=readonly,
                ascii_only=ascii_only,
                now=lambda: fleets.NOW,
                label="local:31313",
            )
        )

        async def prepare(pilot: Pilot[None]) -> None:
            await until(pilot, lambda: shows_the_fleet(app))
            await pilot.press(*press)
            if then is not None:
                await then(pilot)
            await settle(pilot)

        return compare(app, terminal_size=size, run_before=prepare)


async def settle(pilot: Pilot[None]) -> None:
    """Until a tick has passed and nothing moves any more."""
    before = ""
    while True:
        await pilot.pause(TICK_S * 1.5)
        # Rich scopes its style names by a number that differs from picture to picture.
        after = re.sub(r"terminal-\d+", "", pilot.app.export_screenshot())
        if after == before:
            return
        before = after


@pytest.mark.parametrize("size", SIZES, ids=lambda s: f"{s[0]}x{s[1]}")
def test_fleet(snap_compare: Compare, size: tuple[int, int]) -> None:
    assert looks_the_same(snap_compare, fleets.big(), size=size)


@pytest.mark.parametrize("size", SIZES, ids=lambda s: f"{s[0]}x{s[1]}")
def test_this_host_alone(snap_compare: Compare, size: tuple[int, int]) -> None:
    assert looks_the_same(snap_compare, fleets.small(), size=size)


def test_without_colour(snap_compare: Compare, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("NO_COLOR", "1")
    assert looks_the_same(snap_compare, fleets.big())


def test_in_ascii(snap_compare: Compare) -> None:
    assert looks_the_same(snap_compare, fleets.big(), ascii_only=True)


def test_wide_in_ascii(snap_compare: Compare) -> None:
    assert looks_the_same(snap_compare, fleets.big(), size=(140, 40), ascii_only=True)


def test_readonly(snap_compare: Compare) -> None:
    assert looks_the_same(snap_compare, fleets.big(), readonly=True)


def test_too_small(snap_compare: Compare) -> None:
    assert looks_the_same(snap_compare, fleets.big(), size=(50, 12))


def test_filtered(snap_compare: Compare) -> None:
    assert looks_the_same(snap_compare, fleets.big(), press=("/", *"qwen", "enter"))


def test_requests_come_to_the_front(snap_compare: Compare) -> None:
    assert looks_the_same(snap_compare, fleets.big(), press=("tab",))


@pytest.mark.parametrize(
    ("name", "keys"),
    [
        ("load", ("G", "l")),
        ("unload-busy", ("j", "u")),
        ("unload-idle", ("j", "j", "j", "j", "u")),
        ("help", ("?",)),
        ("palette", (":",)),
        ("test", ("t",)),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_dialog(snap_compare: Compare, name: str, keys: tuple[str, ...]) -> None:
    del name
    assert looks_the_same(snap_compare, fleets.big(), press=keys)


@pytest.mark.parametrize("size", SIZES, ids=lambda s: f"{s[0]}x{s[1]}")
def test_keys(snap_compare: Compare, size: tuple[int, int]) -> None:
    assert looks_the_same(
        snap_compare, fleets.big(), size=size, press=("K",), then=_until_keys_are_told
    )


def test_keys_in_ascii(snap_compare: Compare) -> None:
    assert looks_the_same(
        snap_compare, fleets.big(), press=("K",), ascii_only=True,
        then=_until_keys_are_told,
    )  # fmt: skip


async def _until_keys_are_told(pilot: Pilot[None]) -> None:
    app = pilot.app
    assert isinstance(app, CortexApp)
    await until(pilot, lambda: bool(app.dialog(KeysDialog).table.rows))


def test_gateway_gone(snap_compare: Compare) -> None:
    async def lose(pilot: Pilot[None]) -> None:
        app = pilot.app
        assert isinstance(app, CortexApp)
        app.store.lost("connection refused", retry_at=fleets.NOW + 2)
        app.refresh_fleet()

    assert looks_the_same(snap_compare, fleets.big(), then=lose)
