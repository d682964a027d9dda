"""What the session tells the store when there is no gateway to be had."""

import asyncio

import pytest

from cortex_tui.local_gateway import LocalGatewayError, NotStartedAgain
from cortex_tui.session import Session
from cortex_tui.store import FleetStore, Link
from cortex_tui.supervisor import Supervisor
from tests.support.processes import Home


@pytest.mark.parametrize(
    ("error", "retries"),
    [
        (LocalGatewayError("the gateway did not start"), True),
        (NotStartedAgain("the gateway cannot start"), False),
    ],
)
async def test_a_retry_is_announced_only_where_there_will_be_one(
    home: Home,
    monkeypatch: pytest.MonkeyPatch,
    error: LocalGatewayError,
    retries: bool,
) -> None:
    for name, value in home.environ.items():
        monkeypatch.setenv(name, value)

    async def locate(_: Supervisor) -> None:
        raise error

    monkeypatch.setattr(Supervisor, "locate", locate)
    store = await lost_store()
    assert store.problem == str(error)
    assert (store.retry_at is not None) is retries


async def test_a_folder_that_cannot_be_made_is_named(
    home: Home, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name, value in home.environ.items():
        monkeypatch.setenv(name, value)
    file = home.root / "file"
    file.touch()
    monkeypatch.setenv("XDG_RUNTIME_DIR", str(file))
    store = await lost_store()
    assert store.problem == f"{file}/cortex: not a directory"
    assert store.retry_at is not None


async def lost_store() -> FleetStore:
    """What a session's store says after its first failure."""
    store = FleetStore()
    running = asyncio.create_task(Session(store, now=lambda: 100.0).run())
    for _ in range(1000):
        if store.link is Link.LOST:
            break
        await asyncio.sleep(0.01)
    running.cancel()
    await asyncio.wait([running])
    return store
