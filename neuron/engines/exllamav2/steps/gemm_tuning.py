"""Finishing exllamav2's GEMM autotuner before it is in anyone's way.

The EXL2 GEMM times its first 200 calls for each (device, rows, inputs, outputs) with
events and a synchronization each, choosing between two block sizes; afterwards it only
looks the choice up. Rows are told apart up to four. In serving that makes the first
seconds slow, and inside a recorded step it is an error.
"""

from collections.abc import Iterator
from typing import Any, Final

_CALLS: Final = 201
"""The call after the 200 measured ones chooses."""
_ROWS: Final = (1, 2, 3, 4)


def tune(library: Any, model: Any) -> int:
    """Run every distinct EXL2 shape until its choice is made.

    Returns:
        Number of shapes.
    """
    import torch

    seen = set()
    for handle, tensors in _matrices(library, model):
        weight = tensors["q_weight"]
        inputs, outputs = tensors["q_group_map"].shape[0] // 2, weight.shape[1]
        shape = (weight.device, inputs, outputs)
        if shape in seen:
            continue
        seen.add(shape)
        half = {"dtype": torch.float16, "device": weight.device}
        for rows in _ROWS:
            a = torch.zeros((rows, inputs), **half)
            c = torch.empty((rows, outputs), **half)
            for _ in range(_CALLS):
                library.ext.ext_c.gemm_half_q_half(a, handle, c, False)
    return len(seen)


def quantized_linears(library: Any, model: Any) -> Iterator[Any]:
    """Every EXL2 or GPTQ layer of a loaded `ExLlamaV2`."""
    kind = library.linear.ExLlamaV2Linear
    for part in model.modules_dict.values():
        if isinstance(part, kind) and part.q_handle is not None:
            yield part


def _matrices(library: Any, model: Any) -> Iterator[tuple[int, dict[str, Any]]]:
    """Handle and tensors of each EXL2 matrix, or of its part on each of many GPUs."""
    for linear in quantized_linears(library, model):
        handles, tensors = linear.q_handle, linear.q_tensors
        if isinstance(tensors, dict):
            handles, tensors = [handles], [tensors]
        for handle, found in zip(handles, tensors, strict=True):
            if "q_weight" in found:
                yield handle, found
