"""SQLite files of the gateway's own, and the threads that wait for them."""

import asyncio
import sqlite3
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Final, TypeVar

T = TypeVar("T")

BUSY_S: Final = 5.0
"""How long another process may have the file for itself."""


def opened(path: Path, schema: str, version: int, *pragmas: str) -> sqlite3.Connection:
    """The file, private to the user, with tables as `schema` makes them. Blocking, and
    the connection belongs to the thread that opens it.

    A crash of the host may cost the last entries, and no more.

    Raises:
        OSError, sqlite3.Error: it cannot be opened, or a newer version wrote it.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    path.touch(mode=0o600)
    connection = sqlite3.connect(path, timeout=BUSY_S)
    try:
        (found,) = connection.execute("PRAGMA user_version").fetchone()
        if found > version:
            raise sqlite3.DatabaseError("written by a newer version")
        for pragma in ("journal_mode = WAL", "synchronous = NORMAL", *pragmas):
            connection.execute(f"PRAGMA {pragma}")
        if found < version:
            connection.executescript(f"{schema}PRAGMA user_version = {version};")
    except BaseException:
        connection.close()
        raise
    return connection


class DatabaseThread:
    """One thread, for the connections that belong to it."""

    def __init__(self, name: str) -> None:
        self._executor = ThreadPoolExecutor(1, thread_name_prefix=name)

    async def run(self, work: Callable[[], T]) -> T:
        return await asyncio.get_running_loop().run_in_executor(self._executor, work)

    def end(self) -> None:
        """Once its work is done."""
        self._executor.shutdown(wait=False)
