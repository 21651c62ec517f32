"""Exact maximum of Pearson correlations between two sets of features, in blocks.

For features x_i of A and y_j of B over the same n tokens

    r_ij = (sum_t x_it y_jt / n - mean_i mean_j) / (sd_i sd_j)

and `max_pearson` returns, for every i, the k largest r_ij over j and where they are, and for every j the k
largest over i, from one pass over the pair.  With k = 1 over all layers of the other model this is MPPC [Wang
2025], signed.

Each side is split into dense and sparse columns (`columns.prepare`).  Three kinds of blocks follow:
sparse rows x all columns (scatter kernel, `kernels.sweep`), the dense columns x the other's sparse rows (same
kernel, roles swapped), dense x dense (float64 products, by BLAS where there are many).  The largest array has
`BLOCK_BYTES`; features_a x features_b is never held.
"""

from __future__ import annotations

from dataclasses import dataclass

import numba
import numpy as np
from jaxtyping import Float, Int

from homolog.errors import InputError
from homolog.matching.columns import ArrayLike, Columns, prepare
from homolog.matching.kernels import NO_INDEX, dense_products, group_rows, merge, select, sweep

BLOCK_BYTES = 512 << 10  # accumulators of one thread: half of a 1 MiB second-level cache
DENSE_BLOCK = 1024  # columns of a dense block: 8 MiB of float64 sums
FEW_DENSE = 128  # up to here a compiled loop, above a BLAS product, whose threads wait for each other
CHUNK_BYTES = 32 << 20  # float64 copy of one side in a matrix product: few, long products


@dataclass(frozen=True)
class Side:
    """The k best partners of each feature of one side, best first.

    r: float32 (features, k), NaN where undefined.  index: int64 (features, k), feature of the other side, -1
    where undefined.  Undefined: the feature is constant on these tokens, or the other side has fewer than k
    features that are not.
    """

    r: Float[np.ndarray, "features k"]
    index: Int[np.ndarray, "features k"]

    @property
    def n_undefined(self) -> int:
        """Number of features without any defined correlation."""
        return int(np.isnan(self.r[:, 0]).sum())


@dataclass(frozen=True)
class Best:
    """Both directions: for the features of A the best of B, and for the features of B the best of A."""

    a_to_b: Side
    b_to_a: Side


def max_pearson(a: ArrayLike | Columns, b: ArrayLike | Columns, k: int = 1, *, threads: int | None = None) -> Best:
    """The k largest Pearson correlations of every feature of `a` with features of `b`, and the reverse.

    a, b: (tokens, features_a), (tokens, features_b); scipy.sparse matrices, dense numpy or torch arrays of
    any real dtype, in any mix, or what `prepare` made of them.  Row t of both must be the same token.
    k: how many partners.  threads: CPU threads of the sparse kernels (default: numba's); the result does not
    depend on it.

    Within 1e-6 of float64 `numpy.corrcoef`.  Ties, after rounding to float32, go to the lowest index.
    Raises InputError when the numbers of tokens differ, when k < 1, or for NaN and infinity.
    """
    if k < 1:
        raise InputError("k", k, "at least one partner must be asked for", "Give k=1 for the maximum.")
    left, right = prepare(a, "a"), prepare(b, "b")
    if left.n_tokens != right.n_tokens:
        raise InputError(
            "tokens of a and b",
            (left.n_tokens, right.n_tokens),
            f"row t of a ({left.n_tokens} tokens) and of b ({right.n_tokens} tokens) must be the same token",
            "Encode both on the same token stream with the same mask.",
        )
    n_threads = numba.get_num_threads() if threads is None else threads
    best_a, best_b = _Running.start(len(left.order), k), _Running.start(len(right.order), k)
    before = numba.get_num_threads()
    numba.set_num_threads(min(n_threads, before))
    try:
        _sweep(left, right, slice(None), best_a, best_b, n_threads)
        _sweep(right, left, slice(left.n_dense), best_b, best_a, n_threads)
        _dense_by_dense(left, right, best_a, best_b)
    finally:
        numba.set_num_threads(before)
    return Best(best_a.finish(left), best_b.finish(right))


@dataclass(frozen=True)
class _Running:
    """Best so far of the defined features, in the order of `Columns.order`; updated in place."""

    r: np.ndarray
    index: np.ndarray

    @classmethod
    def start(cls, *shape: int) -> _Running:
        return cls(np.full(shape, -np.inf, dtype=np.float32), np.full(shape, NO_INDEX, dtype=np.int64))

    def finish(self, columns: Columns) -> Side:
        shape = (columns.n_features, self.r.shape[1])
        r, index = np.full(shape, np.nan, dtype=np.float32), np.full(shape, -1, dtype=np.int64)
        found = self.index != NO_INDEX
        r[columns.order] = np.where(found, self.r, np.nan)
        index[columns.order] = np.where(found, self.index, -1)
        return Side(r, index)


def _sweep(
    rows: Columns,
    others: Columns,
    part: slice,
    best_rows: _Running,
    best_others: _Running,
    n_threads: int,
) -> None:
    """Sparse columns of `rows` against the columns `part` of `others`: all, or the dense ones alone."""
    column_id = others.order[part]
    if not rows.n_sparse or not len(column_id):
        return
    sparse_too = len(column_id) > others.n_dense
    fitting = max(1, BLOCK_BYTES // (8 * len(column_id)))
    n_blocks = min(rows.n_sparse, max(-(-rows.n_sparse // fitting), n_threads))
    entries = group_rows(rows.indptr, rows.indices, rows.data, rows.n_sparse, n_blocks)
    own = slice(rows.n_dense, None)
    seen = _Running.start(n_threads, len(column_id), best_rows.r.shape[1])
    sweep(
        *entries,
        rows.mean[own],
        rows.inverse_sd[own],
        rows.order[own],
        -(-rows.n_sparse // n_blocks),
        others.dense,
        others.indptr if sparse_too else np.zeros_like(others.indptr),
        others.indices,
        others.data,
        others.mean[part],
        others.inverse_sd[part],
        column_id,
        n_threads,
        best_rows.r[own],
        best_rows.index[own],
        seen.r,
        seen.index,
    )
    merge(seen.r, seen.index, best_others.r[part], best_others.index[part])


def _dense_by_dense(left: Columns, right: Columns, best_left: _Running, best_right: _Running) -> None:
    for row in range(0, left.n_dense, DENSE_BLOCK):
        rows = slice(row, min(row + DENSE_BLOCK, left.n_dense))
        for column in range(0, right.n_dense, DENSE_BLOCK):
            columns = slice(column, min(column + DENSE_BLOCK, right.n_dense))
            sums = np.zeros((rows.stop - rows.start, columns.stop - columns.start))
            if max(sums.shape) <= FEW_DENSE:
                dense_products(left.dense[:, rows], right.dense[:, columns], sums)
            else:
                _matrix_products(left.dense[:, rows], right.dense[:, columns], sums)
            select(
                sums,
                left.n_tokens,
                left.mean[rows],
                left.inverse_sd[rows],
                left.order[rows],
                right.mean[columns],
                right.inverse_sd[columns],
                right.order[columns],
                best_left.r[rows],
                best_left.index[rows],
                best_right.r[columns],
                best_right.index[columns],
            )


def _matrix_products(x: np.ndarray, y: np.ndarray, sums: np.ndarray) -> None:
    chunk = CHUNK_BYTES // (8 * max(sums.shape))
    for start in range(0, len(x), chunk):
        tokens = slice(start, start + chunk)
        sums += x[tokens].astype(np.float64).T @ y[tokens].astype(np.float64)
