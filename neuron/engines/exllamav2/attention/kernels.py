# mypy: disable-error-code="no-untyped-def, no-untyped-call, untyped-decorator"
"""Triton kernels: attention over a paged KV cache, and writing to that cache.

Rows: the queries of one sequence that share a key-value head are the rows of one tile,
query position first and head of the group second, so that grouped heads read keys and
values once. A tile of rows is one program along the first axis of the grid.

Splits: one sequence's keys are divided evenly among the programs along the third axis.
Each leaves an unnormalized sum, a maximum and a weight per row, which `merge_splits`
puts together. Where there is only one split it writes the result itself.

Nothing here depends on lengths but what the programs themselves read from the device:
the grid is one of shapes alone, so a captured graph stays right as sequences grow.
"""

import triton
import triton.language as tl

LOG2_E = tl.constexpr(1.4426950408889634)


@triton.jit(
    do_not_specialize=["width", "table_stride", "new_tokens"],
    do_not_specialize_on_alignment=["lengths", "table"],
)
def append_rows(
    keys,
    values,
    key_cache,
    value_cache,
    lengths,
    table,
    width,
    table_stride,
    new_tokens,
    key_batch_stride,
    key_token_stride,
    value_batch_stride,
    value_token_stride,
    page_stride,
    slot_stride,
    ROW: tl.constexpr,
    PAGE: tl.constexpr,
    PAGED: tl.constexpr,
    BLOCK: tl.constexpr,
):
    """Copy one new token's key and value row behind the `lengths` already there.

    Grid: (batch * new_tokens,). A token behind the last page of the table is left out.
    """
    index = tl.program_id(0)
    sequence = index // new_tokens
    token = index - sequence * new_tokens
    position = tl.load(lengths + sequence) + token
    if PAGED:
        in_table = position < width * PAGE
        page = tl.load(
            table + sequence.to(tl.int64) * table_stride + position // PAGE,
            mask=in_table,
            other=0,
        ).to(tl.int64)
        slot = position % PAGE
    else:
        in_table = position < width
        page = sequence.to(tl.int64)
        slot = position
    target = page * page_stride + slot.to(tl.int64) * slot_stride
    from_keys = sequence.to(tl.int64) * key_batch_stride + token * key_token_stride
    from_values = (
        sequence.to(tl.int64) * value_batch_stride + token * value_token_stride
    )
    for start in range(0, ROW, BLOCK):
        column = start + tl.arange(0, BLOCK)
        valid = (column < ROW) & in_table
        key = tl.load(keys + from_keys + column, mask=valid)
        tl.store(key_cache + target + column, key, mask=valid)
        value = tl.load(values + from_values + column, mask=valid)
        tl.store(value_cache + target + column, value, mask=valid)


@triton.jit(
    do_not_specialize=[
        "width",
        "table_stride",
        "new_tokens",
        "queries",
        "splits",
        "window_left",
        "window_right",
    ],
    do_not_specialize_on_alignment=["lengths", "table"],
)
def attend(  # noqa: C901 - one kernel, whose branches are taken at compile time
    query,
    key_cache,
    value_cache,
    lengths,
    table,
    out,
    sums,
    stats,
    width,
    table_stride,
    new_tokens,
    queries,
    splits,
    scale,
    softcap,
    window_left,
    window_right,
    page_stride,
    slot_stride,
    head_stride,
    KV_HEADS: tl.constexpr,
    GROUP: tl.constexpr,
    HEAD_DIM: tl.constexpr,
    PAGE: tl.constexpr,
    PAGED: tl.constexpr,
    CAUSAL: tl.constexpr,
    LEFT: tl.constexpr,
    RIGHT: tl.constexpr,
    SOFTCAP: tl.constexpr,
    BLOCK_M: tl.constexpr,
    BLOCK_N: tl.constexpr,
    BLOCK_D: tl.constexpr,
):
    """One tile of rows against one split of its sequence's keys.

    Grid: (batch * row tiles, KV_HEADS, splits). `query` and `out` are
    [batch, queries, heads, HEAD_DIM], contiguous. `lengths + new_tokens` keys of each
    sequence count, the last of them at the last query's position. `window_left` and
    `window_right` are looked at where LEFT and RIGHT say so, `softcap` where SOFTCAP.
    Of several splits, `sums` is fp32 [batch, KV_HEADS, splits, rows, HEAD_DIM] and
    `stats` [batch, KV_HEADS, splits, rows, 2]. BLOCK_N divides PAGE.
    """
    tiles = tl.cdiv(queries * GROUP, BLOCK_M)
    sequence = tl.program_id(0) // tiles
    # The last queries see most keys; begun first, their tiles do not end last, alone.
    tile = tiles - 1 - (tl.program_id(0) - sequence * tiles)
    kv_head = tl.program_id(1)
    split = tl.program_id(2)
    sequence_long = sequence.to(tl.int64)

    row = tile * BLOCK_M + tl.arange(0, BLOCK_M)
    valid_row = row < queries * GROUP
    token = row // GROUP
    dim = tl.arange(0, BLOCK_D)
    valid_dim = dim < HEAD_DIM
    heads = KV_HEADS * GROUP
    query_row = (
        (sequence_long * queries + token) * heads + kv_head * GROUP + row % GROUP
    )
    q = tl.load(
        query + query_row[:, None] * HEAD_DIM + dim[None, :],
        mask=valid_row[:, None] & valid_dim[None, :],
        other=0.0,
    )

    room = width * PAGE if PAGED else width
    total = tl.minimum(tl.load(lengths + sequence) + new_tokens, room)
    position = total - queries + token  # of each row's query
    begin = 0  # the first key that any row may see, so that splits share what counts
    if LEFT:
        begin = tl.maximum(total - queries - window_left, 0) // BLOCK_N * BLOCK_N
    share = tl.cdiv(tl.cdiv(total - begin, splits), BLOCK_N) * BLOCK_N
    first = begin + split * share
    end = tl.minimum(first + share, total)
    last_token = tl.minimum((tile * BLOCK_M + BLOCK_M - 1) // GROUP, queries - 1)
    if CAUSAL:
        end = tl.minimum(end, total - queries + last_token + 1)
    elif RIGHT:
        end = tl.minimum(end, total - queries + last_token + window_right + 1)
    if LEFT:
        leftmost = total - queries + (tile * BLOCK_M) // GROUP - window_left
        first = tl.maximum(first, tl.maximum(leftmost, 0) // BLOCK_N * BLOCK_N)

    best = tl.full((BLOCK_M,), -float("inf"), tl.float32)
    weight = tl.zeros((BLOCK_M,), tl.float32)
    total_value = tl.zeros((BLOCK_M, BLOCK_D), tl.float32)
    for start in range(first, end, BLOCK_N):
        column = start + tl.arange(0, BLOCK_N)
        valid_column = column < end
        if PAGED:
            entry = table + sequence_long * table_stride + start // PAGE
            base = tl.load(entry).to(tl.int64) * page_stride
            slot = start % PAGE + tl.arange(0, BLOCK_N)
        else:
            base = sequence_long * page_stride
            slot = column
        base += kv_head * head_stride
        offset = base + slot.to(tl.int64) * slot_stride
        key = tl.load(
            key_cache + offset[None, :] + dim[:, None],
            mask=valid_column[None, :] & valid_dim[:, None],
            other=0.0,
        )
        score = tl.dot(q, key)
        if SOFTCAP:
            # tanh, from an exponential that overflows to the right limit
            grown = tl.exp(score * (2.0 * scale / softcap))
            score = (1.0 - 2.0 / (grown + 1.0)) * (softcap * LOG2_E)
        else:
            score *= scale * LOG2_E
        seen = valid_row[:, None] & valid_column[None, :]
        if CAUSAL:
            seen &= column[None, :] <= position[:, None]
        elif RIGHT:
            seen &= column[None, :] <= position[:, None] + window_right
        if LEFT:
            seen &= column[None, :] >= position[:, None] - window_left
        score = tl.where(seen, score, -float("inf"))
        new_best = tl.maximum(best, tl.max(score, 1))
        # A row that has seen nothing yet has no maximum to subtract.
        shift = tl.where(new_best == -float("inf"), 0.0, new_best)
        share_of = tl.exp2(score - shift[:, None])
        fade = tl.exp2(best - shift)
        weight = weight * fade + tl.sum(share_of, 1)
        value = tl.load(
            value_cache + offset[:, None] + dim[None, :],
            mask=valid_column[:, None] & valid_dim[None, :],
            other=0.0,
        )
        total_value = tl.dot(
            share_of.to(value.dtype), value, acc=total_value * fade[:, None]
        )
        best = new_best

    if splits == 1:
        result = total_value / tl.where(weight == 0.0, 1.0, weight)[:, None]
        tl.store(
            out + query_row[:, None] * HEAD_DIM + dim[None, :],
            result.to(out.dtype.element_ty),
            mask=valid_row[:, None] & valid_dim[None, :],
        )
    else:
        part = (sequence_long * KV_HEADS + kv_head) * splits + split
        place = part * (queries * GROUP) + row
        tl.store(
            sums + place[:, None] * HEAD_DIM + dim[None, :],
            total_value,
            mask=(valid_row & (weight > 0.0))[:, None] & valid_dim[None, :],
        )
        tl.store(stats + place * 2, best, mask=valid_row)
        tl.store(stats + place * 2 + 1, weight, mask=valid_row)


@triton.jit(do_not_specialize=["queries", "splits"])
def merge_splits(
    sums,
    stats,
    out,
    queries,
    splits,
    KV_HEADS: tl.constexpr,
    GROUP: tl.constexpr,
    HEAD_DIM: tl.constexpr,
    BLOCK_D: tl.constexpr,
    BLOCK_S: tl.constexpr,
):
    """Put one row's splits together. Grid: (batch * KV_HEADS, queries * GROUP)."""
    sequence = tl.program_id(0) // KV_HEADS
    kv_head = tl.program_id(0) - sequence * KV_HEADS
    row = tl.program_id(1)
    rows = queries * GROUP
    dim = tl.arange(0, BLOCK_D)
    valid_dim = dim < HEAD_DIM
    first = tl.program_id(0).to(tl.int64) * splits
    best = -float("inf")
    weight = 0.0
    total_value = tl.zeros((BLOCK_D,), tl.float32)
    for start in range(0, splits, BLOCK_S):
        split = start + tl.arange(0, BLOCK_S)
        valid = split < splits
        place = (first + split) * rows + row
        part_best = tl.load(stats + place * 2, mask=valid, other=-float("inf"))
        part_weight = tl.load(stats + place * 2 + 1, mask=valid, other=0.0)
        part_value = tl.load(
            sums + place[:, None] * HEAD_DIM + dim[None, :],
            mask=(part_weight > 0.0)[:, None] & valid_dim[None, :],
            other=0.0,
        )
        new_best = tl.maximum(best, tl.max(part_best, 0))
        shift = tl.where(new_best == -float("inf"), 0.0, new_best)
        share = tl.exp2(part_best - shift)
        fade = tl.exp2(best - shift)
        weight = weight * fade + tl.sum(share * part_weight, 0)
        total_value = total_value * fade + tl.sum(share[:, None] * part_value, 0)
        best = new_best
    result = total_value / tl.where(weight == 0.0, 1.0, weight)
    heads = KV_HEADS * GROUP
    target = (sequence.to(tl.int64) * queries + row // GROUP) * heads
    target += kv_head * GROUP + row % GROUP
    tl.store(
        out + target * HEAD_DIM + dim, result.to(out.dtype.element_ty), mask=valid_dim
    )
