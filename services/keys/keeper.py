"""The keys in force, and what they have spent: read from one file, kept in another."""

import asyncio
import logging
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Final, Literal

from neuron.protocol.config_file import ConfigError
from services.database import DatabaseThread
from services.keys.file import Keys, read_keys
from services.keys.ledger import Entry
from services.keys.limits import Limits
from services.keys.ring import KeyRing
from services.keys.store import SpendStore, StoreError
from services.keys.window import hour_now

log = logging.getLogger(__name__)

LOOK_S: Final = 1.0
"""How soon a change of keys.toml is in force."""
SAVE_S: Final = 1.0
"""What a crash may cost."""

Level = Literal["info", "warning", "error"]
_Stamp = tuple[int, int, int] | None
_UNREAD: Final[_Stamp] = (0, 0, 0)


class KeyKeeper:
    """Without `running`, nothing looks for other keys by itself, and what keys spent
    is not kept."""

    def __init__(self, keys: Keys, tell: Callable[[Level, str], None]) -> None:
        self.limits = Limits()
        self.keys = keys
        self.ring = KeyRing(keys.entries)
        self._tell = tell
        self._locked = bool(keys.entries)
        self._stamp = _UNREAD
        self._looking = asyncio.Lock()
        self._store: SpendStore | None = None
        self._saving_fails = False
        if keys.warning:
            self._tell("warning", keys.warning)

    def required(self, auth: Literal["keys", "none"] | None) -> bool:
        """Whether whoever has no key is refused, under this `[gateway] auth`.

        Once there was a key, losing the last one does not open the door.
        """
        return auth == "keys" or (auth is None and self._locked)

    def take(self, keys: Keys) -> None:
        """These are in force from now on; of a file that is gone, what it had."""
        before = self.keys
        if before.found and not keys.found:
            self._tell("error", f"{keys.path} is gone; its keys stay in force")
            return
        self.keys, self.ring = keys, KeyRing(keys.entries)
        self._locked = self._locked or bool(keys.entries)
        if keys.warning and keys.warning != before.warning:
            self._tell("warning", keys.warning)
        if keys.entries != before.entries:
            good = sum(not key.revoked for key in keys.entries)
            self._tell("info", f"{keys.path} was read again; good keys: {good}")

    @asynccontextmanager
    async def running(self, database: Path) -> AsyncIterator[None]:
        """Follow the file, and keep what is spent in `database`."""
        stop, thread = asyncio.Event(), DatabaseThread("spending")

        async def save() -> None:
            await self._save(thread, database)

        await save()
        tasks = [
            asyncio.create_task(_again("keys.toml", LOOK_S, self.look, stop)),
            asyncio.create_task(_again("spending", SAVE_S, save, stop)),
        ]
        try:
            yield
        finally:
            stop.set()
            await asyncio.gather(*tasks)
            await save()
            if self._store is not None:
                await thread.run(self._store.close)
            thread.end()

    async def _save(self, thread: DatabaseThread, database: Path) -> None:
        """Write what is new, after reading what was kept, which may fail at first."""
        try:
            if self._store is None:
                opened, kept = await thread.run(lambda: _opened(database))
                self._store = opened
                self.limits.ledger.restore(kept)
            await self._add(thread, self._store)
        except StoreError as error:
            if not self._saving_fails:
                self._tell("error", f"what keys spend is not kept for now: {error}")
            self._saving_fails = True
        else:
            if self._saving_fails:
                self._tell("info", "what keys spend is kept again")
            self._saving_fails = False

    async def _add(self, thread: DatabaseThread, store: SpendStore) -> None:
        entries = self.limits.ledger.take_unsaved()
        try:
            if entries:
                await thread.run(lambda: store.add(entries))
        except StoreError:
            self.limits.ledger.put_back(entries)
            raise

    async def follow(self, keys: Keys) -> None:
        """Take keys that were read with other files, unless these are known better."""
        async with self._looking:
            if keys.path != self.keys.path:
                self._stamp = _UNREAD
                self.take(keys)
        await self.look()

    async def look(self) -> None:
        """Read the file again if it has changed; what it says is in force then."""
        async with self._looking:
            stamp = await asyncio.to_thread(_stamp_of, self.keys.path)
            if stamp == self._stamp:
                return
            self._stamp = stamp
            try:
                self.take(await asyncio.to_thread(read_keys, self.keys.path))
            except ConfigError as error:
                self._tell("error", f"not taken, the old keys stay in force: {error}")


def _opened(database: Path) -> tuple[SpendStore, list[Entry]]:
    store = SpendStore(database)
    try:
        return store, store.load(hour_now())
    except StoreError:
        store.close()
        raise


async def _again(
    what: str, every_s: float, work: Callable[[], Awaitable[None]], stop: asyncio.Event
) -> None:
    """Do it every so often; a defect must neither end it nor pass unseen."""
    while not stop.is_set():
        try:
            await work()
        except Exception:
            log.exception("%s: failed; trying again", what)
        try:
            async with asyncio.timeout(every_s):
                await stop.wait()
        except TimeoutError:
            continue


def _stamp_of(path: Path) -> _Stamp:
    try:
        found = path.stat()
    except OSError:
        return None
    return found.st_ctime_ns, found.st_size, found.st_ino
