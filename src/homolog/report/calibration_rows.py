"""Rows of the calibration: r against the null of the maximum, and how many features pass which
test.

As in `aggregate`, every function returns a list of plain dicts with rounded numbers.  "Alive"
features fire on at least one token; they are what all shares here are of.
"""

from __future__ import annotations

import numpy as np
import polars as pl

from homolog.analyses.records import PairRecords, StudyRecords
from homolog.charts.words import is_number
from homolog.record.comparisons import comparison_of
from homolog.report.aggregate import Rows, panel, short

COLUMN_FEATURES = 100  # features of a column of the heatmap, at least
COLUMNS = 40  # at most
CELL = 0.04  # of r
LINE_POINTS = 60

CRITERIA = {
    "significant": ("Significant", "share_significant"),
    "homolog": ("Homolog", "share"),
    "mutual": ("Homolog, mutual", "share_mutual"),
    "one_to_one": ("Homolog, one to one", "share_one_to_one"),
    "stable": ("Homolog, stable", "share_stable"),
}
"""Titles of the tests, in the order of the figure, and their columns in shared.parquet."""

FACTORS = {
    "architecture": "the architecture searched",
    "model seed": "the training seed of the model searched",
    "SAE seed": "the seed of the dictionary searched",
    "depth": "the depth of the feature",
    "feature": "the feature itself",
    "residual": "nothing of these",
}


def calibration(records: PairRecords) -> Rows:
    """r of the main comparison by firing frequency, beside its null.

    Features in order of frequency are cut into columns of equally many (more where frequencies are
    equal). Part "cell": freq, freq_end, r, r_end and share, of the column's features; part "line":
    freq and r of some features from rare to frequent, with series "null", their `null_r`, or
    "significant", their `threshold`.
    """
    rows: Rows = []
    for side in "AB":
        main = records.matches.filter(
            (pl.col("comparison") == "main")
            & (pl.col("side") == side)
            & (pl.col("freq") > 0)
            & pl.col("r").is_finite()
            & pl.col("null_r").is_finite()
        ).sort("freq", "layer", "feature")
        if main.is_empty():
            continue
        freq, r = (main.get_column(name).cast(pl.Float64).to_numpy() for name in ("freq", "r"))
        shared = {"panel": panel(records, side, "sae")}
        rows += [{**shared, **cell} for cell in _cells(freq, r)]
        near = np.searchsorted(freq, np.geomspace(freq[0], freq[-1], LINE_POINTS) * (1 - 1e-9))
        some = main[sorted(set(near.clip(max=len(freq) - 1).tolist()))]
        for series, column in (("null", "null_r"), ("significant", "threshold")):
            rows += [
                {
                    **shared,
                    "part": "line",
                    "series": series,
                    "freq": _figures(at),
                    "r": short(value),
                }
                for at, value in some.filter(pl.col(column) <= 1).select("freq", column).iter_rows()
            ]
    return rows


def _cells(freq: np.ndarray, r: np.ndarray) -> Rows:
    """Cells of one panel; freq: ascending."""
    n_columns = max(1, min(COLUMNS, len(freq) // COLUMN_FEATURES))
    starts = sorted(
        {int(np.searchsorted(freq, freq[len(freq) * i // n_columns])) for i in range(n_columns)}
    )
    low = np.floor(min(0.0, float(r.min())) / CELL)
    edges = np.round(np.arange(low, np.ceil(1 / CELL) + 1) * CELL, 4)
    rows: Rows = []
    for start, end in zip(starts, [*starts[1:], len(freq)], strict=True):
        left, right = freq[start], freq[min(end, len(freq) - 1)]
        right = (
            right if right > left else left * 1.1
        )  # a last column of one frequency has a width, too
        counts = np.histogram(np.clip(r[start:end], edges[0], edges[-1]), edges)[0]
        rows += [
            {
                "part": "cell",
                "freq": _figures(left),
                "freq_end": _figures(right),
                "n": end - start,
                "r": float(edges[i]),
                "r_end": float(edges[i + 1]),
                "share": short(counts[i] / (end - start)),
            }
            for i in np.flatnonzero(counts)
        ]
    return rows


def criteria(records: PairRecords) -> Rows:
    """Shares of the alive features that pass each of `CRITERIA`, by direction and comparison, in
    the page's order.

    Those of the main comparison are the run's own, and so is the ceiling, the homologs of the
    SAE-seed skyline; of the skylines the significant ones are counted.  A test that was not made,
    or withheld, has no row.
    """
    rows: Rows = []
    for side in "AB":
        shared = records.shared_row(records.model_of(side), records.partner_of(side)) or {}
        for name in records.comparisons("sae"):
            alive = records.matches.filter(
                (pl.col("comparison") == name) & (pl.col("side") == side) & (pl.col("n_active") > 0)
            )
            if name == "main":
                shares = {key: shared.get(column) for key, (_, column) in CRITERIA.items()}
            elif comparison_of(name).role == "skyline":
                shares = {"significant": _significant(alive)}
                shares |= {"homolog": shared.get("ceiling")} if name == "sae-seed" else {}
            else:
                continue
            rows += [
                {
                    "panel": panel(records, side, "sae"),
                    "side": side,
                    "comparison": name,
                    "name": comparison_of(name).plain,
                    "criterion": criterion,
                    "title": CRITERIA[criterion][0],
                    "share": short(share),
                    "n": alive.height,
                }
                for criterion, share in shares.items()
                if is_number(share)
            ]
    order = list(CRITERIA)
    return sorted(rows, key=lambda row: (row["side"], order.index(row["criterion"])))


def _significant(alive: pl.DataFrame) -> float | None:
    """Share of the features whose r reaches the threshold of their frequency; None without a null."""
    known = alive.filter(pl.col("threshold").is_not_nan() & pl.col("r").is_not_nan())
    return (
        known.filter(pl.col("r") >= pl.col("threshold")).height / alive.height
        if known.height
        else None
    )


def variance(records: StudyRecords) -> Rows:
    """Shares of the variance of r by factor, as measured, in the order of `FACTORS`; unknown
    factors last.
    """
    if records.variance.is_empty():
        return []
    order = list(FACTORS)
    known = [name for name in records.compared if name in set(records.variance["model"].to_list())]
    rows = records.variance.filter(
        pl.col("model").is_in(known) & pl.col("share").is_finite()
    ).iter_rows(named=True)
    return sorted(
        (
            {
                "panel": f"Features of {row['model']}",
                "model": row["model"],
                "factor": row["factor"],
                "share": short(row["share"]),
                "n": row["n"],
            }
            for row in rows
        ),
        key=lambda row: (
            known.index(row["model"]),
            order.index(row["factor"]) if row["factor"] in order else len(order),
            row["factor"],
        ),
    )


def _figures(value: float) -> float:
    """Four significant figures: frequencies span many orders of magnitude."""
    return float(f"{value:.4g}")
