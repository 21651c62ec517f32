"""`max_pearson` on a CUDA device (Triton): the k best of all features of both sides in one pass.

The equation is that of `pearson`; what is multiplied with what follows the split of
`columns.prepare`:

* sparse x sparse, `sweep_kernel`.  One program per multiprocessor stays there and takes one row (a
  sparse feature of the left side) after the other from a queue, frequent rows first.  For every
  token of the row it adds value x (the other side's entries of that token) into accumulators of its
  own, one per column, in a scratch area meant to stay in the second-level cache: 24,576 columns x 8
  bytes = 196 KB per program.  Then it walks over the columns once, turns sums into r, selects and
  clears.
* sparse x dense, `dense_kernel`: float64 sums of gathered dense rows.
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

Kernels: `gpu_kernels`; what lies on the device: `resident`.  With TRITON_INTERPRET=1 all of it runs
on CPU tensors, slowly, for tests.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from typing import Any

import numpy as np
import torch
import triton  # pyright: ignore[reportMissingImports]
from torch import Tensor

from homolog.matching.columns import Columns, ReorderedEntries
from homolog.matching.gpu_kernels import LAST, LOW, NONE, dense_kernel, sweep_kernel
from homolog.matching.resident import Resident, kept, on_device

TILE = 4096  # entries added at once by a program of the sweep: 8 a thread, 16 do not fit registers
WIDEST = 64  # of them, at most so many of one token
STRIP = 4096  # columns selected at once
WARPS = 16
GATHERED = 2048  # entries at once of a program of sparse x dense
DENSE_BLOCK = 4096  # columns of a block
BLOCK_SUMS = 1 << 24  # sums of a block: 128 MiB
CHUNK_BYTES = 512 << 20  # float64 copy of one side in a matrix product

BestArrays = tuple[np.ndarray, np.ndarray]  # r float32 (features, k), index int64 (features, k)


def best_pairs(
    left: Columns, right: Columns, k: int, device: str, *, programs: int | None = None
) -> tuple[BestArrays, BestArrays]:
    """The k largest r of every feature of `left` with features of `right`, and the reverse.

    Each side: r float32 (features, k), best first, and index int64 (features, k), the feature of
    the other side; NaN and -1 where undefined.  Ties, after rounding to float32, go to the lowest
    index.  left, right: of one number of tokens.  device: of CUDA; with TRITON_INTERPRET=1 also
    "cpu".  programs: of the sweep (default: one per multiprocessor); the result does not depend on
    it.

    A side stays on the device for as long as its `Columns` live, because a layer meets many others;
    columns that were reordered use the copy of those they come from.  When memory runs out, all
    copies are dropped and the two at hand are made again; torch.OutOfMemoryError when these alone
    do not fit.
    """
    place = torch.device(device)
    (left, rows_left), (right, rows_right) = _plain(left), _plain(right)
    meets = np.empty_like(rows_left)
    meets[rows_left] = rows_right
    try:
        return _best_pairs(on_device(left, place), on_device(right, place), k, meets, programs)
    except torch.OutOfMemoryError:
        kept.clear()
    return _best_pairs(on_device(left, place), on_device(right, place), k, meets, programs)


def _plain(columns: Columns) -> tuple[Columns, np.ndarray]:
    """The columns that these were reordered from, and the token there of each of theirs, int32."""
    entries = columns.entries
    if isinstance(entries, ReorderedEntries):
        return entries.plain, entries.rows.astype(np.int32)
    return columns, np.arange(columns.n_tokens, dtype=np.int32)


def _best_pairs(
    left: Resident, right: Resident, k: int, meets: np.ndarray, programs: int | None
) -> tuple[BestArrays, BestArrays]:
    best_left, best_right = _no_candidates(left, k), _no_candidates(right, k)
    if len(left.order) and len(right.order):
        device = left.order.device
        ahead = torch.tensor(meets, device=device)
        back = torch.tensor(np.argsort(meets).astype(np.int32), device=device)
        with _current(device):
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
    """Sparse columns against sparse ones; token t of `rows` meets token meets[t] of `others`."""
    if not rows.n_sparse or not others.n_sparse:
        return
    device, own, part = rows.order.device, slice(rows.n_dense, None), slice(others.n_dense, None)
    programs = min(programs or _programs(device), rows.n_sparse)
    width = min(WIDEST, triton.next_power_of_2(max(1, others.fullest)))
    bound = rows.n_tokens * float(rows.rms[own].max() * others.rms[part].max())
    exponent = 62 - int(np.frexp(bound)[1])
    sweep_kernel[(programs,)](  # pyright: ignore[reportIndexIssue]
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
    """One per multiprocessor, whose registers it fills.

    So all run at once, and none waits with a frequent row as its first.
    """
    if device.type != "cuda":
        return 4
    return torch.cuda.get_device_properties(device).multi_processor_count


def _sparse_by_dense(
    rows: Resident, others: Resident, meets: Tensor, best_rows: Tensor, best_others: Tensor
) -> None:
    """Sparse columns of `rows` against the dense ones of `others`."""
    start, token, value = rows.by_column
    for block, part in _blocks(rows.n_sparse, others.n_dense):
        n_rows, n_columns = block.stop - block.start, part.stop - part.start
        sums = torch.empty((n_rows, n_columns), dtype=torch.float64, device=value.device)
        width = min(WIDEST, triton.next_power_of_2(n_columns))
        dense_kernel[(n_rows, triton.cdiv(n_columns, width))](  # pyright: ignore[reportIndexIssue]
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
    """Best so far, int64 (k rounded up to a power of two, defined features), below all r.

    Distinct and descending.
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
    """Merge a block of sums, float64 (rows, columns), into the best of both sides.

    The same steps as `gpu_kernels._select`.
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


def _decode(best: Tensor, columns: Resident, k: int) -> BestArrays:
    best = best.sort(dim=0, descending=True).values[:k].T
    above = best >> LOW.value
    bits = torch.where(above < 0, above ^ LAST.value, above).to(torch.int32)
    defined = above > torch.iinfo(torch.int32).min
    r = torch.full((columns.n_features, k), torch.nan, device=best.device)
    index = torch.full((columns.n_features, k), -1, device=best.device)
    r[columns.order] = torch.where(defined, bits.view(torch.float32), torch.nan)
    index[columns.order] = torch.where(defined, LAST.value - (best & LAST.value), -1)
    return r.cpu().numpy(), index.cpu().numpy()


def _current(device: torch.device) -> Any:
    """Triton launches on the current device, which may be another one."""
    return torch.cuda.device(device) if device.type == "cuda" else contextlib.nullcontext()
