"""What keys have spent, kept over restarts in SQLite.

Blocking, and its connection belongs to one thread: the gateway gives it one.
"""

import sqlite3
from collections.abc import Iterable
from contextlib import closing
from pathlib import Path
from typing import Final

from services import database
from services.keys.ledger import Entry, Spent
from services.keys.window import MAX_HOURS

SPEND_FILE: Final = "spend.sqlite"
_VERSION: Final = 1
_SCHEMA: Final = """
CREATE TABLE IF NOT EXISTS spent (
    key TEXT NOT NULL,
    hour INTEGER NOT NULL,
    requests INTEGER NOT NULL,
    prompt INTEGER NOT NULL,
    cached INTEGER NOT NULL,
    completion INTEGER NOT NULL,
    cost REAL NOT NULL,
    last_used REAL NOT NULL,
    PRIMARY KEY (key, hour)
) WITHOUT ROWID;
"""
_COLUMNS: Final = "key, hour, requests, prompt, cached, completion, cost, last_used"
_ADD: Final = f"""
INSERT INTO spent ({_COLUMNS}) VALUES (?, ?, ?, ?, ?, ?, ?, ?)
ON CONFLICT (key, hour) DO UPDATE SET
    requests = requests + excluded.requests,
    prompt = prompt + excluded.prompt,
    cached = cached + excluded.cached,
    completion = completion + excluded.completion,
    cost = cost + excluded.cost,
    last_used = max(last_used, excluded.last_used)
"""


class StoreError(Exception):
    """The file cannot be used; the message says which one, and why."""


class SpendStore:
    """The file, open for writing; made where there is none."""

    def __init__(self, path: Path) -> None:
        """
        Raises:
            StoreError: it cannot be opened, or belongs to another version.
        """
        self._path = path
        try:
            self._connection = database.opened(path, _SCHEMA, _VERSION)
        except (OSError, sqlite3.Error) as error:
            raise StoreError(f"{path}: {error}") from error

    def load(self, now_hour: int) -> list[Entry]:
        """What was spent in the last year; what is older is dropped.

        Raises:
            StoreError: it cannot be read.
        """
        try:
            with self._connection:
                self._connection.execute(
                    "DELETE FROM spent WHERE hour < ?", (now_hour - MAX_HOURS,)
                )
            return _entries(self._connection)
        except sqlite3.Error as error:
            raise StoreError(f"{self._path}: {error}") from error

    def add(self, entries: Iterable[Entry]) -> None:
        """Add these to what is there, all or none.

        Raises:
            StoreError: they could not be written.
        """
        rows = [
            (e.key, e.hour, s.requests, s.prompt, s.cached, s.completion, s.cost,
             s.last_used)
            for e in entries for s in [e.spent]
        ]  # fmt: skip
        try:
            with self._connection:
                self._connection.executemany(_ADD, rows)
        except sqlite3.Error as error:
            raise StoreError(f"{self._path}: {error}") from error

    def close(self) -> None:
        self._connection.close()


def read_spend(path: Path) -> list[Entry]:
    """What is kept there, without touching it; nothing where there is no such file.

    Raises:
        StoreError: it cannot be read.
    """
    if not path.is_file():
        return []
    try:
        uri = f"{path.absolute().as_uri()}?mode=ro"
        connection = sqlite3.connect(uri, uri=True, timeout=database.BUSY_S)
        with closing(connection):
            return _entries(connection)
    except sqlite3.Error as error:
        raise StoreError(f"{path}: {error}") from error


def _entries(connection: sqlite3.Connection) -> list[Entry]:
    rows = connection.execute(f"SELECT {_COLUMNS} FROM spent")
    return [Entry(key, hour, Spent(*rest)) for key, hour, *rest in rows]
