"""How a loaded model decodes: recorded steps where the model allows it, all of it warm.

Without this the first seconds of serving are the slow ones: kernels are compiled,
blocks of the quantized GEMM are timed, and shapes are recorded when they first occur.
"""

import logging
from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from typing import TYPE_CHECKING, Any

import torch

from neuron.engines.exllamav2.backend import Backend
from neuron.engines.exllamav2.decode_graphs import DecodeGraphs, Forward
from neuron.engines.exllamav2.gemm.linears import ROWS, TensorCoreLinears
from neuron.engines.exllamav2.gemm_tuning import tune
from neuron.engines.exllamav2.graph_capture import CudaRecorder
from neuron.engines.exllamav2.graph_shapes import GraphShapes
from neuron.engines.exllamav2.levers import Levers
from neuron.engines.exllamav2.whole_step import paged_forward, why_not

if TYPE_CHECKING:
    from neuron.engines.exllamav2.loading import LoadedModel

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
    library, model = backend.exllamav2, loaded.model
    tune(library, model)  # what is still being timed cannot be recorded
    page_size = library.generator.dynamic.PAGED_PAGE_SIZE
    pages = loaded.cache.max_seq_len // page_size
    longest = -(-loaded.config.max_seq_len // page_size)
    device = torch.device("cuda", model.modules[1].device_idx)
    forward = paged_forward(library, model, loaded.cache, page_size)
    if levers.triton_gemm:
        count = torch.cuda.get_device_properties(device).multi_processor_count
        forward = _switched(forward, TensorCoreLinears(library, model, count).in_use)
    limits = loaded.limits
    shape = (limits.slots, limits.query_length, model.modules[-1].out_features)
    logits = torch.empty(shape, dtype=torch.half, device=device)
    stream = model.get_device_context(device.index).stream
    return DecodeGraphs(
        forward,
        CudaRecorder(device, stream),
        GraphShapes.of(limits.slots, longest),
        logits,
        spare_page=pages - 1,
    )


def warm_up(
    backend: Backend,
    loaded: "LoadedModel",
    steps: DecodeGraphs | None,
    progress: Callable[[int, int], None],
) -> None:
    """Do once what is slow the first time.

    Args:
        backend: the imported library.
        loaded: the model, on its devices.
        steps: what `recorded_steps` gave.
        progress: told (done, total), in shapes.
    """
    if steps is None:
        tune(backend.exllamav2, loaded.model)
    else:
        limits = loaded.limits
        steps.prepare(limits.slots, limits.query_length, progress)


def _why_not(loaded: "LoadedModel", levers: Levers) -> str | None:
    if not levers.device_embedding:
        return "the embedding is not on the device (device_embedding is off)"
    if loaded.loras:
        return "adapters are applied"
    return why_not(
        loaded.config,
        set(loaded.placed.layers),
        loaded.limits.decode_rows,
        tensor_parallel=loaded.model.tp_context is not None,
    )


def _switched(
    forward: Forward, in_use: Callable[[], AbstractContextManager[None]]
) -> Forward:
    """`forward`, recorded with our GEMM where its rows are in its range."""

    def choose(ids: Any, lengths: Any, table: Any) -> Any:
        with in_use() if ids.numel() in ROWS else nullcontext():
            return forward(ids, lengths, table)

    return choose
