"""Finishing exllamav2's GEMM autotuner before it is in anyone's way.

The quantized GEMM times its first 200 calls for each (device, rows, inputs, outputs)
with events and a synchronization each, choosing between two block sizes; afterwards it
only looks the choice up. Rows are told apart up to four. In serving that makes the
first seconds slow, and inside a recorded step it is an error.
"""

from collections.abc import Iterator
from typing import Any, Final

_CALLS: Final = 201
"""The call after the 200 measured ones chooses."""
_ROWS: Final = (1, 2, 3, 4)


def tune(library: Any, model: Any) -> int:
    """Run every distinct quantized shape until its choice is made.

    Returns:
        Number of shapes.
    """
    import torch

    seen = set()
    for linear in quantized_linears(library, model):
        shape = (linear.device_idx, linear.in_features, linear.out_features)
        if shape in seen:
            continue
        seen.add(shape)
        device = torch.device("cuda", linear.device_idx)
        for rows in _ROWS:
            half = {"dtype": torch.float16, "device": device}
            a = torch.zeros((rows, linear.in_features), **half)
            c = torch.empty((rows, linear.out_features), **half)
            for _ in range(_CALLS):
                library.ext.ext_c.gemm_half_q_half(a, linear.q_handle, c, False)
    return len(seen)


def quantized_linears(library: Any, model: Any) -> Iterator[Any]:
    """Every EXL2 or GPTQ layer of a loaded `ExLlamaV2`."""
    kind = library.linear.ExLlamaV2Linear
    for part in model.modules_dict.values():
        if isinstance(part, kind) and part.q_handle is not None:
            yield part
