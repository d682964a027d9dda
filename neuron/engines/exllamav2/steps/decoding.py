"""How a loaded model decodes: recorded steps where the model allows it, all of it warm.

Without this the first seconds of serving are the slow ones: kernels are compiled,
blocks of the quantized GEMM are timed, and shapes are recorded when they first occur.
"""

import logging
from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from typing import TYPE_CHECKING, Any

import torch

from neuron.engines.base import EngineError
from neuron.engines.exllamav2.backend import Backend
from neuron.engines.exllamav2.failures import is_out_of_memory
from neuron.engines.exllamav2.gemm.linears import ROWS, TensorCoreLinears
from neuron.engines.exllamav2.levers import PREFIX, Levers
from neuron.engines.exllamav2.speculation.draft_proposer import DRAFT_PASSES
from neuron.engines.exllamav2.steps.decode_graphs import DecodeGraphs, Forward
from neuron.engines.exllamav2.steps.gemm_tuning import tune
from neuron.engines.exllamav2.steps.graph_capture import CudaRecorder
from neuron.engines.exllamav2.steps.graph_shapes import GraphShapes
from neuron.engines.exllamav2.steps.whole_step import paged_forward, why_not

if TYPE_CHECKING:
    from neuron.engines.exllamav2.loading.load import LoadedDraft, LoadedModel

log = logging.getLogger(__name__)


def recorded_steps(
    backend: Backend, loaded: "LoadedModel", levers: Levers
) -> DecodeGraphs | None:
    """Decode steps as graphs; None where they are not to be had, which the log says."""
    if not levers.cuda_graphs:
        return None
    reason = _why_not(loaded, levers)
    if reason is not None:
        log.warning("decode steps are not recorded: %s", reason)
        return None
    library, model, limits = backend.exllamav2, loaded.model, loaded.limits
    forward = _forward(library, loaded)
    if levers.triton_gemm:
        index = model.modules[1].device_idx
        count = torch.cuda.get_device_properties(index).multi_processor_count
        forward = _switched(forward, TensorCoreLinears(library, model, count).in_use)
    tokens, longest = limits.query_length, loaded.config.max_seq_len
    return _graphs(library, loaded, forward, limits.slots, tokens, longest)


def recorded_draft_steps(
    backend: Backend, loaded: "LoadedModel", levers: Levers
) -> DecodeGraphs | None:
    """Those of the model that drafts, if there is one."""
    draft, rows = loaded.draft, _guessing(loaded, levers)
    if not levers.cuda_graphs or draft is None or not rows:
        return None
    tokens, device = max(DRAFT_PASSES), draft.model.modules[1].device_idx
    reason = _embedding_elsewhere(levers) or why_not(
        draft.config, {device}, rows * tokens, tensor_parallel=False
    )
    if reason is not None:
        log.warning("the draft's steps are not recorded: %s", reason)
        return None
    library, longest = backend.exllamav2, loaded.config.max_seq_len
    forward = _forward(library, draft)
    return _graphs(library, draft, forward, rows, tokens, longest)


def warm_up(
    backend: Backend,
    loaded: "LoadedModel",
    levers: Levers,
    steps: DecodeGraphs | None,
    draft_steps: DecodeGraphs | None,
    progress: Callable[[int, int], None],
) -> None:
    """Do once what is slow the first time.

    Args:
        backend: the imported library.
        loaded: the model, on its devices.
        levers: the engine's settings.
        steps: what `recorded_steps` gave.
        draft_steps: what `recorded_draft_steps` gave.
        progress: told (done, total), in shapes, of each length of pass by itself.

    Raises:
        EngineError: the device does not take a recording.
    """
    library, rows = backend.exllamav2, _guessing(loaded, levers)
    if steps is None:
        tune(library, loaded.model)
    else:
        _record(steps, loaded.limits.slots, 1, progress)
        if rows:
            _record(steps, rows, loaded.limits.query_length, progress)
    if loaded.draft is None or not rows:
        return
    if draft_steps is None:
        tune(library, loaded.draft.model)
    else:
        for tokens in DRAFT_PASSES:
            _record(draft_steps, rows, tokens, progress)


def _record(
    steps: DecodeGraphs, rows: int, tokens: int, progress: Callable[[int, int], None]
) -> None:
    try:
        steps.prepare(rows, tokens, progress)
    except RuntimeError as error:
        if is_out_of_memory(error):
            raise
        # What torch keeps of a recording is in doubt: no going on without in here.
        said = str(error).split("\n", 1)[0]
        raise EngineError(
            f"decode steps cannot be recorded: {said} ({PREFIX}CUDA_GRAPHS=0 loads "
            "models without)",
            code="load_failed",
        ) from error


def _guessing(loaded: "LoadedModel", levers: Levers) -> int:
    """Sequences that decode together with guesses, at most."""
    limits = loaded.limits
    return min(limits.slots, levers.speculate_up_to) if limits.query_length > 1 else 0


def _forward(library: Any, held: "LoadedModel | LoadedDraft") -> Forward:
    tune(library, held.model)  # what is still being timed cannot be recorded
    page_size = library.generator.dynamic.PAGED_PAGE_SIZE
    return paged_forward(library, held.model, held.cache, page_size)


def _graphs(
    library: Any,
    held: "LoadedModel | LoadedDraft",
    forward: Forward,
    rows: int,
    tokens: int,
    longest: int,
) -> DecodeGraphs:
    """For up to so many rows of up to so many tokens; nothing is recorded yet."""
    model = held.model
    page_size = library.generator.dynamic.PAGED_PAGE_SIZE
    index = model.modules[1].device_idx
    device = library.module._torch_device(index)
    shape = (rows, tokens, model.modules[-1].out_features)
    return DecodeGraphs(
        forward,
        CudaRecorder(device, model.get_device_context(index).stream),
        GraphShapes.of(rows, -(-longest // page_size)),
        torch.empty(shape, dtype=torch.half, device=device),
        spare_page=held.cache.max_seq_len // page_size - 1,
    )


def _why_not(loaded: "LoadedModel", levers: Levers) -> str | None:
    if loaded.loras:
        return "adapters are applied"
    return _embedding_elsewhere(levers) or why_not(
        loaded.config,
        set(loaded.placed.layers),
        loaded.limits.decode_rows,
        tensor_parallel=loaded.model.tp_context is not None,
    )


def _embedding_elsewhere(levers: Levers) -> str | None:
    if levers.device_embedding:
        return None
    return "the embedding is not on the device (device_embedding is off)"


def _switched(
    forward: Forward, in_use: Callable[[], AbstractContextManager[None]]
) -> Forward:
    """`forward`, recorded with our GEMM where its rows are in its range."""

    def choose(ids: Any, lengths: Any, table: Any) -> Any:
        with in_use() if ids.numel() in ROWS else nullcontext():
            return forward(ids, lengths, table)

    return choose
