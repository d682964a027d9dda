"""Waits for a replica that takes a request, and tells the client so meanwhile."""

import asyncio
import time
from collections.abc import Awaitable, Callable

from neuron.protocol.errors import shutting_down, unavailable
from services.gateway.context import Gateway

COMMENT_S = 1.0
"""How often a client that waits for a load is told so."""
STILL_LOADING_RETRY_S = 10


async def find_replica(
    gateway: Gateway,
    model: str,
    failed: frozenset[str],
    tell: Callable[[str], Awaitable[None]],
) -> str:
    """The node that takes a request for `model`, after a load if need be.

    `tell` is called with the load's progress as long as it lasts.

    Raises:
        ApiError: nobody can, or not in time.
    """
    search = asyncio.create_task(gateway.fleet.dispatcher.replica_for(model, failed))
    stopping = asyncio.create_task(gateway.stopping.wait())
    deadline = time.monotonic() + gateway.limits.load_timeout_s
    try:
        while True:
            left = deadline - time.monotonic()
            await asyncio.wait(
                {search, stopping},
                timeout=max(0.0, min(COMMENT_S, left)),
                return_when=asyncio.FIRST_COMPLETED,
            )
            if search.done():
                return search.result()
            if stopping.done():
                raise shutting_down()
            if left <= 0:
                raise unavailable(
                    f"'{model}' is still being loaded",
                    code="model_loading",
                    retry_after=STILL_LOADING_RETRY_S,
                )
            await tell(gateway.fleet.dispatcher.progress(model))
    finally:
        search.cancel()
        stopping.cancel()
        await asyncio.gather(search, stopping, return_exceptions=True)
