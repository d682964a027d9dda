"""What is on disk and which engine can serve it, read away from every request."""

import asyncio
import logging
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Final

from neuron.protocol.errors import model_not_found

if TYPE_CHECKING:
    from neuron.models.info import ModelInfo
    from neuron.models.store import ModelStore
    from neuron.protocol.types import EngineInfo

log = logging.getLogger(__name__)

SCAN_INTERVAL_S: Final = 5.0


@dataclass(frozen=True, slots=True)
class Entry:
    """One model folder; `engine` is who would serve it, else `problem` says why not."""

    id: str
    path: Path
    info: "ModelInfo | None"
    engine: str | None
    problem: str | None


class Catalogue:
    """The model store, scanned in a thread every few seconds."""

    def __init__(self, roots: Sequence[Path]) -> None:
        self._roots = list(roots)
        self._store: ModelStore | None = None
        self._choices: dict[ModelInfo, tuple[str | None, str | None]] = {}
        self._scanning = asyncio.Lock()
        self._scanned = asyncio.Event()
        self.entries: Mapping[str, Entry] = {}
        self.engines: Sequence[EngineInfo] = ()

    async def refresh(self) -> bool:
        """Scan now; True where something came, went or changed."""
        async with self._scanning:
            entries = await asyncio.to_thread(self._scan)
            changed = entries != self.entries
            self.entries = entries
            self._scanned.set()
            return changed

    async def scanned(self) -> None:
        """Wait for the first scan."""
        await self._scanned.wait()

    async def get(self, model_id: str) -> Entry:
        """The entry, looked for on disk again where it is not known.

        Raises:
            ApiError: 404 with the ids that there are.
        """
        await self.scanned()
        if model_id not in self.entries:
            await self.refresh()
        try:
            return self.entries[model_id]
        except KeyError:
            raise model_not_found(model_id, list(self.entries)) from None

    def _scan(self) -> dict[str, Entry]:
        # Imported here, in the thread: NumPy comes with the store and the engines,
        # and the daemon listens before that.
        from neuron.engines import registry
        from neuron.models.bundled import bundled_root
        from neuron.models.store import ModelStore

        if self._store is None:
            self.engines = [registry.engine_class(n).probe() for n in registry.names()]
            self._store = ModelStore([*self._roots, bundled_root()])
        entries = {}
        for found in self._store.entries():
            engine, problem = None, found.problem
            if found.info is not None:
                engine, problem = self._choose(found.info)
            entries[found.id] = Entry(found.id, found.path, found.info, engine, problem)
        return entries

    def _choose(self, info: "ModelInfo") -> tuple[str | None, str | None]:
        from neuron.engines import registry

        if info not in self._choices:
            try:
                self._choices[info] = registry.choose(info)
            except Exception as error:
                # One folder that surprises an engine must not cost the others.
                log.exception("%s: no engine can look at it", info.path)
                return None, f"{type(error).__name__}: {error}"
        return self._choices[info]
