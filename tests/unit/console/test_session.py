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
    store = FleetStore()
    running = asyncio.create_task(Session(store, now=lambda: 100.0).run())
    for _ in range(1000):
        if store.link is Link.LOST:
            break
        await asyncio.sleep(0.01)
    running.cancel()
    await asyncio.wait([running])
    assert store.problem == str(error)
    assert (store.retry_at is not None) is retries
