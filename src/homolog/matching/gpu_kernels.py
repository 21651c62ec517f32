"""Triton kernels of `gpu`: fixed-point sums of sparse rows, the selection of the best, dense sums.

What they compute and why so: the opening of `gpu`.  Kernels take their tensors one by one, which
makes signatures and calls long.
"""

from __future__ import annotations

import triton  # pyright: ignore[reportMissingImports]
import triton.language as tl  # pyright: ignore[reportMissingImports]

NONE: tl.constexpr = tl.constexpr(-(2**63))  # below every candidate
LAST: tl.constexpr = tl.constexpr(2**31 - 1)
LOW: tl.constexpr = tl.constexpr(32)


@triton.jit
def _accumulate(  # type: ignore[no-untyped-def]
    own,
    row,
    row_start,
    row_token,
    row_value,
    token_start,
    token_column,
    token_value,
    meets,
    scale,
    T: tl.constexpr,
    W: tl.constexpr,
    ONE_PIECE: tl.constexpr,
):
    """own[column] += x y, in fixed point.

    Over the entries (token, x) of a row and (column, y) of these tokens.
    """
    last = tl.load(row_start + row + 1)
    for begin in range(tl.load(row_start + row), last, T):
        entry = begin + tl.arange(0, T)
        inside = entry < last
        x = tl.load(row_value + entry, mask=inside, other=0.0).to(tl.float64) * scale
        token = tl.load(
            meets + tl.load(row_token + entry, mask=inside, other=0), mask=inside, other=0
        )
        start = tl.load(token_start + token, mask=inside, other=0)
        stop = tl.load(token_start + token + 1, mask=inside, other=0)
        longest = W if ONE_PIECE else tl.max(stop - start)
        for piece in range(0, longest, W):
            at = start[:, None] + piece + tl.arange(0, W)[None, :]
            stored = at < stop[:, None]
            # Far more of these pass by than the cache holds: leave it to the accumulators.
            column = tl.load(token_column + at, mask=stored, other=0, eviction_policy="evict_first")
            y = tl.load(token_value + at, mask=stored, other=0.0, eviction_policy="evict_first").to(
                tl.float64
            )
            product = tl.floor(x[:, None] * y + 0.5).to(tl.int64)
            tl.atomic_add(own + column, product, mask=stored, sem="relaxed")


@triton.jit
def _select(  # type: ignore[no-untyped-def]
    own,
    row,
    row_mean,
    row_inverse_sd,
    row_id,
    column_mean,
    column_inverse_sd,
    column_id,
    best_rows,
    best_columns,
    row_stride,
    column_stride,
    n_columns,
    n_tokens,
    unit,
    K: tl.constexpr,
    STRIP: tl.constexpr,
):
    """Turn the sums of a row into r, keep the best of it and of all columns, clear the sums."""
    mean, inverse_sd = tl.load(row_mean + row), tl.load(row_inverse_sd + row)
    as_partner = LAST - tl.load(row_id + row)
    kept_at = best_rows + tl.arange(0, K) * row_stride + row
    kept = tl.load(kept_at)
    least = tl.min(kept)
    for begin in range(0, n_columns, STRIP):
        column = begin + tl.arange(0, STRIP)
        inside = column < n_columns
        total = tl.load(own + column, mask=inside, other=0, cache_modifier=".cg")
        tl.debug_barrier()  # a thread may clear what another one reads
        tl.store(own + column, tl.zeros_like(total), mask=inside)
        centre = mean * tl.load(column_mean + column, mask=inside, other=0.0)
        r = (total.to(tl.float64) * unit / n_tokens - centre) * inverse_sd
        r *= tl.load(column_inverse_sd + column, mask=inside, other=0.0)
        r = tl.minimum(tl.maximum(r, -1.0), 1.0).to(tl.float32)
        bits = tl.where(r == 0.0, 0.0, r).to(tl.int32, bitcast=True)  # -0 equals 0
        above = tl.where(bits < 0, bits ^ LAST, bits).to(tl.int64) << LOW

        candidates = above | (LAST - tl.load(column_id + column, mask=inside, other=0))
        candidates = tl.where(inside, candidates, NONE)
        best = tl.max(candidates)
        while best > least:
            kept = tl.where(kept == least, best, kept)
            least = tl.min(kept)
            candidates = tl.where(candidates == best, NONE, candidates)
            best = tl.max(candidates)

        offered = above | as_partner
        levels = best_columns + column
        lowest = tl.load(
            levels + (K - 1) * column_stride, mask=inside, other=0, cache_modifier=".cg"
        )
        better = inside & (offered > lowest)
        for level in tl.static_range(K):
            before = tl.atomic_max(
                levels + level * column_stride, offered, mask=better, sem="relaxed"
            )
            offered = tl.minimum(offered, before)
    tl.store(kept_at, kept)


@triton.jit(do_not_specialize=["row_stride", "column_stride", "n_rows", "n_columns", "n_tokens"])
def sweep_kernel(  # type: ignore[no-untyped-def]
    row_start,
    row_token,
    row_value,
    row_mean,
    row_inverse_sd,
    row_id,
    token_start,
    token_column,
    token_value,
    column_mean,
    column_inverse_sd,
    column_id,
    best_rows,
    best_columns,
    row_stride,
    column_stride,
    sums,
    queue,
    meets,
    n_rows,
    n_columns,
    n_tokens,
    scale,
    unit,
    K: tl.constexpr,
    T: tl.constexpr,
    W: tl.constexpr,
    ONE_PIECE: tl.constexpr,
    STRIP: tl.constexpr,
):
    """Rows from a queue; `sums` (programs, columns) and `queue` come in as zeros."""
    own = sums + tl.program_id(0).to(tl.int64) * n_columns
    row = tl.program_id(0)
    while row < n_rows:
        _accumulate(
            own,
            row,
            row_start,
            row_token,
            row_value,
            token_start,
            token_column,
            token_value,
            meets,
            scale,
            T,
            W,
            ONE_PIECE,
        )
        tl.debug_barrier()  # all of the row is added before any of it is read
        _select(
            own,
            row,
            row_mean,
            row_inverse_sd,
            row_id,
            column_mean,
            column_inverse_sd,
            column_id,
            best_rows,
            best_columns,
            row_stride,
            column_stride,
            n_columns,
            n_tokens,
            unit,
            K,
            STRIP,
        )
        tl.debug_barrier()  # all is cleared before the next row adds
        row = tl.num_programs(0) + tl.atomic_add(queue, 1, sem="relaxed")


@triton.jit(do_not_specialize=["dense_stride", "n_columns"])
def dense_kernel(  # type: ignore[no-untyped-def]
    row_start,
    row_token,
    row_value,
    dense,
    out,
    meets,
    dense_stride,
    n_columns,
    T: tl.constexpr,
    W: tl.constexpr,
):
    """out[row, column] = sum of x dense[token, column] over the entries (token, x) of a row."""
    row = tl.program_id(0).to(tl.int64)
    column = tl.program_id(1) * W + tl.arange(0, W)
    total = tl.zeros((T, W), tl.float64)
    last = tl.load(row_start + row + 1)
    for begin in range(tl.load(row_start + row), last, T):
        entry = begin + tl.arange(0, T)
        inside = entry < last
        x = tl.load(row_value + entry, mask=inside, other=0.0).to(tl.float64)
        token = tl.load(
            meets + tl.load(row_token + entry, mask=inside, other=0), mask=inside, other=0
        ).to(tl.int64)
        at = dense + token[:, None] * dense_stride + column[None, :]
        total += x[:, None] * tl.load(
            at, mask=inside[:, None] & (column < n_columns)[None, :], other=0.0
        )
    tl.store(out + row * n_columns + column, tl.sum(total, axis=0), mask=column < n_columns)
