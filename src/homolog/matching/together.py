"""In how many documents do a feature and its partner fire together?

A feature that fires on one token of the matched text correlates perfectly with any that fires on
the same token, whatever either is about: r, its null at that frequency and its controls all rest on
one event.  So documents are counted in which both fire on one token at least.

A column that is active on more than an eighth of the tokens is stored without its zeros told apart
(`columns`), and fires there where it is above its least value.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial
from typing import Any

import numpy as np
import polars as pl
from jaxtyping import Int

from homolog.compiled import jit
from homolog.matching.columns import Columns
from homolog.matching.gathered import gathered, is_defined, places_of, rows_in_threads

_ROWS_AT_ONCE = 256


def documents_together(
    rows: pl.DataFrame,
    document: Int[np.ndarray, "token"],
    layers_of: Callable[[str, str], Sequence[Any]],
    columns: Callable[[Any], Columns],
    *,
    threads: int | None = None,
) -> pl.Series:
    """Int32, for every match the documents in which both fire; null where r is not defined.

    rows: of matches.  document: of each token, from 0.  layers_of: gives the layers of a (model,
    label), each with its number (`layer`).  columns: gives the prepared columns of a layer, of
    which `by_column` is read; layers are asked for in turn.
    """
    sides = places_of(rows, (), layers_of)
    layer, counts = sides[0][1], np.zeros(len(rows), np.int32)
    _, number = np.unique(document, return_inverse=True)
    n_documents = int(number.max(initial=0)) + 1
    known = np.flatnonzero((sides[0][2] >= 0) & (sides[1][2] >= 0))
    for at in np.unique(layer[known]):
        here = known[layer[known] == at]
        x, y = (tuple(gathered([side], here, columns)) for side in sides)
        together = np.zeros(len(here), np.int32)
        count = partial(_common_documents, x, y, number, n_documents, together)
        rows_in_threads(count, len(here), _ROWS_AT_ONCE, threads)
        counts[here] = together
    return pl.Series("documents", counts).set(~is_defined(rows), None)


@jit(nogil=True)
def _common_documents(x, y, document, n_documents, counts, first, last):
    """counts[k]: documents in which the k-th columns of x and of y both fire on one token at least.

    x, y: (start, token, value), sparse columns, entries of a column by ascending token.
    """
    seen = np.full(n_documents, -1)
    for k in range(first, last):
        i, end_x, rest_x = x[0][k], x[0][k + 1], _rest(x, k, len(document))
        j, end_y, rest_y = y[0][k], y[0][k + 1], _rest(y, k, len(document))
        while i < end_x and j < end_y:
            token, other = x[1][i], y[1][j]
            both = token == other and x[2][i] > rest_x and y[2][j] > rest_y
            if both and seen[document[token]] != k:
                seen[document[token]] = k
                counts[k] += 1
            i, j = i + (token <= other), j + (other <= token)


@jit(nogil=True)
def _rest(columns, k, n_tokens):
    """The value above which a column fires: any entry of a sparse one does."""
    start, _, value = columns
    if start[k + 1] - start[k] < n_tokens:
        return -np.inf
    return value[start[k] : start[k + 1]].min()
