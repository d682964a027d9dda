"""The way to a model's worker, and how many requests are on it."""

import asyncio
import contextlib
from collections.abc import AsyncIterator
from pathlib import Path

import aiohttp


class Upstream:
    """A pool of connections to one UNIX socket, at which one worker after another
    listens.

    It is closed only when no request uses it: aiohttp leaves the readers of a closed
    session waiting for ever.
    """

    def __init__(self, socket: Path) -> None:
        self._session = aiohttp.ClientSession(
            connector=aiohttp.UnixConnector(str(socket), limit=0),
            # Never a total one: a stream may last for hours. A worker that hangs is
            # killed, and that ends the connection.
            timeout=aiohttp.ClientTimeout(total=None, sock_connect=10),
            auto_decompress=False,
            read_bufsize=256 * 1024,
        )
        self._idle = asyncio.Event()
        self._idle.set()
        self._retired = False
        self.in_use = 0

    @contextlib.asynccontextmanager
    async def use(self) -> AsyncIterator[aiohttp.ClientSession]:
        """One request on its way."""
        self.in_use += 1
        self._idle.clear()
        try:
            yield self._session
        finally:
            self.in_use -= 1
            if not self.in_use:
                self._idle.set()
                if self._retired:
                    await self._session.close()

    async def idle(self) -> None:
        """Wait until nobody uses it."""
        await self._idle.wait()

    async def retire(self) -> None:
        """No request will come any more; the last one under way closes the door."""
        self._retired = True
        if not self.in_use:
            await self._session.close()
