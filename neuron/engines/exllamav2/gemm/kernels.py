# mypy: disable-error-code="no-untyped-def, no-untyped-call, untyped-decorator"
"""Products with EXL2 matrices on tensor cores, for batches of streams.

exllamav2's own kernel computes four rows at a time with `half2` arithmetic and reads
the weights again for the next four; above 32 rows it writes the whole matrix out as
float16 first. Here the levels become float16 in registers, once for all rows, exactly
as the library reconstructs them: half(level · scale). Sums are float32, over parts of
the rows that are added in a fixed order: equal inputs give equal outputs.
"""

import triton
import triton.language as tl


@triton.jit
def _run(word, BITS: tl.constexpr, PAIR: tl.constexpr, HALF: tl.constexpr):
    """`BITS` bits of a half of a word, `PAIR` such runs above its lowest."""
    return (word >> (BITS * PAIR + 16 * HALF)) & ((1 << BITS) - 1)


@triton.jit
def _level_of_6(w0, w1, w2, ROW: tl.constexpr):
    HALF: tl.constexpr = ROW % 2
    if ROW < 4:
        level = _run(w0, 6, ROW // 2, HALF)
    elif ROW < 8:
        level = _run(w1, 6, ROW // 2 - 2, HALF)
    elif ROW < 12:
        level = _run(w2, 6, ROW // 2 - 4, HALF)
    elif ROW < 14:
        level = _run(w0, 4, 3, HALF) | (_run(w2, 2, 6, HALF) << 4)
    else:
        level = _run(w1, 4, 3, HALF) | (_run(w2, 2, 7, HALF) << 4)
    return level


@triton.jit
def _level_of_odd(w0, w1, w2, w3, w4, BITS: tl.constexpr, ROW: tl.constexpr):
    """3 and 5 bits."""
    HALF: tl.constexpr = ROW % 2
    PAIRS: tl.constexpr = 15 // BITS
    WORD: tl.constexpr = ROW // 2 // PAIRS
    PAIR: tl.constexpr = ROW // 2 % PAIRS
    if ROW >= 30:
        level = _run(w0, 1, 15, HALF) | (_run(w1, 1, 15, HALF) << 1)
        level |= _run(w2, 1, 15, HALF) << 2
        if BITS == 5:
            level |= _run(w3, 1, 15, HALF) << 3
            level |= _run(w4, 1, 15, HALF) << 4
    elif WORD == 0:
        level = _run(w0, BITS, PAIR, HALF)
    elif WORD == 1:
        level = _run(w1, BITS, PAIR, HALF)
    elif WORD == 2:
        level = _run(w2, BITS, PAIR, HALF)
    elif WORD == 3:
        level = _run(w3, BITS, PAIR, HALF)
    else:
        level = _run(w4, BITS, PAIR, HALF)
    return level


@triton.jit
def _level(w0, w1, w2, w3, w4, BITS: tl.constexpr, ROW: tl.constexpr):
    """Level of one row of a unit, from its words; see `layout`."""
    if BITS == 8:
        level = (w0 >> (8 * ROW)) & 0xFF
    elif BITS == 6:
        level = _level_of_6(w0, w1, w2, ROW)
    elif BITS == 3 or BITS == 5:
        level = _level_of_odd(w0, w1, w2, w3, w4, BITS, ROW)
    else:
        level = _run(w0, BITS, ROW // 2, ROW % 2)
    return level


@triton.jit
def _add_rows(
    sums,
    a,
    q_weight,
    q_scale,
    scale_max,
    group_map,
    first_row,
    end_row,
    first_word,
    first_at,
    m,
    n,
    rows,
    columns,
    a_stride,
    BITS: tl.constexpr,
    UNIT_ROWS: tl.constexpr,
    WORDS: tl.constexpr,
    UNITS: tl.constexpr,
):
    """Add this program's part of the rows of one width to `sums`."""
    units = (end_row - first_row) // UNIT_ROWS
    in_m, in_n = (m < rows)[:, None], (n < columns)[None, :]
    for tile in range(tl.program_id(2), tl.cdiv(units, UNITS), tl.num_programs(2)):
        unit = tile * UNITS + tl.arange(0, UNITS)
        there = unit < units
        row = first_row + unit * UNIT_ROWS
        loaded = there[:, None] & in_n
        group = tl.load(group_map + 2 * row, mask=there, other=0).to(tl.int32)
        packed = tl.load(
            q_scale + group[:, None] * (columns // 8) + n[None, :] // 8,
            mask=loaded,
            other=0,
        )
        step = ((packed >> (4 * (n % 8))[None, :]) & 0xF) + 1
        largest = tl.load(scale_max + group, mask=there, other=0.0)
        scale = (step * step).to(tl.float16) * largest[:, None]
        word = q_weight + (first_word + unit * WORDS)[:, None] * columns + n[None, :]
        w0 = tl.load(word, mask=loaded, other=0)
        w1, w2, w3, w4 = w0, w0, w0, w0
        if WORDS >= 3:
            w1 = tl.load(word + columns, mask=loaded, other=0)
            w2 = tl.load(word + 2 * columns, mask=loaded, other=0)
        if WORDS == 5:
            w3 = tl.load(word + 3 * columns, mask=loaded, other=0)
            w4 = tl.load(word + 4 * columns, mask=loaded, other=0)
        place = first_at + tile * UNITS * UNIT_ROWS + tl.arange(0, UNITS)
        at = a + m[:, None] * a_stride + place[None, :]
        for index in tl.static_range(UNIT_ROWS):
            level = _level(w0, w1, w2, w3, w4, BITS, index) - (1 << (BITS - 1))
            weight = level.to(tl.float16) * scale
            x = tl.load(at + index * UNITS, mask=in_m, other=0.0)
            sums = tl.dot(x, weight, sums)
    return sums


@triton.jit(do_not_specialize=["rows"])
def multiply(
    a,
    q_weight,
    q_scale,
    scale_max,
    group_map,
    out,
    rows,
    columns,
    a_stride,
    rows_8,
    rows_6,
    rows_5,
    rows_4,
    rows_3,
    rows_2,
    WIDTHS: tl.constexpr,
    UNITS: tl.constexpr,
    BLOCK_M: tl.constexpr,
    BLOCK_N: tl.constexpr,
):
    """out[part] float32 [rows, columns] = a times the part's share of W.

    Grid: (tiles of columns, tiles of rows, parts). `a` [rows, a_stride] is in the order
    that `matrix.input_order` gives. `rows_b` is where the packed rows of width b end;
    `WIDTHS` has bit b - 1 set where there are any.
    """
    m = tl.program_id(1) * BLOCK_M + tl.arange(0, BLOCK_M)
    n = tl.program_id(0) * BLOCK_N + tl.arange(0, BLOCK_N)
    sums = tl.zeros((BLOCK_M, BLOCK_N), tl.float32)
    word = 0
    at = 0
    if WIDTHS & 0x80:
        sums = _add_rows(
            sums, a, q_weight, q_scale, scale_max, group_map, 0, rows_8, word, at,
            m, n, rows, columns, a_stride, 8, 4, 1, UNITS,
        )  # fmt: skip
        at += tl.cdiv(rows_8, 4 * UNITS) * (4 * UNITS)
        word += rows_8 // 4
    if WIDTHS & 0x20:
        sums = _add_rows(
            sums, a, q_weight, q_scale, scale_max, group_map, rows_8, rows_6, word, at,
            m, n, rows, columns, a_stride, 6, 16, 3, UNITS,
        )  # fmt: skip
        at += tl.cdiv(rows_6 - rows_8, 16 * UNITS) * (16 * UNITS)
        word += (rows_6 - rows_8) // 16 * 3
    if WIDTHS & 0x10:
        sums = _add_rows(
            sums, a, q_weight, q_scale, scale_max, group_map, rows_6, rows_5, word, at,
            m, n, rows, columns, a_stride, 5, 32, 5, UNITS,
        )  # fmt: skip
        at += tl.cdiv(rows_5 - rows_6, 32 * UNITS) * (32 * UNITS)
        word += (rows_5 - rows_6) // 32 * 5
    if WIDTHS & 0x08:
        sums = _add_rows(
            sums, a, q_weight, q_scale, scale_max, group_map, rows_5, rows_4, word, at,
            m, n, rows, columns, a_stride, 4, 8, 1, UNITS,
        )  # fmt: skip
        at += tl.cdiv(rows_4 - rows_5, 8 * UNITS) * (8 * UNITS)
        word += (rows_4 - rows_5) // 8
    if WIDTHS & 0x04:
        sums = _add_rows(
            sums, a, q_weight, q_scale, scale_max, group_map, rows_4, rows_3, word, at,
            m, n, rows, columns, a_stride, 3, 32, 3, UNITS,
        )  # fmt: skip
        at += tl.cdiv(rows_3 - rows_4, 32 * UNITS) * (32 * UNITS)
        word += (rows_3 - rows_4) // 32 * 3
    if WIDTHS & 0x02:
        sums = _add_rows(
            sums, a, q_weight, q_scale, scale_max, group_map, rows_3, rows_2, word, at,
            m, n, rows, columns, a_stride, 2, 16, 1, UNITS,
        )  # fmt: skip
    at_out = (tl.program_id(2) * rows + m)[:, None].to(tl.int64) * columns + n[None, :]
    tl.store(out + at_out, sums, mask=(m < rows)[:, None] & (n < columns)[None, :])


@triton.jit(do_not_specialize=["count"])
def add_parts(
    parts, bias, out, numbers, columns, count, HAS_BIAS: tl.constexpr,
    BLOCK: tl.constexpr,
):  # fmt: skip
    """out float16 [numbers] of parts float32 [count, numbers], plus the bias."""
    at = tl.program_id(0) * BLOCK + tl.arange(0, BLOCK)
    valid = at < numbers
    total = tl.zeros((BLOCK,), tl.float32)
    for part in range(count):
        total += tl.load(parts + part * numbers + at, mask=valid, other=0.0)
    if HAS_BIAS:
        total += tl.load(bias + at % columns, mask=valid, other=0.0).to(tl.float32)
    tl.store(out + at, total.to(tl.float16), mask=valid)
