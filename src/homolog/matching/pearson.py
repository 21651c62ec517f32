"""Exact maximum of Pearson correlations between two sets of features, in blocks.

For features x_i of A and y_j of B over the same n tokens

    r_ij = (sum_t x_it y_jt / n - mean_i mean_j) / (sd_i sd_j)

and `max_pearson` returns, for every i, the k largest r_ij over j and where they are, and for every
j the k largest over i, from one pass over the pair.  With k = 1 over all layers of the other model
this is MPPC [Wang 2025], signed.

Each side is split into dense and sparse columns (`columns.prepare`).  Three kinds of products
follow: sparse by sparse, where one row of A after the other collects its products with all of B
(`kernels.sparse_by_sparse_best`); sparse by dense, both ways; dense by dense (float64 products, by
BLAS where there are many).  A row of accumulators, or a block of `DENSE_BLOCK` columns, is the
largest array; features_a x features_b is never held.
"""

from __future__ import annotations

from dataclasses import dataclass

import numba
import numpy as np
import torch
from jaxtyping import Float, Int

from homolog.errors import InputError
from homolog.matching import kernels
from homolog.matching.columns import ArrayLike, Columns, prepare
from homolog.matching.kernels import NO_INDEX, Facts, Running
from homolog.threads import library_threads

SPARSE_BY_DENSE = 16  # dense columns met at once by sparse ones
DENSE_BLOCK = 1024  # columns of a dense block: 8 MiB of float64 sums
FEW_DENSE = 128  # up to here a compiled loop, above a BLAS product, whose threads wait
CHUNK_BYTES = 32 << 20  # float64 copy of one side in a matrix product: few, long products


@dataclass(frozen=True)
class Partners:
    """The k best partners of each feature of one side, best first.

    r: float32 (features, k), NaN where undefined.  index: int64 (features, k), feature of the other
    side, -1 where undefined.  Undefined: the feature is constant on these tokens, or the other side
    has fewer than k features that are not.
    """

    r: Float[np.ndarray, "features k"]
    index: Int[np.ndarray, "features k"]


@dataclass(frozen=True)
class Best:
    """Both directions: for the features of A the best of B, for those of B the best of A."""

    a_to_b: Partners
    b_to_a: Partners


def max_pearson(
    a: ArrayLike | Columns,
    b: ArrayLike | Columns,
    k: int = 1,
    *,
    threads: int | None = None,
    device: str = "cpu",
) -> Best:
    """The k largest Pearson correlations of every feature with those of the other side.

    a, b: (tokens, features_a), (tokens, features_b); scipy.sparse matrices, dense numpy or torch
    arrays of any real dtype, in any mix, or what `prepare` made of them.  Row t of both must be the
    same token.
    k: how many partners.  threads: CPU threads of the sparse kernels (default: numba's); the result
    does not depend on it.  device: "cuda", "cuda:1" for the same on a GPU (`matching.gpu`); "cpu"
    and "mps" compute on the CPU.

    Within 1e-6 of float64 `numpy.corrcoef`.  Ties, after rounding to float32, go to the lowest
    index. Raises InputError when the numbers of tokens differ, when k or threads < 1, for a device
    that is none, and for NaN and infinity.
    """
    if k < 1:
        requirement = "at least one partner must be asked for"
        raise InputError("k", k, requirement, "Give k=1 for the maximum.")
    if threads is not None and threads < 1:
        requirement = "at least one is needed"
        raise InputError("threads", threads, requirement, "Leave it out for all processors.")
    if device.split(":")[0] not in ("cpu", "mps", "cuda"):
        requirement = "it is the name of no device"
        raise InputError("device", device, requirement, "Give cpu, cuda or cuda:1.")
    left, right = prepare(a, "a"), prepare(b, "b")
    if left.n_tokens != right.n_tokens:
        both = left.n_tokens, right.n_tokens
        rows = "row t of a ({} tokens) and of b ({} tokens) must be the same token".format(*both)
        remedy = "Encode both on the same token stream with the same mask."
        raise InputError("tokens of a and b", both, rows, remedy)
    if device.startswith("cuda"):
        return Best(*(Partners(*partners) for partners in _on_gpu(left, right, k, device)))
    n_threads = numba.get_num_threads() if threads is None else threads
    best_a, best_b = Running.start(len(left.order), k), Running.start(len(right.order), k)
    with library_threads(min(n_threads, numba.get_num_threads()), "numba"):
        _sparse_by_sparse(left, right, best_a, best_b, n_threads)
        _sparse_by_dense(left, right, best_a, best_b, n_threads)
        _dense_by_dense(left, right, best_a, best_b)
    return Best(_finished(best_a, left), _finished(best_b, right))


def _on_gpu(left: Columns, right: Columns, k: int, device: str) -> tuple:
    try:
        from homolog.matching.gpu import best_pairs
    except ModuleNotFoundError as error:
        requirement = "the engine for GPUs needs Triton"
        raise InputError("device", device, requirement, "Install triton, or say cpu.") from error
    if not torch.cuda.is_available():
        requirement = "torch must see a CUDA device"
        raise InputError("device", device, requirement, "Say cpu, or see `homolog doctor`.")
    return best_pairs(left, right, k, device)


def _finished(best: Running, columns: Columns) -> Partners:
    """Partners of all features from those of the defined ones, in the order of `Columns.order`."""
    shape = (columns.n_features, best.r.shape[1])
    r, index = np.full(shape, np.nan, dtype=np.float32), np.full(shape, -1, dtype=np.int64)
    defined = best.index != NO_INDEX
    r[columns.order] = np.where(defined, best.r, np.nan)
    index[columns.order] = np.where(defined, best.index, -1)
    return Partners(r, index)


def _facts(columns: Columns, part: slice) -> Facts:
    return Facts(columns.mean[part], columns.inverse_sd[part], columns.order[part])


def _sparse_by_sparse(
    left: Columns, right: Columns, best_left: Running, best_right: Running, n_threads: int
) -> None:
    if not left.n_sparse or not right.n_sparse:
        return
    own, other = slice(left.n_dense, None), slice(right.n_dense, None)
    seen = Running.start(n_threads, right.n_sparse, best_left.r.shape[1])
    sides = (left.by_column, _facts(left, own), right.packed, _facts(right, other))
    best = best_left.of(own)
    kernels.sparse_by_sparse_best(*sides, left.n_tokens, n_threads, best, seen)
    kernels.merge(seen, best_right.of(other))


def _sparse_by_dense(
    left: Columns, right: Columns, best_left: Running, best_right: Running, n_threads: int
) -> None:
    """Sparse columns of each side with dense ones of the other."""
    for start in range(0, right.n_dense if left.n_sparse else 0, SPARSE_BY_DENSE):
        columns = slice(start, min(start + SPARSE_BY_DENSE, right.n_dense))
        dense = np.ascontiguousarray(right.dense[:, columns])
        sums = kernels.sparse_by_dense_sums(left.by_column, dense, n_threads)
        _select(sums, left, slice(left.n_dense, None), best_left, right, columns, best_right)
    for start in range(0, left.n_dense if right.n_sparse else 0, SPARSE_BY_DENSE):
        columns = slice(start, min(start + SPARSE_BY_DENSE, left.n_dense))
        dense = np.ascontiguousarray(left.dense[:, columns])
        sums = kernels.packed_by_dense_sums(right.packed, right.n_sparse, dense)
        _select(sums, right, slice(right.n_dense, None), best_right, left, columns, best_left)


def _select(
    sums: np.ndarray,
    rows: Columns,
    row: slice,
    best_rows: Running,
    columns: Columns,
    column: slice,
    best_columns: Running,
) -> None:
    """Put the correlations of a block of sums (rows `row`, columns `column`) among the best."""
    facts = _facts(rows, row), _facts(columns, column)
    kernels.select(sums, rows.n_tokens, *facts, best_rows.of(row), best_columns.of(column))


def _dense_by_dense(left: Columns, right: Columns, best_left: Running, best_right: Running) -> None:
    for row in range(0, left.n_dense, DENSE_BLOCK):
        rows = slice(row, min(row + DENSE_BLOCK, left.n_dense))
        for column in range(0, right.n_dense, DENSE_BLOCK):
            columns = slice(column, min(column + DENSE_BLOCK, right.n_dense))
            sums = np.zeros((rows.stop - rows.start, columns.stop - columns.start))
            if max(sums.shape) <= FEW_DENSE:
                kernels.dense_products(left.dense[:, rows], right.dense[:, columns], sums)
            else:
                _matrix_products(left.dense[:, rows], right.dense[:, columns], sums)
            _select(sums, left, rows, best_left, right, columns, best_right)


def _matrix_products(x: np.ndarray, y: np.ndarray, sums: np.ndarray) -> None:
    chunk = CHUNK_BYTES // (8 * max(sums.shape))
    for start in range(0, len(x), chunk):
        tokens = slice(start, start + chunk)
        sums += x[tokens].astype(np.float64).T @ y[tokens].astype(np.float64)
