"""How well a feature is matched, against how simple it is: binned curves and rank correlations.

    rho = Pearson correlation of the ranks of x (r, or excess) and y (a measure)  [Spearman 1904]
    partial rho = the same of what is left of both ranks after a linear fit on the rank of the
    firing frequency and on
                  the layer, as a category

The unit is the feature: intervals are 2.5 and 97.5 % quantiles over features drawn with
replacement, ranks (and fits) kept.  They say how well this set of features pins the number down;
features of neighbouring layers resemble each other, so they are rather too narrow.
"""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from typing import Any

import numpy as np
import polars as pl
from scipy.stats import rankdata

from homolog.analyses.analysis import Tables
from homolog.analyses.material import Material
from homolog.analyses.relation import MEASURES, RATED
from homolog.errors import InputError
from homolog.matching.intervals import INTERVAL
from homolog.record.comparisons import shown
from homolog.record.sides import CURRENT_TOKEN, MAIN_LABEL, NEURON
from homolog.record.tables import CURVES, FEATURES, MATCHES, RATINGS, RELATION
from homolog.record.tables.describing import FEATURE_KEY

HEIGHTS = ("r", "excess")
LEAST_FEATURES = 10  # behind a correlation
_DIRECTION = ("comparison", "model", "best_model", "best_label")


def measure_study(material: Material) -> Tables:
    """Task: every measure of the features, and of the ratings where there are some, against r."""
    features = material.table(FEATURES)
    if material.has(RATINGS):
        ratings = material.table(RATINGS).select(*FEATURE_KEY, *RATED)
        features = features.join(ratings, on=FEATURE_KEY, how="left")
    compared = [model.name for model in material.compared]
    matches = related(material.table(MATCHES)).filter(pl.col("model").is_in(compared))
    relation, curves = relate(matches, features, seed=material.seed)
    return {RELATION.name: relation, CURVES.name: curves}


def related(matches: pl.DataFrame) -> pl.DataFrame:
    """The matches of main features with other models: of results, baselines and skylines.

    A repeat adds nothing.  The current token is no model: how well it matches a feature is how
    much of the feature it predicts, which is one of the measures.
    """
    names = shown(matches["comparison"].unique())
    return matches.filter(
        pl.col("comparison").is_in(names),
        pl.col("kind") != NEURON,
        pl.col("label") == MAIN_LABEL,
        pl.col("best_model") != CURRENT_TOKEN.name,
    )


def relate(
    matches: pl.DataFrame,
    features: pl.DataFrame,
    *,
    bins: Sequence[float] = tuple(np.linspace(0, 1, 11)),
    resamples: int = 200,
    seed: int = 0,
) -> tuple[pl.DataFrame, pl.DataFrame]:
    """The tables `RELATION` and `CURVES`: every direction, measure and height, r or excess.

    matches: model, layer, feature, comparison, best_model, best_label, r, freq, and excess where a
    null was run.  features: model, layer, feature and the measures; those that are missing or
    undefined everywhere are left out, and so are features of which one of the numbers is not
    defined.
    bins: edges of the height in the curve; values beyond count in the outermost bin.  In the curve
    `median` is that of the measure in the bin, lo and hi its 95 % interval: the order statistics of
    ranks n/2 -+ 0.98 sqrt(n), from the normal approximation of a binomial; NaN for fewer than 6
    features, which have no such ranks.  Medians, because R^2 has no lower bound.
    """
    if list(bins) != sorted(bins) or len(bins) < 2:
        requirement = "edges must ascend, and there must be two at least"
        raise InputError("bins", bins, requirement, "Give edges such as 0, 0.5, 1.")
    measures = [name for name in MEASURES if name in features.columns]
    heights = [name for name in HEIGHTS if name in matches.columns]
    joined = matches.join(features.select(*FEATURE_KEY, *measures), on=FEATURE_KEY)
    rows, curves = [], []
    for direction, part in joined.group_by(_DIRECTION, maintain_order=True):
        for x, y in itertools.product(heights, measures):
            usable = part.filter(pl.col(x).is_finite(), pl.col(y).cast(pl.Float64).is_finite())
            if usable.height < LEAST_FEATURES:
                continue
            about = dict(zip(_DIRECTION, direction, strict=True)) | {"of": x, "measure": y}
            numbers = rank_correlation(usable, x, y, resamples, seed)
            rows.append(about | {"n": usable.height} | numbers)
            curves += [about | cell for cell in _curve(usable, x, y, np.asarray(bins))]
    return RELATION.frame(rows), CURVES.frame(curves)


def rank_correlation(
    rows: pl.DataFrame, x: str, y: str, resamples: int, seed: int
) -> dict[str, float]:
    """rho and partial rho of two columns with their intervals; NaN where one does not vary.

    The frame has `freq` and `layer`, which the partial correlation holds fixed.
    """
    ranks = np.stack([rankdata(rows[name].to_numpy()) for name in (x, y)])
    held = _design(rankdata(rows["freq"].to_numpy()), rows["layer"].to_numpy())
    left = ranks - (held @ np.linalg.lstsq(held, ranks.T, rcond=None)[0]).T
    rng, n = np.random.default_rng(seed), ranks.shape[1]
    draws = [np.bincount(rng.integers(0, n, n), minlength=n) for _ in range(resamples)]
    rho, lo, hi = _with_interval(ranks, draws)
    partial, partial_lo, partial_hi = (np.nan,) * 3
    if np.ptp(left, axis=1).min() > 1e-6:
        partial, partial_lo, partial_hi = _with_interval(left, draws)
    of_rest = {"partial": partial, "partial_lo": partial_lo, "partial_hi": partial_hi}
    return {"rho": rho, "lo": lo, "hi": hi} | of_rest


def _with_interval(values: np.ndarray, draws: Sequence[np.ndarray]) -> tuple[float, float, float]:
    """Pearson correlation of two rows, and its quantiles under the weights of the draws."""
    rho = _weighted_correlation(values, np.ones(values.shape[1]))
    if not (np.isfinite(rho) and len(draws)):
        return rho, np.nan, np.nan
    drawn = [_weighted_correlation(values, weights.astype(float)) for weights in draws]
    lo, hi = np.nanquantile(drawn, INTERVAL)
    return rho, float(lo), float(hi)


def _design(freq_rank: np.ndarray, layer: np.ndarray) -> np.ndarray:
    """Columns that are held fixed: one of ones for each layer, and the rank of the frequency."""
    layers = np.unique(layer)
    return np.column_stack([layer[:, None] == layers[None, :], freq_rank]).astype(np.float64)


def _weighted_correlation(values: np.ndarray, weights: np.ndarray) -> float:
    """Pearson correlation of two rows under weights; NaN where one does not vary."""
    x, y = values - (values @ weights / weights.sum())[:, None]
    xx, yy, xy = (float((a * b) @ weights) for a, b in ((x, x), (y, y), (x, y)))
    return xy / (xx * yy) ** 0.5 if xx > 0 and yy > 0 else float("nan")


def _curve(rows: pl.DataFrame, x: str, y: str, edges: np.ndarray) -> list[dict[str, Any]]:
    at = np.clip(np.searchsorted(edges, rows[x].to_numpy(), side="right") - 1, 0, len(edges) - 2)
    values = rows[y].to_numpy().astype(np.float64)
    cells = []
    for number in np.unique(at):
        inside = np.sort(values[at == number])
        n = len(inside)
        low, high = (round(n / 2 + sign * 0.98 * n**0.5) for sign in (-1, 1))
        lo, hi = (inside[low - 1], inside[high - 1]) if low >= 1 and high <= n else (np.nan, np.nan)
        start, end = edges[number : number + 2]
        numbers = {"start": start, "end": end, "median": np.median(inside), "lo": lo, "hi": hi}
        floats = {name: float(value) for name, value in numbers.items()}
        cells.append({"bin": int(number), "n": n} | floats)
    return cells
