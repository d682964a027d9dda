"""Pins: kept in models.toml, so that they outlive the gateway."""

import asyncio
from dataclasses import replace
from functools import partial

from services import catalogue_file
from services.fleet.operation_runner import OperationRunner
from services.fleet.state import FleetState
from services.schema import ModelAction, Operation


class Pins:
    """Sets and takes away pins, one edit of the file at a time."""

    def __init__(self, state: FleetState, runner: OperationRunner) -> None:
        self._state = state
        self._runner = runner
        self._file_lock = asyncio.Lock()

    async def set(self, action: ModelAction, pinned: bool) -> Operation:
        """Pin or unpin a model that the fleet or the catalogue knows.

        Raises:
            ApiError: no such model.
        """
        if action.model not in self._state.catalogue.entries:
            self._runner.check_target(action)
        everywhere = action.model_copy(update={"node": None})
        operation = self._runner.start("pin" if pinned else "unpin", everywhere)
        task = self._runner.run(operation, partial(self._write, action.model, pinned))
        return await self._runner.settle(operation, task, action.wait)

    async def _write(self, model: str, pinned: bool) -> None:
        async with self._file_lock:
            path = self._state.catalogue.path
            await asyncio.to_thread(catalogue_file.set_pinned, path, model, pinned)
            catalogue = self._state.catalogue
            entry = catalogue.entry(model).model_copy(update={"pinned": pinned})
            self._state.catalogue = replace(
                catalogue, entries=catalogue.entries | {model: entry}
            )
        kind, text = ("pin", "pinned") if pinned else ("unpin", "no longer pinned")
        self._state.events.add("info", kind, f"{model} is {text}", model=model)
