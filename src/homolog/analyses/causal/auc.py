"""How often a matched pair agrees more than its control: the area under the curve, by pairs.

Pair k has a matched agreement m_k and that of its control c_k: the same feature with one that fires
as often as the partner and with it, but does not correlate with it.  Over n pairs

    AUC = 1/n sum_k s_k,     s_k = 1 where m_k > c_k, 1/2 where they are equal, 0 else

which is P(matched > control) + P(equal) / 2 [Bamber 1975], within features: 0.5 is chance, and no
quantile of a small sample decides.  To resample pairs is to draw n of the s_k, that is, from a
binomial distribution; its interval is Wilson's [1927], with z the 97.5 % quantile of a normal,

    (AUC + z^2 / 2n +- z sqrt(AUC (1 - AUC) / n + z^2 / 4n^2)) / (1 + z^2 / n)

which keeps a width where every s_k is 1, as a bootstrap would not.  Ties have less variance than it
allows for.  Beside it

    difference   = mean_k (m_k - c_k)
    standardised = difference / sqrt((var m + var c) / 2)            Cohen's d_av [Cumming 2012]

whose intervals, as those of the means, resample pairs with their controls (percentile bootstrap
[Efron 1979]).

Bamber, "The area above the ordinal dominance graph and the area below the receiver operating
characteristic graph", J. Math. Psychol. 12, 1975.  Wilson, "Probable inference, the law of
succession, and statistical inference", JASA 22, 1927.  Cumming, "Understanding the new statistics",
2012.  Efron, "Bootstrap methods: another look at the jackknife", Ann. Stat. 7, 1979.
"""

from __future__ import annotations

import warnings
from itertools import pairwise

import numpy as np
import polars as pl
from jaxtyping import Float
from scipy.stats import norm

from homolog.analyses.causal.effects import EFFECTS
from homolog.dictionaries.seeds import generator
from homolog.matching.intervals import HIGH_MATCH
from homolog.record.tables import CAUSAL_AUC

BINS = (0.0, 0.5, 0.7, 0.8, 0.9, 1.0)
RANGES = ((HIGH_MATCH, 1.0), *pairwise(BINS))
"""Of r, each above its first and up to its second; the first one is that of the study's number."""
AUC_SCHEMA = CAUSAL_AUC.only(*(n for n in CAUSAL_AUC.columns if n not in ("model", "best_model")))
_Z = float(norm.ppf(0.975))
_NO_SPREAD = 1e-9  # a resample of one pair alone; rounding leaves its variance above 0
_COMPARED = ("mean", "control_mean", "difference", "standardised")


def causal_auc(
    agreements: pl.DataFrame, *, n_replicates: int = 1000, seed: int = 0
) -> pl.DataFrame:
    """The area under the curve (`AUC_SCHEMA`), by effect and range of r.

    The first row, ablation here for r above 0.7, is the study's number.  Pairs whose agreement is
    NaN, or that have no control with one, are left out of that effect.  Intervals of means are NaN
    for fewer than two pairs.
    """
    rows = []
    controls = agreements.filter(~pl.col("matched"))
    for (kind, where), prefix in EFFECTS.items():
        own = controls.select("pair", control=f"{prefix}_r")
        table = agreements.filter("matched").join(own, on="pair", how="inner")
        both = table.select(f"{prefix}_r", "control").to_numpy().astype(np.float64)
        defined = ~np.isnan(both).any(axis=1)
        r = table["r"].to_numpy().astype(np.float64)
        random = generator(seed, "causal auc", kind, where)
        for above, to in RANGES:
            inside = both[(r > above) & (r <= to) & defined]
            row = {"kind": kind, "where": where, "above_r": above, "to_r": to, "n": len(inside)}
            rows.append(row | _auc(inside) | _compared(inside, n_replicates, random))
    return pl.DataFrame(rows, schema=AUC_SCHEMA)


def _auc(both: Float[np.ndarray, "pairs 2"]) -> dict[str, float]:
    """AUC with Wilson's interval."""
    n = len(both)
    if not n:
        return dict.fromkeys(("auc", "auc_lo", "auc_hi"), np.nan)
    difference = both[:, 0] - both[:, 1]
    auc = float(((1 + np.sign(difference)) / 2).mean())
    middle = auc + _Z**2 / (2 * n)
    half = _Z * np.sqrt(auc * (1 - auc) / n + (_Z / (2 * n)) ** 2)
    lo, hi = ((middle + sign * half) / (1 + _Z**2 / n) for sign in (-1, 1))
    lo, hi = min(float(lo), auc), max(float(hi), auc)  # 0 and 1 exactly, where rounding misses them
    return {"auc": auc, "auc_lo": lo, "auc_hi": hi}


def _compared(
    both: Float[np.ndarray, "pairs 2"], n_replicates: int, random: np.random.Generator
) -> dict[str, float]:
    """Means, their difference and its size in standard deviations, with intervals."""
    n, estimates = len(both), np.full(len(_COMPARED), np.nan)
    ends = np.full((2, len(_COMPARED)), np.nan)
    if n:
        estimates = _contrasts(both[None])[0]
    if n > 1:
        drawn = random.integers(n, size=(n_replicates, n))
        with warnings.catch_warnings():  # where nothing varies in any resample the ends are NaN
            warnings.filterwarnings("ignore", "All-NaN", RuntimeWarning)
            ends = np.nanquantile(_contrasts(both[drawn]), [0.025, 0.975], axis=0)
    values: dict[str, float] = {}
    for place, name in enumerate(_COMPARED):
        values |= {name: float(estimates[place])}
        values |= {f"{name}_lo": float(ends[0, place]), f"{name}_hi": float(ends[1, place])}
    return values


def _contrasts(both: Float[np.ndarray, "replicates pairs 2"]) -> np.ndarray:
    """`_COMPARED` of each replicate; the last is NaN where nothing varies."""
    mean = both.mean(axis=1)
    difference = mean[:, 0] - mean[:, 1]
    if both.shape[1] < 2:
        return np.column_stack([mean, difference, np.full(len(both), np.nan)])
    sd = np.sqrt(both.var(axis=1, ddof=1).mean(axis=1))
    with np.errstate(invalid="ignore", divide="ignore"):
        standardised = np.where(sd > _NO_SPREAD, difference / sd, np.nan)
    return np.column_stack([mean, difference, standardised])
