"""Where left context is cut: few places of the stream at which every alive feature fires."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from jaxtyping import Int
from scipy.sparse import csr_array

from homolog.analyses.stream import Matrices, entries_of, place_of, shape_of
from homolog.corpus import TokenWindows
from homolog.errors import InputError

UNRELATED = 32
"""Tokens of another document that are read first, fewer where the window would become longer."""


def cut_sizes(context: int) -> list[int]:
    """1, 2, 4, ... below `context`: the numbers of tokens that are kept."""
    return [1 << k for k in range((context - 1).bit_length())]


def tokens_to_run(windows: TokenWindows, rows: np.ndarray) -> Int[np.ndarray, " rows"]:
    """Tokens that the model reads for each of these rows: about context + 32 log2(context)."""
    left = place_of(windows, rows)[1] + 1
    sizes = np.array(cut_sizes(windows.context), dtype=np.int64)
    return (np.minimum(sizes + UNRELATED, windows.context) * (sizes < left[:, None])).sum(axis=1)


def choose_rows(
    matrix_of: Matrices,
    layers: Sequence[int],
    windows: TokenWindows,
    *,
    per_feature: int = 2,
    most_tokens: int | None = None,
    seed: int = 0,
) -> Int[np.ndarray, " rows"]:
    """Rows, ascending, with `per_feature` active positions of every alive feature that has them.

    A greedy cover, layer after layer, of which one is in memory: each row counts for every feature
    active there.  Taken are first positions in the second half of a window, so that every cut below
    half a context takes something away, at which the activation is at least its mean over active
    tokens; then, for features without, any.
    most_tokens: of `tokens_to_run`, in all; above it rows are dropped at random (`seed`), and
    features may be left without.
    """
    n_rows = int(windows.mask.sum())
    chosen = np.zeros(n_rows, dtype=bool)
    late = place_of(windows, np.arange(n_rows))[1] >= windows.context // 2
    for layer in layers:
        matrix = matrix_of(layer)
        if (n_tokens := shape_of(matrix)[0]) != n_rows:
            requirement = f"the windows have {n_rows}"
            remedy = "Use the windows that the features were made from."
            raise InputError(f"tokens of layer {layer}", n_tokens, requirement, remedy)
        for entries in _preferred(matrix, late):
            parts = (entries, matrix.indices, matrix.indptr)
            eligible = csr_array(parts, shape=matrix.shape).copy()
            eligible.eliminate_zeros()
            _cover(eligible, chosen, per_feature)
    rows = np.flatnonzero(chosen)
    if most_tokens is not None and len(rows):
        order = np.random.default_rng(seed).permutation(len(rows))
        spent = np.cumsum(tokens_to_run(windows, rows[order]))
        rows = np.sort(rows[order[spent <= most_tokens]])
    return rows


def _preferred(matrix: csr_array, late: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Which stored values are taken first: those strong and late in a window; then all active."""
    active = matrix.data > 0
    n_active = np.bincount(matrix.indices[active], minlength=shape_of(matrix)[1])
    typical = matrix.sum(axis=0, dtype=np.float64) / np.maximum(n_active, 1)
    strong = active & (matrix.data >= typical[matrix.indices])
    return strong & np.repeat(late, np.diff(matrix.indptr)), active


def _cover(eligible: csr_array, chosen: np.ndarray, per_feature: int) -> None:
    """Add rows to `chosen` until each column has `per_feature` of its entries, or all, in it.

    Rarest columns first.  Of a column's rows the one is taken that serves the most columns still in
    need, the first of those.
    """
    by_column = eligible.tocsc()
    wanted = np.minimum(np.diff(by_column.indptr), per_feature)
    have = (eligible.T @ chosen.astype(np.int64)).astype(np.int64)
    gain = (eligible @ (have < wanted).astype(np.int64)).astype(np.int64)
    for column in np.argsort(np.diff(by_column.indptr), kind="stable"):
        while have[column] < wanted[column]:
            rows, _ = entries_of(by_column, column)
            free = rows[~chosen[rows]]
            best = free[np.argmax(gain[free])]
            chosen[best] = True
            served = eligible.indices[eligible.indptr[best] : eligible.indptr[best + 1]]
            have[served] += 1
            for done in served[have[served] == wanted[served]]:
                gain[entries_of(by_column, done)[0]] -= 1
