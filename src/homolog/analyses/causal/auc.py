"""How often a matched pair agrees more than its controls: the area under the curve, by pairs.

Pair k has a matched agreement m_k and those of its controls c_kl, l = 1..L_k: the same feature with
ones that fire as often as the partner and with it, but do not correlate with it.  Over n pairs

    AUC = 1/n sum_k s_k,     s_k = 1/L_k sum_l ([m_k > c_kl] + [m_k = c_kl] / 2)

which is P(matched > control) + P(equal) / 2 [Bamber 1975], within features: 0.5 is chance, and no
quantile of a small sample decides.  Its interval is Wilson's [1927], with z the 97.5 % quantile of
a normal,

    (AUC + z^2 / 2n' +- z sqrt(AUC (1 - AUC) / n' + z^2 / 4n'^2)) / (1 + z^2 / n')

which keeps a width where every s_k is 1, as a bootstrap would not.  Comparisons are not
independent: those of one pair share m_k, and several features share a partner, as one that a model
carries through its blocks.  So n' is the number of independent comparisons whose mean varies as
much as this one when the G partners are drawn with all their pairs [Korn and Graubard 1998],

    n' = AUC (1 - AUC) / V,     V = G / (G - 1) sum_g (sum_{k in g} (s_k - AUC))^2 / n^2

at least n^2 / sum_g n_g^2, which it is where the n_g pairs of a partner are all alike, and which is
taken where all win, and at most sum_k L_k.  Beside it, with c_k the mean over a pair's controls,

    difference   = mean_k (m_k - c_k)
    standardised = difference / sqrt((var m + var c) / 2)            Cohen's d_av [Cumming 2012]

var c being that of single controls, every pair counted alike.  Their intervals, as those of the
means, resample partners with all their pairs (percentile bootstrap [Efron 1979]).

Bamber, "The area above the ordinal dominance graph and the area below the receiver operating
characteristic graph", J. Math. Psychol. 12, 1975.  Wilson, "Probable inference, the law of
succession, and statistical inference", JASA 22, 1927.  Korn and Graubard, "Confidence intervals for
proportions with small expected number of positive counts estimated from survey data", Survey
Methodology 24, 1998.  Cumming, "Understanding the new statistics", 2012.  Efron, "Bootstrap
methods: another look at the jackknife", Ann. Stat. 7, 1979.
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
from homolog.matching.intervals import HIGH_MATCH, INTERVAL
from homolog.record.tables import CAUSAL_AUC

BINS = (0.0, 0.5, 0.7, 0.8, 0.9, 1.0)
RANGES = ((HIGH_MATCH, 1.0), *pairwise(BINS))
"""Of r, each above its first and up to its second; the first one is that of the study's number."""
AUC_SCHEMA = CAUSAL_AUC.only(*(n for n in CAUSAL_AUC.columns if n not in ("model", "best_model")))
PARTNER = ("best_layer", "best_feature")
_Z = float(norm.ppf(0.975))
_NO_SPREAD = 1e-6  # rounding leaves a standard deviation above 0
_COMPARED = ("mean", "control_mean", "difference", "standardised")


def causal_auc(
    agreements: pl.DataFrame, *, n_replicates: int = 1000, seed: int = 0
) -> pl.DataFrame:
    """The area under the curve (`AUC_SCHEMA`), by effect and range of r.

    The first row, ablation here for r above 0.7, is the study's number.  Pairs whose agreement is
    NaN, or that have no control with one, are left out of that effect.  Intervals of means are NaN
    for fewer than two partners.
    """
    rows = []
    matched, controls = (agreements.filter(pl.col("matched") == which) for which in (True, False))
    for (kind, where), prefix in EFFECTS.items():
        own = controls.pivot("control", index="pair", values=f"{prefix}_r")
        table = matched.select("pair", "r", *PARTNER, f"{prefix}_r").join(own, on="pair")
        every = table.drop("pair", "r", *PARTNER).cast(pl.Float64).to_numpy()
        r, partner = table["r"].to_numpy().astype(np.float64), number_of_partner(table)
        defined = ~np.isnan(every[:, 0]) & ~np.isnan(every[:, 1:]).all(axis=1)
        random = generator(seed, "causal auc", kind, where)
        for above, to in RANGES:
            inside = (r > above) & (r <= to) & defined
            row = {"kind": kind, "where": where, "above_r": above, "to_r": to, "n": inside.sum()}
            given = every[inside], partner[inside]
            rows.append(row | _auc(*given) | _compared(*given, n_replicates, random))
    return pl.DataFrame(rows, schema=AUC_SCHEMA)


def number_of_partner(table: pl.DataFrame) -> np.ndarray:
    """Of every row, the number of its partner; rows with the same partner have the same."""
    return table.select(pl.struct(PARTNER).rank("dense")).to_series().to_numpy()


def sums_by(number: np.ndarray, values: Float[np.ndarray, "row value"]) -> np.ndarray:
    """Sums of the values over rows of one number (number value)."""
    distinct, place = np.unique(number, return_inverse=True)
    sums = np.zeros((len(distinct), values.shape[1]))
    np.add.at(sums, place, values)
    return sums


def _auc(
    every: Float[np.ndarray, "pairs match_and_controls"], partner: np.ndarray
) -> dict[str, float]:
    """AUC with its interval; controls that a pair lacks are NaN."""
    n = len(every)
    if not n:
        return dict.fromkeys(("auc", "auc_lo", "auc_hi"), np.nan)
    won = (1 + np.sign(every[:, :1] - every[:, 1:])) / 2
    share = np.nanmean(won, axis=1)
    auc = float(share.mean())
    apart, n_of_partner = sums_by(partner, np.column_stack([share - auc, np.ones(n)])).T
    n_partners, n_alike = len(apart), n**2 / (n_of_partner**2).sum()
    if n_partners > 1 and (variance := (apart**2).sum()) > 0:
        variance *= n_partners / (n_partners - 1) / n**2
        n_alike = np.clip(auc * (1 - auc) / variance, n_alike, np.isfinite(won).sum())
    middle = auc + _Z**2 / (2 * n_alike)
    half = _Z * np.sqrt(auc * (1 - auc) / n_alike + (_Z / (2 * n_alike)) ** 2)
    lo, hi = ((middle + sign * half) / (1 + _Z**2 / n_alike) for sign in (-1, 1))
    lo, hi = min(float(lo), auc), max(float(hi), auc)  # 0 and 1 exactly, where rounding misses them
    return {"auc": auc, "auc_lo": lo, "auc_hi": hi}


def _compared(
    every: Float[np.ndarray, "pairs match_and_controls"],
    partner: np.ndarray,
    n_replicates: int,
    random: np.random.Generator,
) -> dict[str, float]:
    """Means, their difference and its size in standard deviations, with intervals."""
    estimates, ends = np.full(len(_COMPARED), np.nan), np.full((2, len(_COMPARED)), np.nan)
    if len(every):
        matched, controls = every[:, 0], every[:, 1:]
        of_controls = (np.nanmean(values, axis=1) for values in (controls, controls**2))
        moments = np.column_stack([np.ones(len(every)), matched, matched**2, *of_controls])
        sums = sums_by(partner, moments)
        estimates = _contrasts(sums.sum(axis=0)[None])[0]
        if (n_partners := len(sums)) > 1:
            drawn = random.integers(n_partners, size=(n_replicates, n_partners))
            with warnings.catch_warnings():  # where nothing varies in any resample ends are NaN
                warnings.filterwarnings("ignore", "All-NaN", RuntimeWarning)
                replicates = _contrasts(sums[drawn].sum(axis=1))
                ends = np.nanquantile(replicates, INTERVAL, axis=0)
    values: dict[str, float] = {}
    for place, name in enumerate(_COMPARED):
        values |= {name: float(estimates[place])}
        values |= {f"{name}_lo": float(ends[0, place]), f"{name}_hi": float(ends[1, place])}
    return values


def _contrasts(sums: Float[np.ndarray, "replicates 5"]) -> np.ndarray:
    """`_COMPARED` of each replicate; the last is NaN where nothing varies.

    sums: over pairs, of 1, m, m^2, and the means over a pair's controls of c and of c^2.
    """
    n = sums[:, 0]
    matched, square, control, control_square = (sums[:, 1:] / n[:, None]).T
    spread = np.maximum(square - matched**2, 0) + np.maximum(control_square - control**2, 0)
    with np.errstate(invalid="ignore", divide="ignore"):
        sd = np.sqrt(spread / 2 * n / (n - 1))  # NaN of one pair
        standardised = np.where(sd > _NO_SPREAD, (matched - control) / sd, np.nan)
    return np.column_stack([matched, control, matched - control, standardised])
