import numpy as np
import pytest
from hypothesis import given, strategies as st

from neuron.exl2.bitstream import (
    WIDTHS,
    pack_columns,
    pack_nibbles,
    unpack_columns,
    unpack_nibbles,
)
from tests.unit.exl2.support import reproducible


def test_values_that_straddle_words_lie_in_one_stream_lowest_bit_first() -> None:
    # 0…7 in three bits each is octal 76543210, 24 bits; four of these fill 96 bits.
    column = np.tile(np.arange(8, dtype=np.uint8), 4)[:, None]
    words = pack_columns(column, 3)
    assert words.tolist() == [[0x88FAC688], [0xC688FAC6], [0xFAC688FA]]


def test_two_bit_values_fill_a_word_from_below() -> None:
    column = np.zeros((32, 1), dtype=np.uint8)
    column[0], column[1], column[15], column[16] = 3, 1, 2, 1
    assert pack_columns(column, 2).tolist() == [[0x80000007], [0x00000001]]


def test_nibbles_run_along_the_row_lowest_first() -> None:
    row = np.array([[1, 2, 3, 4, 5, 6, 7, 8, 15, 0, 0, 0, 0, 0, 0, 9]], dtype=np.uint8)
    assert pack_nibbles(row).tolist() == [[0x87654321, 0x9000000F]]


@pytest.mark.parametrize("bits", WIDTHS)
@reproducible
@given(
    blocks=st.integers(1, 5), columns=st.integers(1, 40), seed=st.integers(0, 2**32 - 1)
)
def test_packing_keeps_every_value(
    bits: int, blocks: int, columns: int, seed: int
) -> None:
    rng = np.random.default_rng(seed)
    values = rng.integers(0, 1 << bits, (32 * blocks, columns), dtype=np.uint8)
    words = pack_columns(values, bits)
    assert words.shape == (blocks * bits, columns)
    assert np.array_equal(unpack_columns(words, bits), values)


@pytest.mark.parametrize("bits", WIDTHS)
@reproducible
@given(seed=st.integers(0, 2**32 - 1), row=st.integers(0, 63), column=st.integers(0, 2))
def test_any_words_unpack_to_the_bits_that_they_hold(
    bits: int, seed: int, row: int, column: int
) -> None:
    rng = np.random.default_rng(seed)
    words = rng.integers(0, 1 << 32, (2 * bits, 3), dtype=np.uint32)
    stream = sum(int(word) << (32 * n) for n, word in enumerate(words[:, column]))
    expected = stream >> (bits * row) & ((1 << bits) - 1)
    assert unpack_columns(words, bits)[row, column] == expected
    assert np.array_equal(pack_columns(unpack_columns(words, bits), bits), words)


@reproducible
@given(rows=st.integers(1, 6), words=st.integers(1, 6), seed=st.integers(0, 2**32 - 1))
def test_packing_nibbles_keeps_every_value(rows: int, words: int, seed: int) -> None:
    rng = np.random.default_rng(seed)
    values = rng.integers(0, 16, (rows, 8 * words), dtype=np.uint8)
    assert np.array_equal(unpack_nibbles(pack_nibbles(values)), values)


def test_rows_that_end_inside_a_block_are_refused() -> None:
    with pytest.raises(ValueError, match="33 rows"):
        pack_columns(np.zeros((33, 8), dtype=np.uint8), 4)
    with pytest.raises(ValueError, match="7 words"):
        unpack_columns(np.zeros((7, 8), dtype=np.uint32), 3)
