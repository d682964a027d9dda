"""The library's configuration and model objects, made and placed, nothing loaded yet.

Source: exllamav2 0.3.2: config.py, model.py, device.py.
"""

import json
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from types import SimpleNamespace
from typing import IO, Any, Final

import torch

from neuron.engines.base import EngineError
from neuron.engines.exllamav2.loading.context import (
    Extension,
    library_config,
    replace_tables,
    yarn_of,
)
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

_LAUNCHED_EXPERTS: Final = 128
"""Of so many the library launches those alone that are wanted."""
_KERNEL_TOKENS: Final = 4
"""At once by its kernels for experts; more go through torch."""


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


def correct_tables(model: Any, memory: ModelMemory, options: LoadOptions) -> None:
    """Put the paper's YaRN in place of the library's, where the model has one.

    Raises:
        EngineError: config.json describes one that cannot be computed.
    """
    if model.config.alt_rope_method != "yarn":
        return
    config = Path(model.config.model_dir, "config.json")
    with config.open(encoding="utf-8") as stream:
        rope = yarn_of(library_config(json.load(stream), options))
    for context in model.device_context:
        # A device that holds no layer has no tables.
        if context is not None and context.ready:
            replace_tables(context, rope, memory.max_seq_len)


def correct_windows(library: Any, model: Any) -> None:
    """Let windowed layers attend to as many keys as their models were trained with.

    The library gives flash-attn the number of keys for that of keys *before* a query's
    own. A window of 1, which it takes for none once it is less, is left as it is.
    """
    for module in model.modules:
        if isinstance(module, library.parallel_decoder.ExLlamaV2ParallelDecoder):
            module = module.attn
        if isinstance(module, library.attn.ExLlamaV2Attention):
            module.sliding_window -= module.sliding_window > 1


def correct_experts(library: Any, model: Any) -> None:
    """Let each token have its own experts where there are very many of them.

    The library's kernel for so many takes a few tokens at once, and launches the
    experts of the first one alone.
    """
    for module in model.modules:
        if (
            isinstance(module, library.moe_mlp.ExLlamaV2MoEMLP)
            and module.num_experts == _LAUNCHED_EXPERTS
        ):
            module.forward = partial(_token_by_token, module.forward)


def _token_by_token(
    forward: Callable[..., Any], states: Any, *given: Any, **named: Any
) -> Any:
    """`forward` of states [batch, tokens, hidden], the kernel's as single tokens."""
    tokens = states.flatten(0, 1)[:, None, None]
    if len(tokens) > _KERNEL_TOKENS:
        return forward(states, *given, **named)
    done = [forward(token, *given, **named) for token in tokens]
    return torch.cat(done).view(states.shape)
