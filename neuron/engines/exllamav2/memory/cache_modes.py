"""How keys and values are kept, and what that takes.

A quantized cache keeps one float16 scale for each 32 numbers, rounds each token's
numbers in blocks of 32, and needs a float16 copy of one layer's keys and values on
every device, as long as the whole cache.
Source: exllamav2 0.3.2, cache.py.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from types import MappingProxyType
from typing import Final

PAGE: Final = 256
"""Tokens of a page; the library's cache is a whole number of them."""
_HALF: Final = 2
_SCALE_BLOCK: Final = 32


@dataclass(frozen=True, slots=True)
class CacheMode:
    """One way to keep keys and values."""

    class_name: str
    """In `exllamav2.cache`."""
    key_bits: int = 16
    value_bits: int = 16

    @property
    def quantized(self) -> bool:
        return self.key_bits < 16

    def tensors(self, tokens: int, kv_heads: int, head_dim: int) -> tuple[int, ...]:
        """Bytes of each tensor that one layer takes."""
        numbers = tokens * kv_heads * head_dim
        states = (numbers * self.key_bits // 8, numbers * self.value_bits // 8)
        if not self.quantized:
            return states
        scales = tokens * kv_heads * (head_dim // _SCALE_BLOCK) * _HALF
        return (*states, scales, scales)

    def temporaries(self, tokens: int, kv_heads: int, head_dim: int) -> tuple[int, ...]:
        """Bytes of each tensor that a device needs once, whatever its layers."""
        if not self.quantized:
            return ()
        return (tokens * kv_heads * head_dim * _HALF,) * 2

    def problem(self, head_dim: int) -> str | None:
        """Why a model of that head_dim cannot have it; None where it can.

        The library gives each head head_dim // 32 scales and writes one for every 32
        numbers of a token: with a remainder it writes past their end.
        """
        if self.quantized and head_dim % _SCALE_BLOCK:
            return f"head_dim {head_dim} is no multiple of {_SCALE_BLOCK}"
        return None


DEFAULT_MODE: Final = "fp16"
CACHE_MODES: Final[Mapping[str, CacheMode]] = MappingProxyType(
    {
        "fp16": CacheMode("ExLlamaV2Cache"),
        "q8": CacheMode("ExLlamaV2Cache_Q8", 8, 8),
        "q6": CacheMode("ExLlamaV2Cache_Q6", 8, 4),
        "q4": CacheMode("ExLlamaV2Cache_Q4", 4, 4),
    }
)


def whole_pages(tokens: int) -> int:
    """`tokens` rounded up to a whole number of pages."""
    return -(-tokens // PAGE) * PAGE
