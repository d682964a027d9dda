"""Stored responses for the gateway's loop, which waits for no disk."""

import asyncio
import logging
import sqlite3
import time
import zlib
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Final, Self, TypeVar

from neuron.protocol.errors import unavailable
from services.config import ResponsesSection
from services.database import DatabaseThread
from services.responses.table import Json, ResponsesTable, Stored, TooLargeError

log = logging.getLogger(__name__)

T = TypeVar("T")

RESPONSES_FILE: Final = "responses.sqlite"
_DEADLINE_S: Final = 10.0
_LOOK_S: Final = 600.0
"""How often what is too old is looked for."""
_FAILURES: Final = (sqlite3.Error, TimeoutError, zlib.error, ValueError)
"""What a file raises that cannot be used now, or is damaged."""


class ResponsesStore:
    """Use as an async context manager: it owns a thread, and a task."""

    def __init__(self, path: Path, section: ResponsesSection) -> None:
        self._path = path
        self._section = section
        self._thread = DatabaseThread("responses")
        self._forgetting: asyncio.Task[None] | None = None
        self._table: ResponsesTable

    async def __aenter__(self) -> Self:
        """
        Raises:
            OSError: the file cannot be used; the message names it.
        """
        try:
            self._table = await self._in_thread(self._open)
        except (OSError, sqlite3.Error) as error:
            self._thread.end()
            raise OSError(f"{self._path}: {error}") from error
        self._forgetting = asyncio.create_task(self._forget_regularly())
        return self

    async def __aexit__(self, *_: object) -> None:
        if self._forgetting is not None:
            self._forgetting.cancel()
            await asyncio.gather(self._forgetting, return_exceptions=True)
        try:
            await self._in_thread(self._table.close)
        except _FAILURES as error:
            log.error("stored responses: %s: not closed: %s", self._path, error)
        self._thread.end()

    def _open(self) -> ResponsesTable:
        return ResponsesTable(
            self._path,
            max_age_s=self._section.max_age_h * 3600,
            max_bytes=self._section.max_mb * 1024 * 1024,
        )

    async def put(self, owner: str, response: Json, items: list[Json]) -> None:
        """Keep it. Where that fails the log says so: its client has it all the same."""
        stored = Stored(response, items)
        try:
            await self._in_thread(lambda: self._table.put(owner, stored, time.time()))
        except (*_FAILURES, TooLargeError) as error:
            log.error("response %s was not stored: %s", response["id"], error)

    async def get(self, owner: str, id_: str) -> Stored | None:
        """
        Raises:
            ApiError: 503, the file cannot be read now.
        """
        return await self._asked(lambda: self._table.get(owner, id_, time.time()))

    async def outputs(self, owner: str, ids: Sequence[str]) -> dict[str, Json]:
        """Items of stored responses by their ids, those that are there.

        Raises:
            ApiError: 503, the file cannot be read now.
        """
        if not ids:
            return {}
        return await self._asked(lambda: self._table.outputs(owner, ids, time.time()))

    async def delete(self, owner: str, id_: str) -> bool:
        """Whether it was there.

        Raises:
            ApiError: 503, the file cannot be written now.
        """
        return await self._asked(lambda: self._table.delete(owner, id_, time.time()))

    async def _asked(self, work: Callable[[], T]) -> T:
        try:
            return await self._in_thread(work)
        except _FAILURES as error:
            log.error("stored responses: %s: %s", self._path, error)
            raise unavailable(
                "the stored responses cannot be reached now", code="store_failed"
            ) from error

    async def _in_thread(self, work: Callable[[], T]) -> T:
        try:
            async with asyncio.timeout(_DEADLINE_S):
                return await self._thread.run(work)
        except TimeoutError as error:
            raise TimeoutError(f"not done within {_DEADLINE_S:g} s") from error

    async def _forget_regularly(self) -> None:
        while True:
            try:
                await self._in_thread(lambda: self._table.forget(time.time()))
            except _FAILURES as error:
                log.error("stored responses: %s: %s", self._path, error)
            await asyncio.sleep(_LOOK_S)
