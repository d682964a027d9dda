"""The models on this host's disk: found, described and remembered."""

import logging
import os
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final
from unicodedata import category

from neuron.models.errors import ModelError
from neuron.models.info import ModelInfo
from neuron.models.inspect import inspect_model

_log = logging.getLogger(__name__)

_WEIGHTS: Final = (".safetensors", ".bin", ".pt", ".pth")
_NO_TEXT: Final = "\ufffd"
_DESCRIBING: Final = (".json", ".jinja", *_WEIGHTS)

_Signature = tuple[tuple[str, int, int], ...]
"""(name, mtime in ns, size) of every file that says something about the model."""


@dataclass(frozen=True, slots=True)
class StoreEntry:
    """One model folder: described, or with the problem that keeps it from being."""

    id: str
    """`name` or `org/name`, after its folders below a root."""
    path: Path
    info: ModelInfo | None
    problem: str | None


class ModelStore:
    """Model folders one or two levels below any of `roots`.

    A folder with config.json and weights is a model; nothing is sought inside it.
    Where two have the same id, the earlier root's counts. Symbolic links are
    followed, except to a folder that they lie in. Calls block on the disk.
    """

    def __init__(self, roots: Sequence[Path]) -> None:
        self.roots = tuple(roots)
        self._known: dict[Path, tuple[_Signature, StoreEntry]] = {}
        self._unreadable: set[Path] = set()
        """Folders already complained about."""

    def entries(self) -> list[StoreEntry]:
        """All models, sorted by id; a folder is read again only where it changed."""
        found: dict[str, StoreEntry] = {}
        known: dict[Path, tuple[_Signature, StoreEntry]] = {}
        for model_id, path in self._candidates():
            if model_id in found:
                continue
            signature = self._signature(path)
            before = self._known.get(path)
            if before is not None and before[0] == signature:
                entry = before[1]
            else:
                entry = _describe(model_id, path)
            known[path] = (signature, entry)
            found[model_id] = entry
        self._known = known
        return [found[model_id] for model_id in sorted(found)]

    def get(self, model_id: str) -> StoreEntry:
        """The model of that id.

        Raises:
            KeyError: there is none.
        """
        for entry in self.entries():
            if entry.id == model_id:
                return entry
        raise KeyError(model_id)

    def _candidates(self) -> Iterator[tuple[str, Path]]:
        for root in self.roots:
            for outer in self._folders(root):
                if self._is_model(outer):
                    yield _shown(outer.name), outer
                    continue
                for inner in self._folders(outer):
                    if self._is_model(inner):
                        yield f"{_shown(outer.name)}/{_shown(inner.name)}", inner

    def _folders(self, parent: Path) -> list[Path]:
        """Folders to look into; hidden ones and links to an ancestor are not."""
        return [
            path
            for path in self._listed(parent)
            if not path.name.startswith(".")
            and os.path.isdir(path)
            and not _leads_back(path)
        ]

    def _is_model(self, path: Path) -> bool:
        names = [file.name for file in self._listed(path)]
        return "config.json" in names and any(n.endswith(_WEIGHTS) for n in names)

    def _signature(self, path: Path) -> _Signature:
        files = (file for file in self._listed(path) if file.suffix in _DESCRIBING)
        return tuple((file.name, *_stamp(file)) for file in files)

    def _listed(self, folder: Path) -> list[Path]:
        """What a folder holds, sorted; nothing where it does not exist."""
        try:
            found = sorted(folder / name for name in os.listdir(folder))
        except FileNotFoundError:
            return []
        except OSError as error:
            if folder not in self._unreadable:
                self._unreadable.add(folder)
                _log.warning("%s cannot be read: %s", folder, error.strerror)
            return []
        self._unreadable.discard(folder)
        return found


def _describe(model_id: str, path: Path) -> StoreEntry:
    try:
        return StoreEntry(model_id, path, inspect_model(path, model_id), None)
    except ModelError as error:
        return StoreEntry(model_id, path, None, str(error))


def _leads_back(path: Path) -> bool:
    return path.is_symlink() and path.parent.resolve().is_relative_to(path.resolve())


def _stamp(file: Path) -> tuple[int, int]:
    try:
        status = file.stat()
    except OSError:  # a dangling link, or removed meanwhile: reading it will tell
        return 0, 0
    return status.st_mtime_ns, status.st_size


def _shown(name: str) -> str:
    """A file name as text that a header can carry, whatever bytes it has."""
    text = os.fsencode(name).decode("utf-8", "replace").strip()
    return "".join(_NO_TEXT if category(c) == "Cc" else c for c in text) or _NO_TEXT
