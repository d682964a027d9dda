"""A load with every default filled in, and what it takes wherever it is placed."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from importlib.metadata import PackageNotFoundError, version
from typing import Final

from neuron.engines.base import EngineError, LoadSpec
from neuron.engines.exllamav2.levers import Levers
from neuron.engines.exllamav2.memory.adapters import Adapter, read_adapters
from neuron.engines.exllamav2.memory.allocator import reserved_bytes
from neuron.engines.exllamav2.memory.cache_modes import CACHE_MODES, PAGE, whole_pages
from neuron.engines.exllamav2.memory.description import (
    Description,
    UnsupportedModelError,
)
from neuron.engines.exllamav2.memory.drafting import check_draft, draft_tokens
from neuron.engines.exllamav2.memory.limits import Limits, limits_of
from neuron.engines.exllamav2.memory.measured import fingerprint, load_key
from neuron.engines.exllamav2.memory.model import CacheShape, DeviceMemory, ModelMemory
from neuron.engines.exllamav2.memory.tensor_parallel import shares
from neuron.engines.exllamav2.memory.vision import vision_memory
from neuron.engines.seeing import seen
from neuron.models.info import ModelInfo
from neuron.models.vision import VisionInfo
from neuron.protocol.types import LoadOptions

_PACKAGES: Final = ("torch", "exllamav2")
_SETTINGS: Final = set(LoadOptions.model_fields) - {"draft", "loras"}


@dataclass(frozen=True, slots=True)
class Placed:
    """A load on its devices."""

    needs: tuple[DeviceMemory, ...]
    """Of each device that was offered, contexts left out."""
    layers: tuple[int, ...]
    """Device of each layer, and last that of the head, counted from 0."""
    draft_device: int | None = None
    vision_device: int | None = None


@dataclass(frozen=True, slots=True)
class Requirements:
    """What is loaded, and how."""

    model: Description
    max_seq_len: int
    slots: int
    cache_mode: str
    cache_tokens: int
    limits: Limits
    options: LoadOptions
    draft: Description | None = None
    adapters: tuple[Adapter, ...] = ()
    device_embedding: bool = False
    cuda_graphs: bool = False

    @property
    def vision(self) -> VisionInfo | None:
        """How images are taken; None where there is no tower to load."""
        return seen(self.model.info, self.options)

    @property
    def may_record(self) -> bool:
        """Whether decode steps are to be recorded, if the model allows for it."""
        wanted = self.cuda_graphs and self.device_embedding
        return wanted and not self.adapters and not self.options.tensor_parallel

    @property
    def cache_size(self) -> int:
        """Tokens that the cache is made for.

        Where decode steps are recorded or check guesses, a page more, which no sequence
        ever has.
        """
        has_spare = self.may_record or self.limits.query_length > 1
        return whole_pages(self.cache_tokens) + PAGE * has_spare

    def memory_of(self, model: Description) -> ModelMemory:
        """Needs of the model, or of the one that drafts for it."""
        return ModelMemory(
            model,
            self.limits,
            self.max_seq_len,
            CacheShape(CACHE_MODES[self.cache_mode], self.cache_size),
            self.device_embedding,
        )

    def place(self, room: Sequence[int]) -> Placed | None:
        """Find every part its device; None where that does not fit.

        Args:
            room: bytes that the load may take on each device.
        """
        memory = self.memory_of(self.model)
        if self.options.tensor_parallel:
            places = (0,) * len(memory.units())
            placed = Placed(shares(memory, len(room)), places)
        else:
            found = memory.place(room)
            if found is None:
                return None
            placed = Placed(memory.at(found, len(room)), found)
        placed = self._with_others(placed, room)
        over = any(
            need.total > free for need, free in zip(placed.needs, room, strict=True)
        )
        return None if over else placed

    def on_one(self) -> Placed:
        """Everything on one device, whether it fits there or not."""
        memory = self.memory_of(self.model)
        places = (0,) * len(memory.units())
        return self._with_others(Placed(memory.at(places, 1), places), [0])

    def _with_others(self, placed: Placed, room: Sequence[int]) -> Placed:
        """With everything that is not the model's own layers."""
        placed = self._with_vision(self._with_adapters(placed), room)
        return self._with_draft(placed, room)

    def _with_adapters(self, placed: Placed) -> Placed:
        needs = list(placed.needs)
        for adapter in self.adapters:
            for layer, nbytes in adapter.layer_bytes.items():
                needs[placed.layers[layer]] += DeviceMemory({"adapters": nbytes})
        return replace(placed, needs=tuple(needs))

    def _with_vision(self, placed: Placed, room: Sequence[int]) -> Placed:
        """Put the whole tower on the device that has most room left."""
        if self.vision is None:
            return placed
        device = _roomiest(placed, room)
        needs = list(placed.needs)
        needs[device] += vision_memory(
            self.memory_of(self.model), self.vision, needs[device]
        )
        return replace(placed, needs=tuple(needs), vision_device=device)

    def _with_draft(self, placed: Placed, room: Sequence[int]) -> Placed:
        """Put the whole draft on the device that has most room left."""
        if self.draft is None:
            return placed
        memory = self.memory_of(self.draft)
        [alone] = memory.at((0,) * len(memory.units()), 1)
        device = _roomiest(placed, room)
        needs = list(placed.needs)
        needs[device] += DeviceMemory({"draft": reserved_bytes([alone.total])})
        return replace(placed, needs=tuple(needs), draft_device=device)

    def key(self, gpus: Sequence[str]) -> str:
        """Names the load among those measured, the GPUs it runs on included."""
        facts: Mapping[str, object] = {
            "model": fingerprint(self.model),
            "draft": None if self.draft is None else fingerprint(self.draft),
            "max_seq_len": self.max_seq_len,
            "slots": self.slots,
            "cache": (self.cache_mode, self.cache_size),
            "limits": repr(self.limits),
            "options": self.options.model_dump(include=_SETTINGS),
            "adapters": [sorted(a.layer_bytes.items()) for a in self.adapters],
            "device_embedding": self.device_embedding,
            "vision": repr(self.vision),
            "gpus": list(gpus),
            "versions": [_version(name) for name in _PACKAGES],
        }
        return load_key(facts)


def _roomiest(placed: Placed, room: Sequence[int]) -> int:
    left = [free - need.total for free, need in zip(room, placed.needs, strict=True)]
    return left.index(max(left))


def requirements_of(spec: LoadSpec, levers: Levers) -> Requirements:
    """What a decided load takes.

    Raises:
        EngineError: the folder has changed so that it cannot be loaded any more.
    """
    guesses = draft_tokens(spec.options)
    model = described(spec.info, "model")
    draft = None if spec.draft is None else described(spec.draft, "draft")
    if draft is not None:
        check_draft(model, draft, spec.max_seq_len)
    return Requirements(
        model,
        spec.max_seq_len,
        spec.slots,
        spec.cache_mode,
        spec.cache_tokens,
        limits_of(spec.max_seq_len, spec.slots, guesses),
        spec.options,
        draft,
        read_adapters(model, spec.options.loras or ()),
        levers.device_embedding,
        levers.cuda_graphs,
    )


def described(info: ModelInfo, param: str) -> Description:
    """A folder's description.

    Raises:
        EngineError: the engine cannot load it; `param` is the field that named it.
    """
    try:
        return Description.of(info)
    except UnsupportedModelError as error:
        raise EngineError(str(error), code="unsupported", param=param) from None


def _version(package: str) -> str | None:
    try:
        return version(package)
    except PackageNotFoundError:
        return None
