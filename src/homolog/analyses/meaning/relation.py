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

from collections.abc import Sequence

import numpy as np
import polars as pl
from scipy.stats import rankdata

from homolog.errors import InputError

MEASURES = (
    "token_entropy",
    "token_r2",
    "context_tokens",
    "consistency",
    "context_consistency",
    "complexity",
    "consistency_judged",
    "detection",
)
MATCHED = ("r", "excess")
RELATION_SCHEMA = {
    **dict.fromkeys(("comparison", "model", "best_model", "of", "measure"), pl.String),
    "n": pl.Int64,
    **dict.fromkeys(("rho", "lo", "hi", "partial", "partial_lo", "partial_hi"), pl.Float64),
}
CURVE_SCHEMA = {
    **dict.fromkeys(("comparison", "model", "best_model", "of", "measure"), pl.String),
    "bin": pl.Int32,
    **dict.fromkeys(("start", "end"), pl.Float64),
    "n": pl.Int64,
    **dict.fromkeys(("median", "lo", "hi"), pl.Float64),
}
_DIRECTION = ("comparison", "model", "best_model")


def relate(
    matches: pl.DataFrame,
    features: pl.DataFrame,
    *,
    measures: Sequence[str] = MEASURES,
    bins: Sequence[float] = tuple(np.linspace(0, 1, 11)),
    resamples: int = 200,
    seed: int = 0,
) -> tuple[pl.DataFrame, pl.DataFrame]:
    """(`RELATION_SCHEMA`, `CURVE_SCHEMA`) for each comparison and direction of `matches`, each
    measure, r and excess.

    matches: model, layer, feature, best_model, comparison, r, freq, and excess where a null was
    run.  features: model, layer, feature and the measures; those that are missing or undefined
    everywhere are left out, and so are features of which one of the numbers is not defined.  bins:
    edges of x in the curve; values beyond count in the outermost bin. In the curve `median` is that
    of the measure in the bin, lo and hi its 95 % interval: the order statistics of ranks n/2 -+
    0.98 sqrt(n), from the normal approximation of a binomial; NaN for fewer than 6 features, which
    have no such ranks.  Medians, because R^2 has no lower bound.
    """
    if not list(bins) == sorted(bins) or len(bins) < 2:
        raise InputError(
            "bins",
            bins,
            "edges must ascend, and there must be two at least",
            "Give edges such as 0, 0.5, 1.",
        )
    known = [name for name in measures if name in features.columns]
    of = [name for name in MATCHED if name in matches.columns]
    joined = matches.join(
        features.select("model", "layer", "feature", *known), on=["model", "layer", "feature"]
    )
    rows, curves = [], []
    for direction, part in joined.group_by(_DIRECTION, maintain_order=True):
        for x in of:
            for y in known:
                usable = part.filter(pl.col(x).is_finite(), pl.col(y).cast(pl.Float64).is_finite())
                if usable.height < 10:
                    continue
                base = dict(zip(_DIRECTION, direction, strict=True)) | {"of": x, "measure": y}
                rows.append(
                    base | {"n": usable.height} | rank_correlation(usable, x, y, resamples, seed)
                )
                curves += [base | cell for cell in _curve(usable, x, y, np.asarray(bins))]
    return pl.DataFrame(rows, schema=RELATION_SCHEMA), pl.DataFrame(curves, schema=CURVE_SCHEMA)


def rank_correlation(
    rows: pl.DataFrame, x: str, y: str, resamples: int, seed: int
) -> dict[str, float]:
    """rho and partial rho of two columns with their intervals; NaN where one of them does not vary.

    The frame has `freq` and `layer`, which the partial correlation holds fixed.
    """
    ranks = np.stack([rankdata(rows[name].to_numpy()) for name in (x, y)])
    held = _design(rankdata(rows["freq"].to_numpy()), rows["layer"].to_numpy())
    left = ranks - (held @ np.linalg.lstsq(held, ranks.T, rcond=None)[0]).T
    rng = np.random.default_rng(seed)
    n = ranks.shape[1]
    draws = [
        np.bincount(rng.integers(0, n, n), minlength=n).astype(float) for _ in range(resamples)
    ]
    found = {}
    for name, values, variable in (
        ("", ranks, True),
        ("partial_", left, np.ptp(left, axis=1).min() > 1e-6),
    ):
        rho = _weighted_correlation(values, np.ones(n)) if variable else float("nan")
        drawn = (
            [_weighted_correlation(values, weights) for weights in draws]
            if np.isfinite(rho)
            else []
        )
        lo, hi = np.nanquantile(drawn, [0.025, 0.975]) if drawn else (np.nan, np.nan)
        found |= {name.rstrip("_") or "rho": rho, f"{name}lo": float(lo), f"{name}hi": float(hi)}
    return found


def _design(freq_rank: np.ndarray, layer: np.ndarray) -> np.ndarray:
    """Columns that are held fixed: one of ones for each layer, and the rank of the frequency."""
    layers = np.unique(layer)
    return np.column_stack([layer[:, None] == layers[None, :], freq_rank]).astype(np.float64)


def _weighted_correlation(values: np.ndarray, weights: np.ndarray) -> float:
    """Pearson correlation of two rows under weights; NaN where one does not vary."""
    centred = values - (values @ weights / weights.sum())[:, None]
    xx, yy, xy = (
        float((a * b) @ weights) for a, b in ((centred[0],) * 2, (centred[1],) * 2, centred)
    )
    return xy / (xx * yy) ** 0.5 if xx > 0 and yy > 0 else float("nan")


def _curve(rows: pl.DataFrame, x: str, y: str, edges: np.ndarray) -> list[dict[str, float | int]]:
    at = np.clip(np.searchsorted(edges, rows[x].to_numpy(), side="right") - 1, 0, len(edges) - 2)
    values = rows[y].to_numpy().astype(np.float64)
    cells = []
    for number in np.unique(at):
        inside = np.sort(values[at == number])
        n = len(inside)
        low, high = (round(n / 2 + sign * 0.98 * n**0.5) for sign in (-1, 1))
        lo, hi = (inside[low - 1], inside[high - 1]) if low >= 1 and high <= n else (np.nan, np.nan)
        start, end = (float(edge) for edge in edges[number : number + 2])
        cells.append(
            {
                "bin": int(number),
                "start": start,
                "end": end,
                "n": n,
                "median": float(np.median(inside)),
                "lo": float(lo),
                "hi": float(hi),
            }
        )
    return cells
