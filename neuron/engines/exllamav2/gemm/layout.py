"""Where exllamav2 keeps each level of a quantized matrix once it is on the device.

At load the library reorders the bits of the format's plain streams, in place, so that
one mask yields two levels for a `half2` (`shuffle_*` in its `cuda/quant`). Rows come in
units; a unit of one column is a few 32-bit words, and each of its rows is one or more
runs of bits in them.
"""

from dataclasses import dataclass
from typing import Final


@dataclass(frozen=True, slots=True)
class Bits:
    """`(word >> shift) & mask`, put `left` places up in the level."""

    word: int
    shift: int
    mask: int
    left: int = 0


@dataclass(frozen=True, slots=True)
class Unit:
    """How the rows of one unit lie in its words."""

    bits: int
    words: int
    rows: tuple[tuple[Bits, ...], ...]


def _pairs(bits: int, word: int, pairs: int) -> list[tuple[Bits, ...]]:
    """Rows of which the even ones are in a word's lower half, the odd in its upper."""
    mask = (1 << bits) - 1
    return [
        (Bits(word, bits * pair + 16 * half, mask),)
        for pair in range(pairs)
        for half in range(2)
    ]


def _odd_width(bits: int) -> Unit:
    """3 and 5 bits: 30 rows in pairs, and two more from the top bit of each half."""
    rows = [row for word in range(bits) for row in _pairs(bits, word, 15 // bits)]
    for half in range(2):
        top = 15 + 16 * half
        rows.append(tuple(Bits(word, top, 1, left=word) for word in range(bits)))
    return Unit(bits, bits, tuple(rows))


def _six() -> Unit:
    rows = [row for word in range(3) for row in _pairs(6, word, 2)]
    for low_word, high_shift in ((0, 12), (1, 14)):
        for half in range(0, 32, 16):
            low = Bits(low_word, 12 + half, 0xF)
            rows.append((low, Bits(2, high_shift + half, 3, left=4)))
    return Unit(6, 3, tuple(rows))


UNITS: Final = {
    2: Unit(2, 1, tuple(_pairs(2, 0, 8))),
    3: _odd_width(3),
    4: Unit(4, 1, tuple(_pairs(4, 0, 4))),
    5: _odd_width(5),
    6: _six(),
    8: Unit(8, 1, tuple((Bits(0, 8 * row, 0xFF),) for row in range(4))),
}
"""By width in bits."""
