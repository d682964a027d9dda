"""Columns of packed matrices put into another order, where they are.

A gate's and an up projection's columns are brought into the order in which the down
projection has its rows, so that nothing has to be gathered in between. The library does
that on the CPU, column by column, for more than half of a model. It leaves out their
biases, which are then added to other columns than their own.
Source: exllamav2 0.3.2: linear.py, ext_stloader.cpp.
"""

from collections.abc import Iterable
from typing import Any, Final

import torch

_PER_WORD: Final = 8
_BITS: Final = 4


class DeviceReordering:
    """Stands in for the library's extension in its module `linear` during a load."""

    def __init__(self, extension: Any) -> None:
        self._extension = extension
        self._orders: dict[int, Any] = {}
        """Address of a packed matrix → what its columns were."""

    def __getattr__(self, name: str) -> Any:
        return getattr(self._extension, name)

    def tensor_remap(self, tensor: Any, index: Any) -> None:
        """Let column c be what column index[c] was; in place.

        Args:
            tensor: int32 [rows, columns].
            index: int32 [columns], on any device.
        """
        order = index.to(device=tensor.device, dtype=torch.long)
        tensor.copy_(tensor.index_select(1, order))
        self._orders[tensor.data_ptr()] = order

    def tensor_remap_4bit(self, tensor: Any, index: Any) -> None:
        """As `tensor_remap`, of columns packed eight to a word, the lowest first.

        Args:
            tensor: int32 [rows, columns / 8].
            index: int32 [columns], on any device.
        """
        order = index.to(device=tensor.device, dtype=torch.long)
        shifts = torch.arange(0, _PER_WORD * _BITS, _BITS, device=tensor.device)
        levels = (tensor.unsqueeze(-1).long() >> shifts) & ((1 << _BITS) - 1)
        levels = levels.flatten(1).index_select(1, order)
        words = (levels.unflatten(1, (-1, _PER_WORD)) << shifts).sum(-1)
        # A word's sign is its last column's highest bit.
        tensor.copy_(torch.where(words < 1 << 31, words, words - (1 << 32)))

    def reorder_biases(self, linears: Iterable[Any]) -> None:
        """Let the biases of `ExLlamaV2Linear`s follow their columns; in place, since
        the extension has their addresses already.
        """
        for linear in linears:
            tensors = getattr(linear, "q_tensors", None) or {}
            if "q_weight" in tensors and "bias" in tensors:
                order = self._orders.get(tensors["q_weight"].data_ptr())
                if order is not None:
                    tensors["bias"].copy_(tensors["bias"][order])
