"""A model put onto its devices, and taken off again.

What fails on the way leaves nothing behind: every tensor belongs to the work under way
until all of it is done.
"""

import logging
import traceback
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final

from neuron.engines.base import (
    EngineError,
    LoadCancelledError,
    LoadSpec,
    ProgressCallback,
)
from neuron.engines.exllamav2.backend import Backend
from neuron.engines.exllamav2.failures import is_out_of_memory
from neuron.engines.exllamav2.host import devices
from neuron.engines.exllamav2.levers import Levers
from neuron.engines.exllamav2.loading.corrections import (
    correct_experts,
    correct_positions,
    correct_tables,
    correct_windows,
)
from neuron.engines.exllamav2.loading.device_embedding import move_embedding
from neuron.engines.exllamav2.loading.library_model import make_config, make_model
from neuron.engines.exllamav2.loading.loras import apply_adapter
from neuron.engines.exllamav2.loading.staging import TransferStats
from neuron.engines.exllamav2.loading.tensor_source import TensorSource, supplied
from neuron.engines.exllamav2.loading.vram import MeasuredMemory, Vram, used_at_start
from neuron.engines.exllamav2.loading.wanted import wanted_tensors
from neuron.engines.exllamav2.memory.cache_modes import CACHE_MODES
from neuron.engines.exllamav2.memory.description import Description
from neuron.engines.exllamav2.memory.limits import Limits
from neuron.engines.exllamav2.memory.measured import MeasurementFile
from neuron.engines.exllamav2.memory.requirements import (
    Placed,
    Requirements,
    requirements_of,
)
from neuron.engines.exllamav2.steps.whole_step import why_not
from neuron.engines.exllamav2.vision.eyes import Eyes
from neuron.engines.exllamav2.vision.tower import Tower, make_tower
from neuron.protocol.paths import state_dir
from neuron.protocol.types import LoadOptions

log = logging.getLogger(__name__)

_MIB: Final = 1 << 20
STARTING_BYTES: Final = 96 << 20
"""What the first pass takes for the code of its kernels and cuBLAS' workspace."""
_WARM_SHARE: Final = 0.5
"""Of what passes take while they run: so much has to be there after a warm-up."""


@dataclass(slots=True)
class LoadedDraft:
    """The model that drafts."""

    config: Any
    model: Any
    cache: Any


@dataclass(slots=True)
class LoadedModel:
    """A model on its devices, with the library's own objects."""

    config: Any
    """`ExLlamaV2Config`."""
    model: Any
    """`ExLlamaV2`."""
    cache: Any
    """Its `ExLlamaV2Cache…`, of one row as long as all sequences together."""
    tokenizer: Any
    """`ExLlamaV2Tokenizer`."""
    draft: LoadedDraft | None
    loras: list[Any]
    """`ExLlamaV2Lora` of each adapter, to be given to every forward pass."""
    eyes: Eyes | None
    """Look at images, where the model takes any."""
    limits: Limits
    transfer: TransferStats
    """How fast the weights came."""
    memory: MeasuredMemory
    placed: Placed
    requirements: Requirements
    vram: Vram


def prepare_devices(spec: LoadSpec) -> None:
    """Let this process see the load's GPUs only; before the backend is imported.

    Raises:
        EngineError: there are none, or CUDA runs already, over other devices.
    """
    if not spec.devices:
        raise EngineError("the load names no GPU", code="load_failed", param="devices")
    used_at_start(spec.devices)
    devices.restrict_to(spec.devices)


def load_model(
    backend: Backend,
    spec: LoadSpec,
    progress: ProgressCallback,
    cancelled: Callable[[], bool],
    *,
    levers: Levers | None = None,
    vram: Vram | None = None,
) -> LoadedModel:
    """Load what `spec` says, after `prepare_devices`.

    Args:
        backend: the imported library.
        spec: what was planned.
        progress: told in bytes after every tensor (`weights`, `draft`, `vision`), and
            in layers of `cache`.
        cancelled: whether to give up; asked between tensors.
        levers: the engine's settings; the environment's where None.
        vram: the devices; those of `spec` where None.

    Raises:
        LoadCancelledError: `cancelled()` became true.
        EngineError: it cannot be loaded; nothing is left of it.
    """
    load = requirements_of(spec, levers or Levers.read())
    work = _Work(backend, load, progress, cancelled, vram or Vram(spec.devices))
    try:
        return work.run()
    except BaseException as error:
        raise given_up(error, spec, work.release) from None


def given_up(
    error: BaseException, spec: LoadSpec, release: Callable[[], object]
) -> BaseException:
    """What a load that failed is to raise; `release` gives back what there is of it."""
    failure = _named(error, spec)
    _let_go(error)
    try:
        release()
    except RuntimeError as lost:
        # On a device that is lost nothing works any more, and that is no news.
        log.error("%s: what was loaded cannot be freed: %s", spec.info.id, lost)
    return failure


def settle(loaded: LoadedModel, state: Path | None = None) -> MeasuredMemory:
    """Measure again, once everything that is done at load was done, and remember it.

    What has not yet computed anything is not remembered: the next plan would count
    with the memory that only its requests are going to take.

    Args:
        loaded: a model, warmed up.
        state: folder of what loads took; the user's where None.
    """
    at_load, loaded.memory = loaded.memory, loaded.vram.measure()
    known = devices.names()
    uses, needs = loaded.memory.devices, loaded.placed.needs
    if not all(
        use.used is not None
        and use.device in known
        and use.reserved - before.reserved >= _WARM_SHARE * need.passing
        for use, before, need in zip(uses, at_load.devices, needs, strict=True)
    ):
        return loaded.memory
    names = [known[use.device] for use in uses]
    beyond = {
        name: use.total - need.total
        for name, use, need in zip(names, uses, needs, strict=True)
    }
    took = [use.total for use in uses]
    file = MeasurementFile(state or state_dir())
    file.add(loaded.requirements.key(names), took, beyond)
    return loaded.memory


def free(loaded: LoadedModel) -> int:
    """Take a model off its devices; returns how many bytes are free again.

    CUDA's own contexts stay until the process ends. Whoever else refers to the model,
    its cache or its adapters keeps their memory.
    """
    before = sum(loaded.vram.free())
    while loaded.loras:
        loaded.loras.pop().unload()
    if loaded.draft is not None:
        loaded.draft.model.unload()
    if loaded.eyes is not None:
        loaded.eyes.close()
    loaded.model.unload()
    loaded.eyes = None
    loaded.model = loaded.cache = loaded.config = None
    loaded.draft = loaded.tokenizer = None
    loaded.vram.give_back()
    freed = sum(loaded.vram.free()) - before
    log.info("freed %d MiB of VRAM", freed // _MIB)
    return freed


@dataclass(slots=True)
class _Work:
    """A load under way, and everything that it has allocated so far."""

    backend: Backend
    load: Requirements
    progress: ProgressCallback
    cancelled: Callable[[], bool]
    vram: Vram
    models: list[Any] = field(default_factory=list)
    caches: list[Any] = field(default_factory=list)
    loras: list[Any] = field(default_factory=list)
    sources: list[TensorSource] = field(default_factory=list)

    def run(self) -> LoadedModel:
        """All of it."""
        load, library = self.load, self.backend.exllamav2
        placed = self._place()
        with self.backend.torch.inference_mode():
            model = self._model(load.model, placed.layers, load.options, "weights")
            cache = self._cache(model, placed)
            draft = None
            if load.draft is not None:
                assert placed.draft_device is not None
                at = (placed.draft_device,) * (load.draft.sizes.layers + 1)
                # The context that was extended is not the draft's.
                guesser = self._model(load.draft, at, LoadOptions(), "draft")
                draft = LoadedDraft(guesser.config, guesser, self._cache(guesser, None))
        for adapter in load.adapters:
            lora = apply_adapter(library, model, load.model, adapter)
            self.loras.append(lora)
        eyes = self._eyes(model.config, placed)
        tokenizer = library.ExLlamaV2Tokenizer(model.config)
        self.vram.give_back()
        self._tell_speed()
        return LoadedModel(
            config=model.config,
            model=model,
            cache=cache,
            tokenizer=tokenizer,
            draft=draft,
            loras=self.loras,
            eyes=eyes,
            limits=load.limits,
            transfer=self.sources[0].stats if self.sources else TransferStats(),
            memory=self.vram.measure(),
            placed=placed,
            requirements=load,
            vram=self.vram,
        )

    def _tell_speed(self) -> None:
        for source in self.sources:
            log.info(
                "%d MiB of weights in %.1f s: %.2f GB/s",
                source.stats.nbytes // _MIB,
                source.stats.seconds,
                source.stats.rate / 1e9,
            )

    def release(self) -> None:
        """Give back whatever there is."""
        self.caches.clear()
        while self.sources:
            self.sources.pop().close()
        while self.loras:
            self.loras.pop().unload()
        while self.models:
            self.models.pop().unload()
        self.vram.give_back()

    def _place(self) -> Placed:
        room = [max(0, free - STARTING_BYTES) for free in self.vram.free()]
        placed = self.load.place(room)
        if placed is None:
            need = sum(need.total for need in self.load.on_one().needs)
            free = ", ".join(f"{nbytes // _MIB}" for nbytes in room)
            raise EngineError(
                f"needs {need // _MIB} MiB of VRAM beside CUDA's own; free are {free} "
                f"MiB on GPU {', '.join(map(str, self.vram.devices))}",
                code="out_of_memory",
                retryable=True,
            )
        return placed

    def _model(
        self,
        model: Description,
        places: tuple[int, ...],
        options: LoadOptions,
        stage: str,
    ) -> Any:
        library = self.backend.exllamav2
        memory = self.load.memory_of(model)
        config = make_config(library, memory, options)
        if options.tensor_parallel:
            made = self._split_model(config)
        else:
            config.no_graphs |= self._is_recorded(model, config, places)
            made = make_model(library, config, memory, places)
            self.models.append(made)
            correct_tables(made, memory, options)
            correct_windows(library, made, model.windows)
            correct_positions(library, made)
            correct_experts(library, made)
            # Tables are made in float32, several times their size.
            self.vram.give_back()
            self._fill(made, places[0], stage)
        made.loaded = True
        library.stloader.cleanup_stfiles()
        return made

    def _is_recorded(
        self, model: Description, config: Any, places: tuple[int, ...]
    ) -> bool:
        """Whether graphs of single layers would be recorded within whole steps'."""
        load = self.load
        if model is load.draft:
            return load.cuda_graphs and load.device_embedding
        rows = load.limits.decode_rows
        reason = why_not(config, set(places), rows, tensor_parallel=False)
        return load.may_record and reason is None

    def _fill(self, model: Any, first: int, stage: str) -> None:
        embedding = first if self.load.device_embedding else -1
        self._read(model, embedding, stage)
        model.set_cache_map()
        if self.load.device_embedding:
            move_embedding(model, self.backend.exllamav2.module._torch_device(first))

    def _read(self, model: Any, embedding: int, stage: str) -> None:
        """Load the modules of a model that has places; `embedding` goes to that device.

        Raises:
            LoadCancelledError: the load was given up between two tensors.
        """
        library = self.backend.exllamav2
        library.device.set_device_streams()
        source = TensorSource(
            wanted_tensors(model, library.stloader.STFile.open, embedding),
            library.module._torch_device,
            lambda done, total: self.progress(stage, done, total),
            self.cancelled,
        )
        self.sources.append(source)
        source.start()
        with supplied(library, source) as reordering:
            for module in model.modules:
                module.load()
            reordering.reorder_biases(model.modules_dict.values())
        source.close()

    def _eyes(self, config: Any, placed: Placed) -> Eyes | None:
        """The vision tower with its weights; None where there is none to load."""
        vision, device = self.load.vision, placed.vision_device
        if vision is None or device is None:
            return None
        library = self.backend.exllamav2
        tower = make_tower(library, config, device)
        self.models.append(tower)
        with self.backend.torch.inference_mode():
            self._read(tower, device, "vision")
        library.stloader.cleanup_stfiles()
        return Eyes(vision, tower, Tower(library, tower))

    def _split_model(self, config: Any) -> Any:
        """A model whose every layer is on every device; the library reads it.

        Raises:
            LoadCancelledError: the load was given up between two modules.
        """
        library, load = self.backend.exllamav2, self.load
        model = library.ExLlamaV2(config)
        self.models.append(model)
        room = min(self.vram.free()) / (1 << 30)

        def follow(done: int, total: int) -> None:
            if self.cancelled():
                raise LoadCancelledError
            self.progress("weights", done, total)

        mode = CACHE_MODES[load.cache_mode]
        with supplied(library, None):
            model.load_tp(
                gpu_split=[room] * len(self.vram.devices),
                callback=follow,
                expect_cache_tokens=load.cache_size,
                expect_cache_base=getattr(library.cache, mode.class_name),
            )
        correct_tables(model, load.memory_of(load.model), load.options)
        return model

    def _cache(self, model: Any, placed: Placed | None) -> Any:
        library, load = self.backend.exllamav2, self.load
        if self.cancelled():
            raise LoadCancelledError
        kind = getattr(library.cache, CACHE_MODES[load.cache_mode].class_name)
        tokens = load.cache_size
        if model.tp_context is not None:
            cache = library.ExLlamaV2Cache_TP(model, base=kind, max_seq_len=tokens)
        else:
            cache = kind(model, batch_size=1, max_seq_len=tokens)
        self.caches.append(cache)
        layers = model.config.num_hidden_layers
        self.progress("cache", layers, layers)
        return cache


def _let_go(error: BaseException | None) -> None:
    """Clear the frames that failed: they hold tensors, and tracebacks hold them."""
    while error is not None:
        traceback.clear_frames(error.__traceback__)
        error = error.__cause__ or error.__context__


def _named(error: BaseException, spec: LoadSpec) -> BaseException:
    """What a load met, as the engine's own error; without what the original holds."""
    if isinstance(error, EngineError | LoadCancelledError):
        return error.with_traceback(None)
    if not isinstance(error, Exception):
        return error
    name, said = spec.info.id, str(error).split("\n", 1)[0]
    # The extension's own failures to allocate are said in words only.
    if is_out_of_memory(error) or "out of memory" in said:
        return EngineError(
            f"{name}: the GPU ran out of memory: {said}",
            code="out_of_memory",
            retryable=True,
        )
    log.error("%s: the load failed", name, exc_info=error)
    return EngineError(f"{name}: {type(error).__name__}: {error}", code="load_failed")
