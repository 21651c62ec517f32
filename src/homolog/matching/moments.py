"""Per-document sums of features and of products of matched pairs, in float64.

For every document d the sums over its tokens of x, x^2 and, for a pair, x y are sufficient for the
Pearson correlation on any multiset of documents: weigh the sums and form r from the totals.
"""

from __future__ import annotations

import numpy as np

from homolog.matching.columns import Columns
from homolog.matching.moment_kernels import (
    dense_by_dense,
    dense_sums,
    sparse_by_dense,
    sparse_by_sparse,
    sparse_sums,
)


def sums_by_document(
    columns: Columns, position: np.ndarray, document: np.ndarray, n_documents: int
) -> tuple[np.ndarray, np.ndarray]:
    """(sum of x, sum of x^2), float64 (positions, documents).

    position: of the columns in `columns.order`.  document: (tokens,), 0 ... n_documents - 1.
    """
    first, second = np.zeros((len(position), n_documents)), np.zeros((len(position), n_documents))
    is_dense = position < columns.n_dense
    if is_dense.any():
        first[is_dense], second[is_dense] = dense_sums(
            position[is_dense], columns.dense, document, n_documents
        )
    if not is_dense.all():
        first[~is_dense], second[~is_dense] = sparse_sums(
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
        out[both] = dense_by_dense(
            position_a[both], position_b[both], a.dense, b.dense, document, n_documents
        )
    both = ~dense_a & ~dense_b
    if both.any():
        out[both] = sparse_by_sparse(
            sparse_a[both], sparse_b[both], *a.by_column, *b.by_column, document, n_documents
        )
    mixed = ~dense_a & dense_b
    if mixed.any():
        out[mixed] = sparse_by_dense(
            sparse_a[mixed], position_b[mixed], *a.by_column, b.dense, document, n_documents
        )
    mixed = dense_a & ~dense_b
    if mixed.any():
        out[mixed] = sparse_by_dense(
            sparse_b[mixed], position_a[mixed], *b.by_column, a.dense, document, n_documents
        )
    return out
