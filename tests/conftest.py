"""Fixtures for every test."""

from collections.abc import Iterator
from pathlib import Path

import pytest
from blockbuster import blockbuster_ctx
from hypothesis import settings

from tests.support import smollm2 as smollm2_model
from tests.support.processes import Home, temporary_home

# The same examples every time; `--hypothesis-profile default` looks for new ones.
settings.register_profile("same", derandomize=True, deadline=None)
settings.load_profile("same")


@pytest.fixture(autouse=True)
def _nothing_blocks_the_loop(request: pytest.FixtureRequest) -> Iterator[None]:
    """A blocking call that our code makes on an event loop fails the test."""
    if request.node.get_closest_marker("allow_blocking"):
        yield
        return
    with blockbuster_ctx(scanned_modules=["cortex_tui", "services", "neuron"]) as guard:
        # Coverage's tracer runs in our frames, and shares a lock with other threads'.
        acquire = guard.functions["threading.Lock.acquire"]
        acquire.can_block_in("coverage/collector.py", "lock_data")
        yield


@pytest.fixture
def home() -> Iterator[Home]:
    """A user's folders, empty at first."""
    with temporary_home() as temporary:
        yield temporary


@pytest.fixture(scope="session")
def smollm2() -> Path:
    """Folder of a real chat model as EXL2; skips where it cannot be fetched.

    Tests that use it may be the first, and need `smollm2_model.IMPORT_TIMEOUT_S`.
    """
    return smollm2_model.exl2_folder()
