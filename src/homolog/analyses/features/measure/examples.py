"""Contexts in which each feature fires: its highest activations, and draws from lower quantiles.

    top          the highest values; of equal ones the earlier row
    quantile q   drawn at random from the active tokens of which a share q +- 0.05 has a lower or
                 equal value

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

from homolog.analyses.features.measure import example_kernels as kernels
from homolog.analyses.stream import check_stream
from homolog.corpus import TokenWindows
from homolog.errors import InputError
from homolog.features import SparseFeatures
from homolog.record.tables import CONTEXTS


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

    Columns: those of `CONTEXTS`; rank counts from 0 within its quantile, row is of the features'
    matrix, position within the window, and values are 0 at masked tokens.

    Memory beyond the matrix: 8 bytes per active token of one block of features (128 MiB, or one
    feature that has more), 32 bytes per example while a block is worked on, and the table, 8 bytes
    per token shown.
    InputError: another stream than the features', negative activations, quantiles out of order,
    windows of 2^15 tokens.
    """
    check_stream(features, windows)
    _check_counts((top, per_quantile, before, after), quantiles)
    if windows.context > np.iinfo(np.int16).max:
        requirement = "positions must fit 16 bits"
        raise InputError("context", windows.context, requirement, "Use shorter windows.")
    stream = kernels.flattened(windows)
    wanted = np.array([top] + [per_quantile] * len(quantiles), np.int64)
    levels = np.array([1.0, *quantiles])
    parts = []
    for block in kernels.column_blocks(features):
        chosen, taken = kernels.select(block, stream, (before, after), wanted, levels[1:], seed)
        parts.append(_table(block, stream, chosen, taken, levels))
    return pl.concat(parts, rechunk=True)


def _check_counts(counts: tuple[int, ...], quantiles: Sequence[float]) -> None:
    descending = sorted(set(quantiles), reverse=True)
    if any(not 0 < q < 1 for q in quantiles) or list(quantiles) != descending:
        requirement = "they must descend, between 0 and 1"
        raise InputError("quantiles", tuple(quantiles), requirement, "Give 0.75, 0.5, 0.25.")
    if min(counts) < 0:
        raise InputError("examples", counts, "counts must not be negative", "Give 0 or more.")


def _table(
    block: kernels.Block,
    stream: kernels.Stream,
    chosen: np.ndarray,
    taken: np.ndarray,
    levels: np.ndarray,
) -> pl.DataFrame:
    """The examples of a block's features; lists are arrays with offsets, never one list per row."""
    here = np.arange(chosen.shape[1]) < taken.sum(axis=1)[:, None]
    flat = np.ascontiguousarray(chosen[here])
    of_feature = np.nonzero(here)[0]
    sizes = taken.reshape(-1)
    begun = np.repeat(np.cumsum(sizes) - sizes, sizes)
    offset = np.concatenate([[0], np.cumsum(flat[:, 3] - flat[:, 2])])
    tokens, values = kernels.shown_tokens(block, stream, of_feature, flat, offset)
    entry = block.start[of_feature] + flat[:, 0]
    columns = {
        "feature": block.first + of_feature,
        "quantile": np.repeat(np.tile(levels, len(taken)), sizes),
        "rank": np.arange(len(flat)) - begun,
        "row": block.row[entry],
        "document": stream.document[flat[:, 1]],
        "window": flat[:, 1] // stream.context,
        "position": flat[:, 1] % stream.context,
        "value": block.value[entry],
        "start": flat[:, 2] % stream.context,
        "tokens": list_column(offset, tokens),
        "values": list_column(offset, values),
    }
    return CONTEXTS.frame(columns)


def list_column(offset: Int[np.ndarray, "edges"], flat: Shaped[np.ndarray, "entries"]) -> pl.Series:
    """A column of lists, row i being flat[offset[i] : offset[i + 1]], without a loop over rows."""
    lists = pa.LargeListArray.from_arrays(pa.array(offset, pa.int64()), pa.array(flat))
    column = pl.from_arrow(lists)
    assert isinstance(column, pl.Series)
    return column
