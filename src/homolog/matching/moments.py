"""Per-document sums of products of features, in float64.

For every document d the sums over its tokens of x, x^2 and, for a pair, x y are sufficient for the
Pearson correlation on any multiset of documents: weigh the sums and form r from the totals.  The
sum of x is that of its product with a column of ones.
"""

from __future__ import annotations

from itertools import product
from typing import NamedTuple

import numpy as np

from homolog.compiled import jit
from homolog.matching.columns import Columns, SparseEntries


class Part(NamedTuple):
    """The dense or the sparse ones of some columns.

    inside: bool (columns,), which they are.  ids: int64 (columns,), their numbers in `values`:
    float32 (tokens, dense), or entries by column.
    """

    inside: np.ndarray
    ids: np.ndarray
    values: np.ndarray | SparseEntries


def parts(columns: Columns, position: np.ndarray) -> list[Part]:
    """Some columns, by their position in `columns.order`."""
    is_dense = position < columns.n_dense
    dense = Part(is_dense, position, columns.dense)
    if is_dense.all():
        return [dense]
    return [dense, Part(~is_dense, position - columns.n_dense, columns.by_column)]


def ones(n_columns: int, n_tokens: int) -> list[Part]:
    """As many columns of ones."""
    column = np.ones((n_tokens, 1), dtype=np.float32)
    return [Part(np.full(n_columns, True), np.zeros(n_columns, dtype=np.int64), column)]


def products_by_document(
    left: list[Part], right: list[Part], document: np.ndarray, n_documents: int
) -> np.ndarray:
    """Sum of x y, float64 (pairs, documents), of pairs of columns of the two sides.

    document: (tokens,), 0 ... n_documents - 1.
    """
    sums = np.zeros((len(left[0].inside), n_documents))
    for one, other in product(left, right):
        both = one.inside & other.inside
        if not both.any():
            continue
        if isinstance(one.values, np.ndarray) and not isinstance(other.values, np.ndarray):
            one, other = other, one
        is_dense = isinstance(one.values, np.ndarray), isinstance(other.values, np.ndarray)
        columns = one.ids[both], other.ids[both], one.values, other.values
        sums[both] = _KERNELS[is_dense](*columns, document, n_documents)
    return sums


@jit()
def _sparse_by_sparse(ids_a, ids_b, a, b, document, n_documents):
    """Both token lists ascend: one merge of the two lists a pair."""
    out = np.zeros((len(ids_a), n_documents))
    for place in range(len(ids_a)):
        at_a, end_a = a.start[ids_a[place]], a.start[ids_a[place] + 1]
        at_b, end_b = b.start[ids_b[place]], b.start[ids_b[place] + 1]
        while at_a < end_a and at_b < end_b:
            token = a.number[at_a]
            if token == b.number[at_b]:
                out[place, document[token]] += np.float64(a.value[at_a]) * np.float64(b.value[at_b])
                at_a += 1
                at_b += 1
            elif token < b.number[at_b]:
                at_a += 1
            else:
                at_b += 1
    return out


@jit()
def _sparse_by_dense(ids_a, ids_b, a, dense, document, n_documents):
    out = np.zeros((len(ids_a), n_documents))
    for place in range(len(ids_a)):
        for entry in range(a.start[ids_a[place]], a.start[ids_a[place] + 1]):
            t = a.number[entry]
            product = np.float64(a.value[entry]) * np.float64(dense[t, ids_b[place]])
            out[place, document[t]] += product
    return out


@jit()
def _dense_by_dense(ids_a, ids_b, dense_a, dense_b, document, n_documents):
    out = np.zeros((len(ids_a), n_documents))
    for stripe in range((len(ids_a) + 63) // 64):
        for t in range(dense_a.shape[0]):
            for place in range(stripe * 64, min(stripe * 64 + 64, len(ids_a))):
                x, y = dense_a[t, ids_a[place]], dense_b[t, ids_b[place]]
                out[place, document[t]] += np.float64(x) * np.float64(y)
    return out


_KERNELS = {
    (False, False): _sparse_by_sparse,
    (False, True): _sparse_by_dense,
    (True, True): _dense_by_dense,
}
