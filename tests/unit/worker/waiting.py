"""Waiting for what another thread does."""

import asyncio
from collections.abc import Callable

DEADLINE_S = 10


async def until(condition: Callable[[], bool]) -> None:
    """Wait until `condition()` holds; the engine's thread makes it so."""
    async with asyncio.timeout(DEADLINE_S):
        while not condition():  # noqa: ASYNC110 - no event crosses the threads here
            await asyncio.sleep(0.001)
