"""r of the main comparison by firing frequency, beside the null of the maximum."""

from __future__ import annotations

import numpy as np
import polars as pl

from homolog.analyses.records import PairRecords
from homolog.analyses.rows import panel
from homolog.charts.figure import Rows, rounded, significant
from homolog.record.comparisons import MAIN

COLUMN_FEATURES = 100  # features of a column of the heatmap, at least
COLUMNS = 40  # at most
CELL = 0.04  # of r
LINE_POINTS = 60
LINES = {"null": "null_r", "significant": "threshold"}
"""Lines over the heatmap, and their columns in `matches`."""


def calibration(records: PairRecords) -> Rows:
    """Cells and lines of both directions.

    Features in order of frequency are cut into columns of equally many (more where frequencies are
    equal).  Part "cell": freq, freq_end, r, r_end and share, of the column's features; part "line":
    freq and r of some features from rare to frequent, with `series`, of `LINES`.
    """
    rows: Rows = []
    for side in "AB":
        known = (pl.col("freq") > 0) & pl.col("r").is_finite() & pl.col("null_r").is_finite()
        main = records.matches.filter(known, comparison=MAIN.name, side=side)
        if not main.is_empty():
            main = main.sort("freq", "layer", "feature")
            rows += [{"panel": panel(records, side), **row} for row in _cells(main) + _lines(main)]
    return rows


def _cells(main: pl.DataFrame) -> Rows:
    """Cells of one panel; the rows in order of frequency."""
    freq, r = (main.get_column(name).cast(pl.Float64).to_numpy() for name in ("freq", "r"))
    n_columns = max(1, min(COLUMNS, len(freq) // COLUMN_FEATURES))
    first = [freq[len(freq) * i // n_columns] for i in range(n_columns)]
    starts = np.unique(np.searchsorted(freq, first)).tolist()
    low = np.floor(min(0.0, float(r.min())) / CELL)
    edges = np.round(np.arange(low, np.ceil(1 / CELL) + 1) * CELL, 4)
    rows: Rows = []
    for start, end in zip(starts, [*starts[1:], len(freq)], strict=True):
        left, right = float(freq[start]), float(freq[min(end, len(freq) - 1)])
        right = right if right > left else left * 1.1  # a column of one frequency has a width, too
        counts = np.histogram(np.clip(r[start:end], edges[0], edges[-1]), edges)[0]
        rows += [
            {
                "part": "cell",
                "freq": significant(left),
                "freq_end": significant(right),
                "n": end - start,
                "r": float(edges[i]),
                "r_end": float(edges[i + 1]),
                "share": rounded(counts[i] / (end - start)),
            }
            for i in np.flatnonzero(counts)
        ]
    return rows


def _lines(main: pl.DataFrame) -> Rows:
    """Points of the lines at features whose frequencies are evenly spaced on a log scale."""
    freq = main.get_column("freq").to_numpy()
    near = np.searchsorted(freq, np.geomspace(freq[0], freq[-1], LINE_POINTS) * (1 - 1e-9))
    some = main[np.unique(near.clip(max=len(freq) - 1)).tolist()]
    return [
        {"part": "line", "series": series, "freq": significant(at), "r": rounded(value)}
        for series, column in LINES.items()
        for at, value in some.filter(pl.col(column) <= 1).select("freq", column).iter_rows()
    ]
