"""The stream behind features: row t of their matrix is the t-th token that is not masked."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import NamedTuple

import numpy as np
from jaxtyping import Float, Int
from scipy.sparse import csc_array, csr_array

from homolog.corpus import TokenWindows
from homolog.errors import InputError
from homolog.features import SparseFeatures

Matrices = Callable[[int], csr_array]
"""Gives a layer's activations, float32 (tokens, d_sae); asked for one layer after the other."""


def shape_of(matrix: csr_array | csc_array) -> tuple[int, int]:
    """(tokens, features), which scipy's types do not promise."""
    tokens, features = matrix.shape  # type: ignore[misc]
    return int(tokens), int(features)


class Entries(NamedTuple):
    """Where a column is not 0, ascending, and its values there."""

    rows: np.ndarray
    values: np.ndarray


def entries_of(matrix: csc_array, column: int | np.integer) -> Entries:
    """The entries of a column."""
    inside = slice(matrix.indptr[column], matrix.indptr[column + 1])
    return Entries(matrix.indices[inside], matrix.data[inside])


def column_correlations(
    x: csr_array | csc_array, y: csr_array | csc_array, constant: float = np.nan
) -> Float[np.ndarray, " columns"]:
    """Pearson r of each column of x with the same of y, float64; NaN where that of x is constant.

    constant: what it is where that of y alone is.
    """
    n = max(1, shape_of(x)[0])
    u, v = (m.astype(np.float64) for m in (x, y))  # scipy adds float32 in float32
    mean_x, mean_y = (np.asarray(m.sum(axis=0)) / n for m in (u, v))
    xx, yy, xy = (np.asarray(a.multiply(b).sum(axis=0)) / n for a, b in ((u, u), (v, v), (u, v)))
    var_x, var_y = xx - mean_x**2, yy - mean_y**2
    varies, known = var_x > 1e-12 * xx, var_y > 1e-12 * yy
    scale = np.sqrt(np.where(varies & known, var_x * var_y, 1.0))
    return np.where(varies, np.where(known, (xy - mean_x * mean_y) / scale, constant), np.nan)


def check_stream(features: SparseFeatures, windows: TokenWindows) -> None:
    """InputError unless the features' rows are the kept tokens of these windows."""
    if features.stream_hash != windows.hash or features.n_tokens != int(windows.mask.sum()):
        own = f"features of {features.name} layer {features.layer} were encoded on the stream"
        requirement = f"{own} {features.stream_hash} ({features.n_tokens} tokens)"
        raise InputError("windows", windows.hash, requirement, "Give the windows of the same run.")


def place_of(windows: TokenWindows, rows: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """(window, position in it), int64, of rows of the features."""
    kept = np.flatnonzero(windows.mask)
    if len(rows) and (rows.min() < 0 or rows.max() >= len(kept)):
        requirement = f"the stream has {len(kept)} tokens that are not masked"
        remedy = "Use the windows that the features were made from."
        raise InputError("rows", int(rows.max()), requirement, remedy)
    return np.divmod(kept[rows], windows.context)


def split_documents(
    document: Int[np.ndarray, " token"], shares: Sequence[float], seed: int = 0
) -> Int[np.ndarray, " token"]:
    """For every token the part, 0, 1, ..., of its document.

    Documents stand in random order; each goes where its middle falls when the tokens are cut in
    these shares, so that the parts are alike in tokens however unlike documents are in length.
    """
    _, number, size = np.unique(document, return_inverse=True, return_counts=True)
    order = np.random.default_rng(seed).permutation(len(size))
    middle = (np.cumsum(size[order]) - size[order] / 2) / max(1, len(document))
    part = np.empty(len(size), np.int64)
    part[order] = np.searchsorted(np.cumsum(shares)[:-1], middle, side="right")
    return part[number]
