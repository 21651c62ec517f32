"""Contexts in which each feature of a layer fires: its highest activations, and draws from lower
quantiles.

    top          the highest values; of equal ones the earlier row
    quantile q   drawn at random from the active tokens of which a share q +- 0.05 has a lower or equal value

Examples of a feature are distinct: no two show overlapping spans of one document, and no two agree
in the last 8 tokens up to the position.  Without that, the top of a feature is one repeated
sentence.  What top and higher quantiles have taken is not shown again, so a rare feature has fewer
examples than asked for.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import polars as pl
import pyarrow as pa
from jaxtyping import Int, Shaped

from homolog.analyses.meaning import example_kernels as kernels
from homolog.corpus import TokenWindows
from homolog.errors import InputError
from homolog.features import SparseFeatures


def examples(
    features: SparseFeatures,
    windows: TokenWindows,
    *,
    top: int = 16,
    per_quantile: int = 4,
    quantiles: Sequence[float] = (0.75, 0.5, 0.25),
    before: int = 24,
    after: int = 8,
    seed: int = 0,
) -> pl.DataFrame:
    """The examples of a layer's features, sorted by feature, quantile (descending) and rank.

    windows: the stream that the features were encoded on.  top, per_quantile: examples of a feature
    at most.
    quantiles: descending, between 0 and 1.  before, after: tokens shown before and after the
    position at most; they end with the window and the document.

    Columns: feature i32, quantile f32 (1.0 is the top), rank i16 (0 the highest within its
    quantile), row i64 (of the features' matrix), document i32, window i32, position i16 (within the
    window), value f32, start i16 (position of the first token shown), tokens list[i32], values
    list[f32] (the feature's value on each token shown, 0 at masked ones).

    Memory beyond the matrix: 8 bytes an active token of one block of features (128 MiB, or one
    feature that has more), 32 bytes an example while a block is worked on, and the table, 8 bytes a
    token shown.
    InputError: another stream than the features', negative activations, quantiles out of order,
    windows of 2^15 tokens.
    """
    check_stream(features, windows)
    if any(not 0 < q < 1 for q in quantiles) or list(quantiles) != sorted(
        set(quantiles), reverse=True
    ):
        raise InputError(
            "quantiles",
            tuple(quantiles),
            "they must descend, between 0 and 1",
            "Give 0.75, 0.5, 0.25.",
        )
    if min(top, per_quantile, before, after) < 0:
        raise InputError(
            "examples",
            (top, per_quantile, before, after),
            "counts must not be negative",
            "Give 0 or more.",
        )
    if windows.context > np.iinfo(np.int16).max:
        raise InputError(
            "context", windows.context, "positions must fit 16 bits", "Use shorter windows."
        )
    stream = _Stream(windows)
    wanted = np.array([top] + [per_quantile] * len(quantiles), np.int64)
    levels = np.array([1.0, *quantiles])
    parts = []
    for block in kernels.column_blocks(features):
        n = len(block.start) - 1
        chosen, taken = (
            np.zeros((n, int(wanted.sum()), 4), np.int64),
            np.zeros((n, len(wanted)), np.int64),
        )
        kernels.select(
            block.start,
            block.row,
            block.value,
            block.first,
            stream.place,
            stream.token,
            stream.document,
            windows.context,
            before,
            after,
            wanted,
            levels[1:],
            seed,
            chosen,
            taken,
        )
        parts.append(_table(block, stream, chosen, taken, levels))
    return pl.concat(parts, rechunk=True)


def check_stream(features: SparseFeatures, windows: TokenWindows) -> None:
    """InputError unless the features' rows are the kept tokens of these windows."""
    if features.stream_hash != windows.hash or features.n_tokens != int(windows.mask.sum()):
        raise InputError(
            "windows",
            windows.hash,
            f"features of {features.name} layer {features.layer} were encoded on the stream "
            f"{features.stream_hash} ({features.n_tokens} tokens)",
            "Give the windows of the same run.",
        )


class _Stream:
    """The flattened windows: token, document, and where each row of the features stands."""

    def __init__(self, windows: TokenWindows) -> None:
        self.context = windows.context
        self.token = np.ascontiguousarray(windows.tokens.reshape(-1))
        self.document = np.ascontiguousarray(windows.document.reshape(-1))
        self.place = np.flatnonzero(windows.mask)
        self.row_of = np.full(windows.tokens.size, -1, np.int32)
        self.row_of[self.place] = np.arange(len(self.place), dtype=np.int32)


def _table(
    block: kernels.Block, stream: _Stream, chosen: np.ndarray, taken: np.ndarray, levels: np.ndarray
) -> pl.DataFrame:
    """The examples of a block's features; the lists are arrays with offsets, never a list a row."""
    here = np.arange(chosen.shape[1]) < taken.sum(axis=1)[:, None]
    flat = np.ascontiguousarray(chosen[here])
    of_feature = np.nonzero(here)[0]
    sizes = taken.reshape(-1)
    begun = np.repeat(np.cumsum(sizes) - sizes, sizes)
    offset = np.concatenate([[0], np.cumsum(flat[:, 3] - flat[:, 2])])
    tokens, values = np.empty(int(offset[-1]), np.int32), np.empty(int(offset[-1]), np.float32)
    kernels.fill(
        block.start,
        block.row,
        block.value,
        of_feature,
        flat,
        offset,
        stream.token,
        stream.row_of,
        tokens,
        values,
    )
    entry = block.start[of_feature] + flat[:, 0]
    row = block.row[entry].astype(np.int64)
    return pl.DataFrame(
        {
            "feature": (block.first + of_feature).astype(np.int32),
            "quantile": np.repeat(np.tile(levels, len(taken)), sizes).astype(np.float32),
            "rank": (np.arange(len(flat)) - begun).astype(np.int16),
            "row": row,
            "document": stream.document[flat[:, 1]],
            "window": (flat[:, 1] // stream.context).astype(np.int32),
            "position": (flat[:, 1] % stream.context).astype(np.int16),
            "value": block.value[entry],
            "start": (flat[:, 2] % stream.context).astype(np.int16),
            "tokens": list_column(offset, tokens),
            "values": list_column(offset, values),
        }
    )


def list_column(offset: Int[np.ndarray, "edges"], flat: Shaped[np.ndarray, "entries"]) -> pl.Series:
    """A column of lists, row i being flat[offset[i] : offset[i + 1]], made without a loop over
    rows.
    """
    found = pl.from_arrow(
        pa.LargeListArray.from_arrays(pa.array(offset, pa.int64()), pa.array(flat))
    )
    assert isinstance(found, pl.Series)
    return found
