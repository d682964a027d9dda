"""The library's configuration and model objects, made and placed, nothing loaded yet.

Source: exllamav2 0.3.2: config.py, model.py, device.py.
"""

import json
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from types import SimpleNamespace
from typing import IO, Any

from neuron.engines.base import EngineError
from neuron.engines.exllamav2.loading.context import Extension, library_config
from neuron.engines.exllamav2.memory.description import Description
from neuron.engines.exllamav2.memory.model import ModelMemory
from neuron.engines.exllamav2.memory.scratch import device_scratch
from neuron.engines.exllamav2.vision.config import (
    library_preprocessor,
    library_vision,
)
from neuron.models.info import ModelInfo
from neuron.models.vision import PREPROCESSOR
from neuron.protocol.types import LoadOptions


def make_config(library: Any, memory: ModelMemory, options: LoadOptions) -> Any:
    """An `ExLlamaV2Config` with every setting that the plan counted on.

    Args:
        library: the module `exllamav2`.
        memory: the model and the sizes that it is loaded with.
        options: context extension.

    Raises:
        EngineError: the library does not take the folder.
    """
    model = memory.model
    try:
        with _respelled(library, model.info, options):
            config = library.ExLlamaV2Config(str(model.info.path))
    except (AssertionError, ValueError, TypeError, KeyError) as error:
        raise EngineError(
            f"{model.info.id}: exllamav2 does not take its config.json: {error}",
            code="load_failed",
        ) from None
    _use_files(library, config, model)
    extension = Extension.of(options)
    config.max_seq_len = memory.max_seq_len
    config.max_input_len = memory.limits.max_input
    config.max_output_len = memory.limits.max_output
    config.max_batch_size = 1
    config.max_dq_size = memory.dq
    config.scale_pos_emb *= extension.scale
    config.scale_alpha_value = extension.alpha
    # Its fallback on torch's attention lets tokens see those after them.
    config.no_sdpa = True
    # Its graphs of single layers keep the tables that they were recorded with, and a
    # prompt with images is turned by tables of its own.
    config.no_graphs |= config.arch.lm.mrope
    if model.architecture.qk_norm == "rms":
        # Of Qwen3 the library subtracts the mean as well.
        config.arch.lm.headnorm = "rmsnorm"
    config.arch_compat_overrides(quiet=True)
    if config.no_flash_attn:
        raise EngineError(
            f"{model.info.id}: {model.info.architecture} needs attention that this "
            "host's provider does not have",
            code="load_failed",
        )
    return config


@contextmanager
def _respelled(library: Any, info: ModelInfo, options: LoadOptions) -> Iterator[None]:
    """Let the library read JSON files in the spelling that it knows."""

    def load(stream: IO[str]) -> Any:
        contents = json.load(stream)
        name = Path(stream.name).name
        if name == "config.json":
            return library_config(library_vision(contents), options)
        if name == PREPROCESSOR:
            return library_preprocessor(contents, info.architecture, info.vision)
        return contents

    theirs = library.config.json
    library.config.json = SimpleNamespace(load=load)
    try:
        yield
    finally:
        library.config.json = theirs


def _use_files(library: Any, config: Any, model: Description) -> None:
    """Let the library know the folder's tensors, and no stray file's."""
    files = sorted({str(spec.file) for spec in model.tensors.specs.values()})
    config.tensor_files = files
    config.tensor_file_map = {
        key: file
        for file in files
        for key in library.stloader.STFile.open(
            file, keymap=config.arch.keymap
        ).get_dict()
    }


def make_model(
    library: Any,
    config: Any,
    memory: ModelMemory,
    places: Sequence[int],
) -> Any:
    """An `ExLlamaV2` whose modules know their devices; scratch and tables are there.

    Args:
        library: the module `exllamav2`.
        config: from `make_config`.
        memory: what `places` was worked out with.
        places: device of each layer, and last that of the head.
    """
    model = library.ExLlamaV2(config)
    for module in model.modules:
        module.set_device_idx(_device_of(module, places))
    # A list by device; the library asks for those in use.
    model.device_context = [None] * (max(places) + 1)
    for device in sorted(set(places)):
        context = library.device.ExLlamaV2DeviceContext(
            model, device, _scratch(memory, places, device)
        )
        context.prepare(context.scratch_bytes > 0)
        model.device_context[device] = context
    return model


def _device_of(module: Any, places: Sequence[int]) -> int:
    layer: int | None = getattr(module, "layer_idx", None)
    if layer is not None:
        return places[layer]
    if module.name == "Embedding":
        return -1
    # Learned positions are added before the first layer.
    return places[0] if module.name == "Pos. Embedding" else places[-1]


def _scratch(memory: ModelMemory, places: Sequence[int], device: int) -> int:
    held = [
        module
        for unit, place in zip(memory.units(), places, strict=True)
        if place == device
        for module in unit.modules
    ]
    return device_scratch(held, memory.model.sizes, memory.limits.max_input, memory.dq)
