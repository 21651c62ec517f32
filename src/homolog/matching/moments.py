"""Per-document sums of features and of products of matched pairs, in float64 (numba).

For every document d the sums over its tokens of x, x^2 and, for a pair, x y are sufficient for the Pearson
correlation on any multiset of documents: weigh the sums and form r from the totals.
"""

from __future__ import annotations

import numba
import numpy as np

from homolog.matching.columns import Columns
from homolog.matching.kernels import jit


@jit(parallel=True)
def _sparse_sums(ids, start, token, value, document, n_documents):
    first, second = np.zeros((len(ids), n_documents)), np.zeros((len(ids), n_documents))
    for place in numba.prange(len(ids)):
        for entry in range(start[ids[place]], start[ids[place] + 1]):
            x = np.float64(value[entry])
            first[place, document[token[entry]]] += x
            second[place, document[token[entry]]] += x * x
    return first, second


@jit(parallel=True)
def _dense_sums(ids, dense, document, n_documents):
    first, second = np.zeros((len(ids), n_documents)), np.zeros((len(ids), n_documents))
    stripes = (len(ids) + 63) // 64
    for stripe in numba.prange(stripes):
        for t in range(dense.shape[0]):
            for place in range(stripe * 64, min(stripe * 64 + 64, len(ids))):
                x = np.float64(dense[t, ids[place]])
                first[place, document[t]] += x
                second[place, document[t]] += x * x
    return first, second


@jit(parallel=True)
def _sparse_by_sparse(
    ids_a, ids_b, start_a, token_a, value_a, start_b, token_b, value_b, document, n_documents
):
    """Both token lists ascend: one merge of the two lists a pair."""
    out = np.zeros((len(ids_a), n_documents))
    for place in numba.prange(len(ids_a)):
        a, end_a = start_a[ids_a[place]], start_a[ids_a[place] + 1]
        b, end_b = start_b[ids_b[place]], start_b[ids_b[place] + 1]
        while a < end_a and b < end_b:
            if token_a[a] == token_b[b]:
                out[place, document[token_a[a]]] += np.float64(value_a[a]) * np.float64(value_b[b])
                a += 1
                b += 1
            elif token_a[a] < token_b[b]:
                a += 1
            else:
                b += 1
    return out


@jit(parallel=True)
def _sparse_by_dense(ids_a, ids_b, start_a, token_a, value_a, dense_b, document, n_documents):
    out = np.zeros((len(ids_a), n_documents))
    for place in numba.prange(len(ids_a)):
        for entry in range(start_a[ids_a[place]], start_a[ids_a[place] + 1]):
            t = token_a[entry]
            out[place, document[t]] += np.float64(value_a[entry]) * np.float64(dense_b[t, ids_b[place]])
    return out


@jit(parallel=True)
def _dense_by_dense(ids_a, ids_b, dense_a, dense_b, document, n_documents):
    out = np.zeros((len(ids_a), n_documents))
    stripes = (len(ids_a) + 63) // 64
    for stripe in numba.prange(stripes):
        for t in range(dense_a.shape[0]):
            for place in range(stripe * 64, min(stripe * 64 + 64, len(ids_a))):
                product = np.float64(dense_a[t, ids_a[place]]) * np.float64(dense_b[t, ids_b[place]])
                out[place, document[t]] += product
    return out


def sums_by_document(
    columns: Columns, position: np.ndarray, document: np.ndarray, n_documents: int
) -> tuple[np.ndarray, np.ndarray]:
    """(sum of x, sum of x^2), float64 (positions, documents), of columns at `position` in `columns.order`.

    document: (tokens,), numbers 0 ... n_documents - 1.
    """
    first, second = np.zeros((len(position), n_documents)), np.zeros((len(position), n_documents))
    is_dense = position < columns.n_dense
    if is_dense.any():
        first[is_dense], second[is_dense] = _dense_sums(
            position[is_dense], columns.dense, document, n_documents
        )
    if not is_dense.all():
        first[~is_dense], second[~is_dense] = _sparse_sums(
            position[~is_dense] - columns.n_dense, *columns.by_column, document, n_documents
        )
    return first, second


def products_by_document(
    a: Columns,
    b: Columns,
    position_a: np.ndarray,
    position_b: np.ndarray,
    document: np.ndarray,
    n_documents: int,
) -> np.ndarray:
    """Sum of x y, float64 (pairs, documents), of pairs (position_a[p] of a, position_b[p] of b)."""
    out = np.zeros((len(position_a), n_documents))
    dense_a, dense_b = position_a < a.n_dense, position_b < b.n_dense
    sparse_a, sparse_b = position_a - a.n_dense, position_b - b.n_dense
    both = dense_a & dense_b
    if both.any():
        out[both] = _dense_by_dense(
            position_a[both], position_b[both], a.dense, b.dense, document, n_documents
        )
    both = ~dense_a & ~dense_b
    if both.any():
        out[both] = _sparse_by_sparse(
            sparse_a[both], sparse_b[both], *a.by_column, *b.by_column, document, n_documents
        )
    mixed = ~dense_a & dense_b
    if mixed.any():
        out[mixed] = _sparse_by_dense(
            sparse_a[mixed], position_b[mixed], *a.by_column, b.dense, document, n_documents
        )
    mixed = dense_a & ~dense_b
    if mixed.any():
        out[mixed] = _sparse_by_dense(
            sparse_b[mixed], position_a[mixed], *b.by_column, a.dense, document, n_documents
        )
    return out
