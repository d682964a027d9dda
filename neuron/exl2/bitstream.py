"""Packing unsigned numbers of a few bits into 32-bit words, and back.

Every column of a matrix is one stream: value i occupies bits [i·b, (i+1)·b), least
significant first, so 32 rows fill exactly b words and a value may straddle two words
when b is 3, 5 or 6.
"""

from typing import Final

import numpy as np
from numpy.typing import NDArray

WIDTHS: Final = (8, 6, 5, 4, 3, 2)
"""Bit widths that EXL2 knows, in the order in which groups must come."""
BLOCK_ROWS: Final = 32
"""Rows after which a stream of any width is at a word boundary again."""


def pack_columns(values: NDArray[np.uint8], bits: int) -> NDArray[np.uint32]:
    """Pack [rows, columns] values below 2**bits into [rows·bits/32, columns] words.

    Raises:
        ValueError: the rows do not fill whole blocks of 32.
    """
    rows, columns = values.shape
    if rows % BLOCK_ROWS:
        raise ValueError(f"{rows} rows are not a multiple of {BLOCK_ROWS}")
    blocks = values.reshape(rows // BLOCK_ROWS, BLOCK_ROWS, columns)
    words = np.zeros((rows // BLOCK_ROWS, bits, columns), dtype=np.uint32)
    for row in range(BLOCK_ROWS):
        word, shift = divmod(row * bits, 32)
        value = blocks[:, row].astype(np.uint32)
        words[:, word] |= value << np.uint32(shift)
        if shift + bits > 32:
            words[:, word + 1] |= value >> np.uint32(32 - shift)
    return words.reshape(-1, columns)


def unpack_columns(words: NDArray[np.uint32], bits: int) -> NDArray[np.uint8]:
    """The inverse: [words, columns] to [words·32/bits, columns] values.

    Raises:
        ValueError: the words do not make whole blocks of 32 rows.
    """
    count, columns = words.shape
    if count % bits:
        raise ValueError(f"{count} words are not a multiple of {bits}")
    blocks = words.reshape(count // bits, bits, columns)
    values = np.empty((count // bits, BLOCK_ROWS, columns), dtype=np.uint8)
    mask = np.uint32((1 << bits) - 1)
    for row in range(BLOCK_ROWS):
        word, shift = divmod(row * bits, 32)
        value = blocks[:, word] >> np.uint32(shift)
        if shift + bits > 32:
            value |= blocks[:, word + 1] << np.uint32(32 - shift)
        np.bitwise_and(value, mask, out=values[:, row], casting="unsafe")
    return values.reshape(-1, columns)


def pack_nibbles(values: NDArray[np.uint8]) -> NDArray[np.uint32]:
    """Pack [rows, columns] values below 16 along each row, eight to a word."""
    rows, columns = values.shape
    pairs = values.reshape(rows, columns // 2, 2)
    octets = pairs[:, :, 0] | (pairs[:, :, 1] << np.uint8(4))
    return octets.reshape(rows, columns // 2).view("<u4").astype(np.uint32, copy=False)


def unpack_nibbles(words: NDArray[np.uint32]) -> NDArray[np.uint8]:
    """The inverse: [rows, words] to [rows, words·8] values below 16."""
    rows, count = words.shape
    octets = np.ascontiguousarray(words, dtype="<u4").view(np.uint8)
    values = np.empty((rows, count * 4, 2), dtype=np.uint8)
    np.bitwise_and(octets, np.uint8(15), out=values[:, :, 0])
    np.right_shift(octets, np.uint8(4), out=values[:, :, 1])
    return values.reshape(rows, count * 8)
