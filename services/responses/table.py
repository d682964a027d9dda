"""The file of stored responses.

Blocking, and its connection belongs to one thread.
"""

import zlib
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import orjson

from services import database

Json = dict[str, Any]

LARGEST: Final = 64 * 1024 * 1024
"""Of a response or of what led to it, as JSON: it is all in memory when it is read."""
_VERSION: Final = 1
_SCHEMA: Final = """
CREATE TABLE IF NOT EXISTS responses (
    id TEXT PRIMARY KEY,
    owner TEXT NOT NULL,
    created REAL NOT NULL,
    response BLOB NOT NULL,
    items BLOB NOT NULL
);
CREATE INDEX IF NOT EXISTS by_age ON responses (created);
CREATE TABLE IF NOT EXISTS outputs (
    id TEXT PRIMARY KEY,
    response TEXT NOT NULL REFERENCES responses (id) ON DELETE CASCADE
) WITHOUT ROWID;
CREATE INDEX IF NOT EXISTS of_response ON outputs (response);
"""


@dataclass(frozen=True, slots=True)
class Stored:
    """A response, and all the items that it answers."""

    response: Json
    items: list[Json]

    @property
    def conversation(self) -> list[Json]:
        """What a response that follows begins with."""
        return [*self.items, *self.response["output"]]


class TooLargeError(Exception):
    """There is no room for this, whatever else is forgotten."""


class ResponsesTable:
    """Whoever asks for what is somebody else's is told that it is not there."""

    def __init__(self, path: Path, *, max_age_s: float, max_bytes: int) -> None:
        """
        Raises:
            OSError, sqlite3.Error: it cannot be opened.
        """
        self._max_age_s = max_age_s
        self._max_bytes = max_bytes
        self._connection = database.opened(
            path, _SCHEMA, _VERSION, "foreign_keys = ON", "secure_delete = ON"
        )

    def put(self, owner: str, stored: Stored, now: float) -> None:
        """Add it, and forget what is old or has no more room.

        Raises:
            TooLargeError: it is not kept.
        """
        id_ = stored.response["id"]
        response, items = _packed(stored.response), _packed(stored.items)
        if len(response) + len(items) > self._max_bytes:
            raise TooLargeError("it needs more than all the space there is")
        with self._connection:
            self._connection.execute(
                "INSERT INTO responses VALUES (?, ?, ?, ?, ?)",
                (id_, owner, now, response, items),
            )
            self._connection.executemany(
                "INSERT INTO outputs VALUES (?, ?)",
                [(item["id"], id_) for item in stored.response["output"]],
            )
            self._forget(now)

    def get(self, owner: str, id_: str, now: float) -> Stored | None:
        row = self._connection.execute(
            "SELECT response, items FROM responses"
            " WHERE id = ? AND owner = ? AND created > ?",
            (id_, owner, now - self._max_age_s),
        ).fetchone()
        return None if row is None else Stored(*map(_unpacked, row))

    def outputs(self, owner: str, ids: Iterable[str], now: float) -> dict[str, Json]:
        """Items of stored responses by their ids, those that are there, and others of
        the same responses."""
        found: dict[str, Json] = {}
        for id_ in ids:
            if id_ in found:
                continue
            row = self._connection.execute(
                "SELECT r.response FROM outputs AS o JOIN responses AS r"
                " ON r.id = o.response"
                " WHERE o.id = ? AND r.owner = ? AND r.created > ?",
                (id_, owner, now - self._max_age_s),
            ).fetchone()
            if row is not None:
                found |= {item["id"]: item for item in _unpacked(row[0])["output"]}
        return found

    def delete(self, owner: str, id_: str, now: float) -> bool:
        """Whether it was there."""
        with self._connection:
            gone = self._connection.execute(
                "DELETE FROM responses WHERE id = ? AND owner = ? AND created > ?",
                (id_, owner, now - self._max_age_s),
            )
        return gone.rowcount > 0

    def forget(self, now: float) -> None:
        """Drop what is too old, and the oldest beyond the space there is."""
        with self._connection:
            self._forget(now)

    def _forget(self, now: float) -> None:
        self._connection.execute(
            "DELETE FROM responses WHERE created <= ?", (now - self._max_age_s,)
        )
        while self._used() > self._max_bytes:
            oldest = self._connection.execute(
                "DELETE FROM responses WHERE rowid ="
                " (SELECT rowid FROM responses ORDER BY created, rowid LIMIT 1)"
            )
            if not oldest.rowcount:
                break

    def _used(self) -> int:
        """Bytes of the file that hold something; known without looking at any row."""
        pages, free, size = (
            self._connection.execute(f"PRAGMA {name}").fetchone()[0]
            for name in ("page_count", "freelist_count", "page_size")
        )
        return int((pages - free) * size)

    def close(self) -> None:
        self._connection.close()


def _packed(value: object) -> bytes:
    data = orjson.dumps(value)
    if len(data) > LARGEST:
        raise TooLargeError(f"{len(data)} bytes are more than {LARGEST}")
    return zlib.compress(data, 1)


def _unpacked(data: bytes) -> Any:
    return orjson.loads(zlib.decompress(data))
