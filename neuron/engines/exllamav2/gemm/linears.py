"""Putting the tensor-core product in the place of the library's, for one recording."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any, Final

from neuron.engines.exllamav2.gemm.matrix import Exl2Matrix

ROWS: Final = range(5, 65)
"""Where it may be the faster one: below, the library reads the weights once as well;
above, a matrix that is written out once is multiplied faster."""


class TensorCoreLinears:
    """The EXL2 layers of a loaded model, computed by our kernel while asked to."""

    def __init__(self, library: Any, model: Any, multiprocessors: int) -> None:
        """`multiprocessors` is the device's number of them."""
        fused = (library.attn.ExLlamaV2Attention, library.mlp.ExLlamaV2MLP)
        self._fused = [part for part in model.modules if isinstance(part, fused)]
        self._products = [
            (linear, _product(Exl2Matrix.of(linear.q_tensors), multiprocessors))
            for linear in model.modules_dict.values()
            if isinstance(linear, library.linear.ExLlamaV2Linear)
            and linear.q_tensors is not None
            and "q_groups" in linear.q_tensors
        ]

    @contextmanager
    def in_use(self) -> Iterator[None]:
        """Inside, the modules go through their layers, and those through our kernel.

        The library's attention and MLP call its kernels from C++ where they have a
        handle there, and its layers one by one where they have none.
        """
        handles = [module.q_handle for module in self._fused]
        try:
            for module in self._fused:
                module.q_handle = None
            for linear, product in self._products:
                linear.forward = product
            yield
        finally:
            for linear, _ in self._products:
                linear.__dict__.pop("forward", None)
            for module, handle in zip(self._fused, handles, strict=True):
                module.q_handle = handle


def _product(matrix: Exl2Matrix, multiprocessors: int) -> Callable[..., Any]:
    """A layer's `forward`: float16 [..., inputs] → float16 [..., outputs]."""

    def forward(x: Any, **_: Any) -> Any:
        flat = matrix.multiply(x.reshape(-1, x.shape[-1]), multiprocessors)
        return flat.view(*x.shape[:-1], flat.shape[-1])

    return forward
