"""The stream behind features: row t of their matrix is the t-th token that is not masked."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import NamedTuple

import numpy as np
from jaxtyping import Int
from scipy.sparse import csc_array, csr_array

from homolog.corpus import TokenWindows
from homolog.errors import InputError
from homolog.features import SparseFeatures

Matrices = Callable[[int], csr_array]
"""Gives a layer's activations, float32 (tokens, d_sae); asked for one layer after the other."""


def shape_of(matrix: csr_array) -> tuple[int, int]:
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
