"""What one call of an attention function asks for, checked."""

from dataclasses import dataclass
from typing import Final

import torch

MAX_HEAD_DIM: Final = 256
"""The largest head that the kernels, torch's and flash-attn's own, can take."""


@dataclass(frozen=True, slots=True)
class Mask:
    """Which keys a query sees and how scores become weights.

    Positions are aligned at the end: the last query is at the last key's position.
    """

    scale: float
    causal: bool
    left: int = -1
    """A query sees this many keys before its own position; -1: all."""
    right: int = -1
    """And this many behind it; -1: all. Nothing where `causal`."""
    softcap: float = 0.0
    """Scores are squeezed into ± this; 0: they are not."""

    @classmethod
    def of(
        cls,
        query: torch.Tensor,
        softmax_scale: float | None,
        causal: bool,
        window_size: tuple[int, int],
        softcap: float | None,
    ) -> "Mask":
        """From flash-attn's arguments."""
        scale = query.shape[-1] ** -0.5 if softmax_scale is None else softmax_scale
        left, right = window_size
        right = 0 if causal else max(right, -1)
        # Floats even where a config says 1: a kernel is compiled for its types.
        return cls(float(scale), causal, max(left, -1), right, float(softcap or 0))


@dataclass(frozen=True, slots=True)
class Cache:
    """Keys and values, in pages or one after the other.

    `keys` and `values` are [pages, page, kv heads, head_dim] with `table` int32
    [batch, width], or [batch, width, kv heads, head_dim] without one. They have the
    same strides.
    """

    keys: torch.Tensor
    values: torch.Tensor
    table: torch.Tensor | None

    @property
    def page(self) -> int | None:
        """Tokens in a page; None where there are no pages."""
        return None if self.table is None else self.keys.shape[1]

    @property
    def width(self) -> int:
        """Pages that the table has room for, or tokens where there are no pages."""
        shape = self.keys.shape if self.table is None else self.table.shape
        return int(shape[1])

    @property
    def room(self) -> int:
        """The most keys that a sequence can have."""
        return self.width * (self.page or 1)

    @property
    def table_stride(self) -> int:
        return 0 if self.table is None else int(self.table.stride(0))

    def table_or_lengths(self, lengths: torch.Tensor) -> torch.Tensor:
        """A pointer that a kernel without pages never follows."""
        return lengths if self.table is None else self.table


def check(query: torch.Tensor, cache: Cache) -> None:
    """Refuse what no kernel can do.

    Raises:
        ValueError: says which argument, and what would be right.
    """
    head_dim = query.shape[-1]
    heads, kv_heads = query.shape[-2], cache.keys.shape[-2]
    if head_dim > MAX_HEAD_DIM:
        raise ValueError(f"head_dim is {head_dim}; at most {MAX_HEAD_DIM} is possible")
    if cache.keys.shape != cache.values.shape or cache.keys.shape[-1] != head_dim:
        raise ValueError(
            f"keys are {tuple(cache.keys.shape)} and values "
            f"{tuple(cache.values.shape)}; both must end in head_dim {head_dim}"
        )
    if heads % kv_heads:
        raise ValueError(f"{heads} query heads are no multiple of {kv_heads} key heads")
    if cache.keys.stride() != cache.values.stride() or cache.keys.stride(-1) != 1:
        raise ValueError("keys and values must be laid out alike, head_dim innermost")
    if cache.keys.dtype != query.dtype or cache.values.dtype != query.dtype:
        raise ValueError(f"queries are {query.dtype}, keys {cache.keys.dtype}")
    table = cache.table
    if table is not None and (table.dtype != torch.int32 or table.stride(-1) != 1):
        raise ValueError("block_table must be int32, its pages one after the other")
