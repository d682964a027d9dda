"""What the library's models compute otherwise than they were trained to, put right.

Source: exllamav2 0.3.2: model.py, attn.py, device.py; transformers' models.
"""

import json
from collections.abc import Callable, Iterator, Sequence
from copy import copy
from functools import partial
from pathlib import Path
from typing import Any, Final

import torch

from neuron.engines.exllamav2.loading.context import (
    library_config,
    replace_tables,
    yarn_of,
)
from neuron.engines.exllamav2.memory.model import ModelMemory
from neuron.protocol.types import LoadOptions

_TURNED_IN_WINDOWS: Final = "Cohere2ForCausalLM"
_LAUNCHED_EXPERTS: Final = 128
"""Of so many the library launches those alone that are wanted."""
_KERNEL_TOKENS: Final = 4
"""At once by its kernels for experts; more go through torch."""


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


def correct_windows(library: Any, model: Any, windows: Sequence[int | None]) -> None:
    """Let layers see as many keys as their models were trained with.

    The library gives flash-attn the number of keys for that of keys *before* a query's
    own. A window of 1, which it takes for none once it is less, is left as it is.

    Args:
        library: the module `exllamav2`.
        model: an `ExLlamaV2` with nothing loaded yet.
        windows: of each layer, where the library passes them over.
    """
    for attention in _attentions(library, model):
        attention.sliding_window = windows[attention.layer_idx] or (
            attention.sliding_window
        )
        attention.sliding_window -= attention.sliding_window > 1


def correct_positions(library: Any, model: Any) -> None:
    """Let layers without a window have no positions, where they were trained so.

    To be called before anything is loaded.
    """
    if model.config.architecture != _TURNED_IN_WINDOWS:
        return
    for attention in _attentions(library, model):
        if not attention.sliding_window:
            attention.archparams = copy(attention.archparams)
            attention.archparams.rope_style = library.architecture.RopeStyle.NONE


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


def _attentions(library: Any, model: Any) -> Iterator[Any]:
    for module in model.modules:
        if isinstance(module, library.parallel_decoder.ExLlamaV2ParallelDecoder):
            module = module.attn
        if isinstance(module, library.attn.ExLlamaV2Attention):
            yield module
