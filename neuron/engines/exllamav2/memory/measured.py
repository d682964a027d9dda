"""What earlier loads really took, kept for the next plan.

One JSON file in the user's state folder, shared by every process of this user, written
whole and put in place in one step. It is a memory, not a record: a damaged one is set
aside, and the oldest entries go.
"""

import fcntl
import json
import logging
import os
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from hashlib import blake2b
from pathlib import Path
from statistics import median
from typing import Final

from neuron.engines.exllamav2.memory.description import Description

log = logging.getLogger(__name__)

FILE_NAME: Final = "exllamav2-memory.json"
_MAX_BYTES: Final = 4 << 20
_LOADS_KEPT: Final = 256
_SAMPLES_KEPT: Final = 9
_PLAUSIBLE: Final = range(64 << 20, 8 << 30)
"""What a context can take; other programs of the GPU may have moved meanwhile."""


@dataclass(frozen=True, slots=True)
class Measurements:
    """The file's contents."""

    loads: Mapping[str, Sequence[int]] = field(default_factory=dict)
    """Key of a load → bytes on each of its devices."""
    contexts: Mapping[str, Sequence[int]] = field(default_factory=dict)
    """GPU → what loads there took beyond their planned parts, newest last."""

    def load(self, key: str, devices: int) -> Sequence[int] | None:
        """What the same load took on each device, or None."""
        found = self.loads.get(key)
        return found if found is not None and len(found) == devices else None

    def context(self, gpu: str | None) -> int | None:
        """What a context takes on such a GPU, or None where none was seen."""
        samples = self.contexts.get(gpu) if gpu is not None else None
        return int(median(samples)) if samples else None


class MeasurementFile:
    """The file, for reading and for adding one load to it."""

    def __init__(self, folder: Path) -> None:
        self._file = folder / FILE_NAME

    def read(self) -> Measurements:
        """Everything kept; empty where there is no file or it is damaged."""
        try:
            if self._file.stat().st_size > _MAX_BYTES:
                raise ValueError(f"larger than {_MAX_BYTES} bytes")
            raw = json.loads(self._file.read_text(encoding="utf-8"))
            return Measurements(
                _integers(raw, "loads"),
                _integers(raw, "contexts"),
            )
        except FileNotFoundError:
            return Measurements()
        except (OSError, ValueError) as error:
            log.warning("%s is passed over: %s", self._file, error)
            return Measurements()

    def add(self, key: str, took: Sequence[int], beyond: Mapping[str, int]) -> None:
        """Keep one load.

        Args:
            key: from `load_key`.
            took: bytes on each device.
            beyond: GPU → bytes beyond the parts that the plan had worked out.
        """
        try:
            self._file.parent.mkdir(parents=True, exist_ok=True)
            with self._locked():
                self._replace(_added(self.read(), key, took, beyond))
        except OSError as error:
            log.warning("%s cannot be kept: %s", self._file, error)

    def _replace(self, contents: Measurements) -> None:
        text = json.dumps(
            {
                "written": time.time(),
                "loads": dict(contents.loads),
                "contexts": dict(contents.contexts),
            }
        )
        draft = self._file.with_suffix(f".{os.getpid()}.tmp")
        try:
            draft.write_text(text, encoding="utf-8")
            os.replace(draft, self._file)
        finally:
            draft.unlink(missing_ok=True)

    @contextmanager
    def _locked(self) -> Iterator[None]:
        with self._file.with_suffix(".lock").open("w") as stream:
            fcntl.flock(stream, fcntl.LOCK_EX)
            yield


def _added(
    found: Measurements, key: str, took: Sequence[int], beyond: Mapping[str, int]
) -> Measurements:
    loads = {k: v for k, v in found.loads.items() if k != key} | {key: list(took)}
    contexts = dict(found.contexts)
    for gpu, nbytes in beyond.items():
        if nbytes in _PLAUSIBLE:
            contexts[gpu] = [*contexts.get(gpu, ()), nbytes][-_SAMPLES_KEPT:]
    newest = list(loads.items())[-_LOADS_KEPT:]
    return Measurements(dict(newest), dict(list(contexts.items())[-_LOADS_KEPT:]))


def _integers(raw: object, name: str) -> dict[str, list[int]]:
    section = raw.get(name, {}) if isinstance(raw, dict) else None
    if not isinstance(section, dict):
        raise ValueError(f"{name} is no JSON object")
    for key, values in section.items():
        if not isinstance(values, list) or not all(
            type(value) is int and value >= 0 for value in values
        ):
            raise ValueError(f"{name}: {key} holds no list of sizes")
    return section


def fingerprint(model: Description) -> str:
    """Tells two model folders apart by their tensors' names, types and sizes."""
    digest = blake2b(digest_size=16)
    for name, spec in sorted(model.tensors.specs.items()):
        digest.update(f"{name} {spec.dtype} {spec.shape}\n".encode())
    return digest.hexdigest()


def load_key(facts: Mapping[str, object]) -> str:
    """One load's settings, models, GPUs and versions, as a key."""
    text = json.dumps(dict(facts), sort_keys=True, default=str)
    return blake2b(text.encode(), digest_size=16).hexdigest()
