"""Per-document sums of features and of products of pairs, in float64.

For every document d the sums over its tokens of x, x^2 and, for a pair, x y are sufficient for the
Pearson correlation on any multiset of documents: weigh the sums and form r from the totals.

Dense columns are read row by row, as they lie in memory, by all threads side by side; every sum is
added in the order of its tokens, whatever their number.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import numpy as np

from homolog.compiled import jit
from homolog.matching.columns import Columns
from homolog.matching.gathered import rows_in_threads

N_STRIPES = 8
"""Of columns, that threads take in turn; a dense row is read once a stripe."""


def own_sums(
    columns: Columns, position: np.ndarray, document: np.ndarray, n_documents: int
) -> tuple[np.ndarray, np.ndarray]:
    """Sums of x and of x^2, float64 (documents, columns), of some columns.

    position: int64, in `columns.order`.  document: (tokens,), 0 ... n_documents - 1.
    """
    sums, squares = (np.zeros((n_documents, len(position))) for _ in range(2))
    kernels: dict[int, Callable[..., None]] = {True: _own_dense, False: _own_sparse}
    for is_dense, own in _by_density(position < columns.n_dense):
        ids, values = _values(columns, position[own], bool(is_dense))
        _in_stripes(kernels[is_dense], own, ids, values, document, sums, squares)
    return sums, squares


def pair_sums(
    a: Columns,
    b: Columns,
    positions: tuple[np.ndarray, np.ndarray],
    document: np.ndarray,
    n_documents: int,
) -> np.ndarray:
    """Sum of x y, float64 (documents, pairs), of pairs of a column of a and one of b.

    positions: int64 (pairs,), in `a.order` and in `b.order`.
    """
    sums = np.zeros((n_documents, len(positions[0])))
    dense_a, dense_b = positions[0] < a.n_dense, positions[1] < b.n_dense
    for density, own in _by_density(2 * dense_a + dense_b):
        of_a = _values(a, positions[0][own], density >= 2)
        of_b = _values(b, positions[1][own], density % 2 == 1)
        if density == 2:  # the kernel takes the sparse one first
            of_a, of_b = of_b, of_a
        kernel = _sparse_by_dense if density in (1, 2) else _OF_ONE_KIND[density]
        _in_stripes(kernel, own, *of_a, *of_b, document, sums)
    return sums


def _by_density(density: np.ndarray) -> Iterator[tuple[int, np.ndarray]]:
    """Each value there is, and where."""
    for value in np.unique(density):
        yield int(value), np.flatnonzero(density == value)


def _values(columns: Columns, position: np.ndarray, is_dense: bool) -> tuple[np.ndarray, Any]:
    """Numbers of columns among the dense or the sparse ones, and the values of those."""
    if is_dense:
        return position, columns.dense
    return position - columns.n_dense, columns.by_column


def _in_stripes(kernel: Callable[..., None], own: np.ndarray, *arguments: Any) -> None:
    """The kernel, which adds to the columns `own` of its sums, shared out to threads."""
    stripe = max(64, -(-len(own) // N_STRIPES))
    rows_in_threads(lambda first, last: kernel(first, last, own, *arguments), len(own), stripe)


@jit(nogil=True)
def _own_dense(first, last, own, ids, dense, document, sums, squares):
    for t in range(dense.shape[0]):
        d = document[t]
        for place in range(first, last):
            x = np.float64(dense[t, ids[place]])
            sums[d, own[place]] += x
            squares[d, own[place]] += x * x


@jit(nogil=True)
def _own_sparse(first, last, own, ids, entries, document, sums, squares):
    for place in range(first, last):
        for entry in range(entries.start[ids[place]], entries.start[ids[place] + 1]):
            d, x = document[entries.number[entry]], np.float64(entries.value[entry])
            sums[d, own[place]] += x
            squares[d, own[place]] += x * x


@jit(nogil=True)
def _sparse_by_sparse(first, last, own, ids_a, a, ids_b, b, document, sums):
    """Both token lists ascend: one merge of the two lists a pair."""
    for place in range(first, last):
        at_a, end_a = a.start[ids_a[place]], a.start[ids_a[place] + 1]
        at_b, end_b = b.start[ids_b[place]], b.start[ids_b[place] + 1]
        while at_a < end_a and at_b < end_b:
            token = a.number[at_a]
            if token == b.number[at_b]:
                xy = np.float64(a.value[at_a]) * np.float64(b.value[at_b])
                sums[document[token], own[place]] += xy
                at_a += 1
                at_b += 1
            elif token < b.number[at_b]:
                at_a += 1
            else:
                at_b += 1


@jit(nogil=True)
def _sparse_by_dense(first, last, own, ids_a, a, ids_b, dense, document, sums):
    for place in range(first, last):
        for entry in range(a.start[ids_a[place]], a.start[ids_a[place] + 1]):
            t = a.number[entry]
            xy = np.float64(a.value[entry]) * np.float64(dense[t, ids_b[place]])
            sums[document[t], own[place]] += xy


@jit(nogil=True)
def _dense_by_dense(first, last, own, ids_a, dense_a, ids_b, dense_b, document, sums):
    for t in range(dense_a.shape[0]):
        d = document[t]
        for place in range(first, last):
            x, y = dense_a[t, ids_a[place]], dense_b[t, ids_b[place]]
            sums[d, own[place]] += np.float64(x) * np.float64(y)


_OF_ONE_KIND = {0: _sparse_by_sparse, 3: _dense_by_dense}
