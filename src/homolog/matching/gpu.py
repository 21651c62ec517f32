"""`max_pearson` on a CUDA device (Triton): the k best of every feature of both sides from one pass
over a pair.

The equation is that of `pearson`; what is multiplied with what follows the split of
`columns.prepare`:

* sparse x sparse, `_sweep_kernel`.  A program a multiprocessor stays there and takes one row (a sparse feature of the
  left side) after the other from a queue, frequent rows first.  For every token of the row it adds
  value x (the other side's entries of that token) into accumulators of its own, one a column, in a
  scratch area meant to stay in the second-level cache: 24,576 columns x 8 bytes = 196 KB a
  program.  Then it walks over the columns once, turns sums into r, selects and clears.
* sparse x dense, `_dense_kernel`: float64 sums of gathered dense rows.
* dense x dense: float64 matrix products.

Fixed point.  The accumulators are int64, and atomic additions of integers give one result in any
order, so neither the order of threads nor the number of programs can change a bit.  A product of
two float32 values is exact in float64; it is multiplied by 2^s and rounded to an integer.  By
Cauchy-Schwarz no partial sum exceeds

    sum_t |x_it y_jt| <= n max_i sqrt(E[x_i^2]) max_j sqrt(E[y_j^2]) < 2^e,        s = 62 - e

so nothing overflows.  Sparse columns have density <= 1/8 and values of at most 1, thus s >= 45 at a
million tokens and a product is rounded by at most 2^-46.  With c joint activations r moves by at
most c 2^-(s+1) / (n sd_i sd_j); the largest value of a column is at least 1/2, so sd^2 >= 7 / (32
n), and the worst that can be built is 1e-8.  Features as they are come to about 1e-13; float32
resolves 6e-8.

Selection. A candidate is one int64: r as float32, its bits made monotone, above 2^31 - 1 - index.
Larger is better, a tie of r goes to the lowest index, and no two candidates of a feature are
equal.  A row's best stay in registers.  A column's best are shared by all programs, K levels in
descending order: an atomic maximum at a level leaves the larger there and hands the smaller down.
Each level so keeps the largest of all that ever reached it, in whatever order they came; what is
not above the last level need not be offered, because levels only rise.

With TRITON_INTERPRET=1 all of it runs on CPU tensors, slowly, for tests.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any
from weakref import WeakKeyDictionary

import numpy as np
import torch
import triton  # pyright: ignore[reportMissingImports]
import triton.language as tl  # pyright: ignore[reportMissingImports]
from torch import Tensor

from homolog.matching.columns import Columns

TILE = (
    4096  # entries added at once by a program of the sweep: 8 a thread, 16 do not fit its registers
)
WIDEST = 64  # of them, at most so many of one token
STRIP = 4096  # columns selected at once
WARPS = 16
GATHERED = 2048  # entries at once of a program of sparse x dense
DENSE_BLOCK = 4096  # columns of a block
BLOCK_SUMS = 1 << 24  # sums of a block: 128 MiB
CHUNK_BYTES = 512 << 20  # float64 copy of one side in a matrix product

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
    """own[column] += x y, in fixed point, over the entries (token, x) of a row and (column, y) of
    these tokens.
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
    """Turn the sums of a row into r, keep the best of the row and of every column, clear the sums."""
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
def _sweep_kernel(  # type: ignore[no-untyped-def]
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
    """Rows from a queue; `sums` (programs, columns) and `queue` come in as zeros, and `sums` is
    left so.
    """
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
def _dense_kernel(  # type: ignore[no-untyped-def]
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
    """out[row, column] = sum over the entries (token, x) of a row of x dense[token, column],
    float64.
    """
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


@dataclass(frozen=True, eq=False)
class Resident:
    """`Columns` on a device: the same numbers, with the sparse part in both orders."""

    n_tokens: int
    n_features: int
    order: Tensor  # int64
    mean: Tensor  # float64
    inverse_sd: Tensor  # float64
    dense: Tensor  # float32 (tokens, dense)
    by_token: tuple[Tensor, ...]  # start int64 (tokens + 1), column int32, value float32
    by_column: tuple[Tensor, ...]  # start int64 (sparse + 1), token int32, value float32
    fullest: int  # sparse entries of the token that has most

    @property
    def n_dense(self) -> int:
        return self.dense.shape[1]

    @property
    def n_sparse(self) -> int:
        return len(self.order) - self.n_dense

    @cached_property
    def rms(self) -> Tensor:
        """sqrt(E[x^2]) of every defined column."""
        return (self.inverse_sd**-2 + self.mean**2).sqrt()

    @classmethod
    def upload(cls, columns: Columns, device: torch.device) -> Resident:
        """Copy the sparse entries in the order at hand, best as the user gave them; make the other
        on the device.
        """
        if columns.source is not None:
            by_token = _numbered(columns, device)
            by_column = _transposed(by_token, columns.n_sparse)
        elif "packed" in columns.__dict__:
            by_token = _copied(columns.by_token, device)
            by_column = _transposed(by_token, columns.n_sparse)
        else:
            by_column = _copied(columns.by_column, device)
            by_token = _transposed(by_column, columns.n_tokens)
        order, mean, inverse_sd, dense = _copied(
            (columns.order, columns.mean, columns.inverse_sd, columns.dense), device
        )
        return cls(
            columns.n_tokens,
            columns.n_features,
            order,
            mean,
            inverse_sd,
            dense,
            by_token,
            by_column,
            fullest=int(by_token[0].diff().max()) if columns.n_tokens else 0,
        )


def _copied(arrays: Sequence[np.ndarray], device: torch.device) -> tuple[Tensor, ...]:
    return tuple(torch.tensor(array, device=device) for array in arrays)


def _numbered(columns: Columns, device: torch.device) -> tuple[Tensor, ...]:
    """The user's matrix with its columns numbered and scaled as in `columns`: (start, column,
    value).
    """
    source: Any = columns.source
    arrays = source.csr.indptr, source.csr.indices, source.csr.data, source.number, source.factor
    start, index, data, number, factor = _copied(arrays, device)
    column = number[index.long()]
    stored = column >= 0
    column = column[stored]
    value = (data[stored].double() * factor[column.long()]).float()
    before = torch.cat([stored.new_zeros(1, dtype=torch.int64), stored.cumsum(0)])
    return before[start.long()], column, value


def _transposed(entries: tuple[Tensor, ...], n: int) -> tuple[Tensor, ...]:
    """(start, number, value) by rows as the same by the n columns, or the reverse; ascending within
    each.
    """
    start, number, value = entries
    row = torch.arange(len(start) - 1, dtype=torch.int32, device=start.device)
    row = row.repeat_interleave(start.diff(), output_size=len(number))
    ascending, place = number.sort(stable=True)
    bounds = torch.arange(n + 1, dtype=number.dtype, device=start.device)
    return torch.searchsorted(ascending, bounds), row[place], value[place]


Found = tuple[np.ndarray, np.ndarray]  # r float32 (features, k), index int64 (features, k)

_resident: WeakKeyDictionary[Columns, Resident] = WeakKeyDictionary()


def best_pairs(
    left: Columns, right: Columns, k: int, device: str, *, programs: int | None = None
) -> tuple[Found, Found]:
    """The k largest r of every feature of `left` with features of `right`, and the reverse.

    Each side: r float32 (features, k), best first, and index int64 (features, k), the feature of
    the other side; NaN and -1 where undefined.  Ties, after rounding to float32, go to the lowest
    index.  left, right: of one number of tokens.  device: of CUDA; with TRITON_INTERPRET=1 also
    "cpu".  programs: of the sweep (default: one a multiprocessor); the result does not depend on
    it.

    A side stays on the device for as long as its `Columns` live, because a layer meets many others;
    columns that were reordered use the copy of those they come from.  When memory runs out, all
    copies are dropped and the two at hand are made again; torch.OutOfMemoryError when these alone
    do not fit.
    """
    place, meets = torch.device(device), _meetings(left, right)
    left, right = left.plain or left, right.plain or right
    try:
        return _best_pairs(_on_device(left, place), _on_device(right, place), k, meets, programs)
    except torch.OutOfMemoryError:
        _resident.clear()
    return _best_pairs(_on_device(left, place), _on_device(right, place), k, meets, programs)


def _meetings(left: Columns, right: Columns) -> np.ndarray:
    """For each token of the copy of `left` the token of the copy of `right` that it meets, int32."""
    meets = np.arange(left.n_tokens, dtype=np.int32)
    to = meets if right.rows is None else right.rows
    meets[slice(None) if left.rows is None else left.rows] = to.copy()
    return meets


def _on_device(columns: Columns, device: torch.device) -> Resident:
    found = _resident.get(columns)
    if (
        found is None
        or found.order.device.type != device.type
        or device.index not in (None, found.order.device.index)
    ):
        found = _resident[columns] = Resident.upload(columns, device)
    return found


def _best_pairs(
    left: Resident, right: Resident, k: int, meets: np.ndarray, programs: int | None
) -> tuple[Found, Found]:
    best_left, best_right = _no_candidates(left, k), _no_candidates(right, k)
    if len(left.order) and len(right.order):
        ahead, back = (
            torch.tensor(table, device=left.order.device) for table in (meets, np.argsort(meets))
        )
        back = back.int()
        with _current(left.order.device):
            _sweep(left, right, ahead, best_left, best_right, programs)
            _sparse_by_dense(left, right, ahead, best_left, best_right)
            _sparse_by_dense(right, left, back, best_right, best_left)
            _dense_by_dense(left, right, back, best_left, best_right)
    return _decode(best_left, left, k), _decode(best_right, right, k)


def _sweep(
    rows: Resident,
    others: Resident,
    meets: Tensor,
    best_rows: Tensor,
    best_others: Tensor,
    programs: int | None,
) -> None:
    """Sparse columns of `rows` against those of `others`; token t of `rows` meets token meets[t] of
    `others`.
    """
    if not rows.n_sparse or not others.n_sparse:
        return
    device, own, part = rows.order.device, slice(rows.n_dense, None), slice(others.n_dense, None)
    programs = min(programs or _programs(device), rows.n_sparse)
    width = min(WIDEST, triton.next_power_of_2(max(1, others.fullest)))
    bound = rows.n_tokens * float(rows.rms[own].max() * others.rms[part].max())
    exponent = 62 - int(np.frexp(bound)[1])
    _sweep_kernel[(programs,)](  # pyright: ignore[reportIndexIssue]
        *(*rows.by_column, rows.mean[own], rows.inverse_sd[own], rows.order[own]),
        *(*others.by_token, others.mean[part], others.inverse_sd[part], others.order[part]),
        *(best_rows[:, own], best_others[:, part], best_rows.stride(0), best_others.stride(0)),
        torch.zeros((programs, others.n_sparse), dtype=torch.int64, device=device),
        torch.zeros(1, dtype=torch.int32, device=device),
        *(meets, rows.n_sparse, others.n_sparse, rows.n_tokens, 2.0**exponent, 2.0**-exponent),
        K=len(best_rows),
        T=max(1, TILE // width),
        W=width,
        ONE_PIECE=others.fullest <= width,
        STRIP=STRIP,
        num_warps=WARPS,
        enable_fp_fusion=False,  # r is rounded as on the processor
    )


def _programs(device: torch.device) -> int:
    """One a multiprocessor, whose registers it fills: all run at once, none waits with a frequent
    row as its first.
    """
    return (
        torch.cuda.get_device_properties(device).multi_processor_count
        if device.type == "cuda"
        else 4
    )


def _sparse_by_dense(
    rows: Resident, others: Resident, meets: Tensor, best_rows: Tensor, best_others: Tensor
) -> None:
    """Sparse columns of `rows` against the dense ones of `others`."""
    start, token, value = rows.by_column
    for block, part in _blocks(rows.n_sparse, others.n_dense):
        n_rows, n_columns = block.stop - block.start, part.stop - part.start
        sums = torch.empty((n_rows, n_columns), dtype=torch.float64, device=value.device)
        width = min(WIDEST, triton.next_power_of_2(n_columns))
        _dense_kernel[(n_rows, triton.cdiv(n_columns, width))](  # pyright: ignore[reportIndexIssue]
            *(start[block.start :], token, value, others.dense[:, part], sums),
            *(meets, others.n_dense, n_columns),
            T=GATHERED // width,
            W=width,
            enable_fp_fusion=True,  # the products are exact
        )
        own = slice(block.start + rows.n_dense, block.stop + rows.n_dense)
        _keep_best(sums, rows, own, best_rows, others, part, best_others)


def _dense_by_dense(
    left: Resident, right: Resident, back: Tensor, best_left: Tensor, best_right: Tensor
) -> None:
    """Dense columns against dense columns; token t of `right` meets token back[t] of `left`."""
    n_tokens, device = left.n_tokens, left.order.device
    for rows, columns in _blocks(left.n_dense, right.n_dense):
        x, y = left.dense[:, rows], right.dense[:, columns]
        sums = torch.zeros((x.shape[1], y.shape[1]), dtype=torch.float64, device=device)
        chunk = max(1, CHUNK_BYTES // (8 * max(sums.shape)))
        for begin in range(0, n_tokens, chunk):
            here = slice(begin, min(begin + chunk, n_tokens))
            sums.addmm_(x[back[here].long()].double().T, y[here].double())
        _keep_best(sums, left, rows, best_left, right, columns, best_right)


def _blocks(n_rows: int, n_columns: int) -> Iterator[tuple[slice, slice]]:
    width = min(DENSE_BLOCK, max(1, n_columns))
    height = BLOCK_SUMS // width
    for row in range(0, n_rows, height):
        for column in range(0, n_columns, width):
            yield (
                slice(row, min(row + height, n_rows)),
                slice(column, min(column + width, n_columns)),
            )


def _no_candidates(columns: Resident, k: int) -> Tensor:
    """Best so far, int64 (k rounded up to a power of two, defined features), descending: distinct,
    below all r.
    """
    levels = torch.arange(triton.next_power_of_2(k), device=columns.order.device).flip(0)
    return (NONE.value + levels)[:, None].repeat(1, len(columns.order))


def _keep_best(
    sums: Tensor,
    left: Resident,
    rows: slice,
    best_left: Tensor,
    right: Resident,
    columns: slice,
    best_right: Tensor,
) -> None:
    """Merge a block of sums, float64 (rows, columns), into the best of both sides; the same steps
    as `_select`.
    """
    r = sums / left.n_tokens - left.mean[rows, None] * right.mean[columns]
    r = (r * left.inverse_sd[rows, None] * right.inverse_sd[columns]).clamp(-1, 1).float()
    bits = torch.where(r == 0, 0.0, r).view(torch.int32)
    above = torch.where(bits < 0, bits ^ LAST.value, bits).long() << LOW.value
    for best, part, candidates in (
        (best_left, rows, above | (LAST.value - right.order[columns])),
        (best_right, columns, (above | (LAST.value - left.order[rows])[:, None]).T),
    ):
        joined = torch.cat([best[:, part].T, candidates], dim=1)
        best[:, part] = joined.topk(len(best), dim=1).values.T


def _decode(best: Tensor, columns: Resident, k: int) -> Found:
    best = best.sort(dim=0, descending=True).values[:k].T
    above = best >> LOW.value
    bits = torch.where(above < 0, above ^ LAST.value, above).to(torch.int32)
    found = above > torch.iinfo(torch.int32).min
    r = torch.full((columns.n_features, k), torch.nan, device=best.device)
    index = torch.full((columns.n_features, k), -1, device=best.device)
    r[columns.order] = torch.where(found, bits.view(torch.float32), torch.nan)
    index[columns.order] = torch.where(found, LAST.value - (best & LAST.value), -1)
    return r.cpu().numpy(), index.cpu().numpy()


def _current(device: torch.device) -> Any:
    """Triton launches on the current device, which may be another one."""
    return torch.cuda.device(device) if device.type == "cuda" else contextlib.nullcontext()
