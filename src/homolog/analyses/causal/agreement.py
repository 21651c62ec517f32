"""How far two features agree in their effects, summed over the tokens of their pair.

    r = sum_t cov_w(delta_A, delta_B) / sqrt(sum_t var_w(delta_A)  sum_t var_w(delta_B))

delta, w and the moments are those of `effects`, here or later.  Sums over positions let a position
count as far as something happens there.  Where the tokenizers differ and the tokens in common hold
less than `LEAST_SHARED` of either model's predictions, r is NaN (`two_tokenizers`).
"""

from __future__ import annotations

import numpy as np
import polars as pl

from homolog.analyses.causal.effects import EFFECTS, SIZES
from homolog.analyses.causal.pairs import LEAST_POSITIONS
from homolog.analyses.causal.two_tokenizers import LEAST_SHARED, SHARED
from homolog.dictionaries.seeds import generator
from homolog.matching.intervals import INTERVAL
from homolog.record.tables import CAUSAL

_MEASURED = ("r", "lo", "hi", "n", *SIZES)


def agreement(
    pairs: pl.DataFrame, effects: pl.DataFrame, *, n_replicates: int = 1000, seed: int = 0
) -> pl.DataFrame:
    """`pairs` with r, lo, hi, n, kl and best_kl of every effect of `EFFECTS`: `CAUSAL`.

    r: the agreement, NaN where an effect is nil or there are no positions.  lo, hi: 95 % interval
    from the pair's interventions resampled (percentile bootstrap), NaN for fewer than
    `LEAST_POSITIONS`.  n: interventions.  kl: mean effect of one in nats.  Of two tokenizers also
    `SHARED`: means of what tokens in common hold.
    """
    measures = _MEASURED + tuple(name for name in SHARED if name in effects.columns)
    random, rows = generator(seed, "agreement"), []
    by_pair = effects.partition_by("pair", "control", "kind", "where", as_dict=True)
    for pair, control in pairs.select("pair", "control").iter_rows():
        row: dict[str, float] = {}
        for (kind, where), prefix in EFFECTS.items():
            own = by_pair.get((pair, control, kind, where), effects.clear())
            measured = _of_positions(own, n_replicates, random)
            row |= {f"{prefix}_{name}": value for name, value in measured.items()}
        rows.append(row)
    schema = CAUSAL.only(*(f"{prefix}_{name}" for prefix in EFFECTS.values() for name in measures))
    return pl.concat([pairs, pl.DataFrame(rows, schema=schema)], how="horizontal")


def _of_positions(
    effects: pl.DataFrame, n_replicates: int, random: np.random.Generator
) -> dict[str, float]:
    """What is measured of the effects of one pair and kind."""
    moments = effects.select("var", "best_var", "cov").to_numpy()
    n = len(moments)
    lo = hi = np.nan
    if n >= LEAST_POSITIONS:
        drawn = random.integers(n, size=(n_replicates, n))
        lo, hi = np.quantile(_correlation(moments[drawn].sum(axis=1)), INTERVAL)
    r = float(_correlation(moments.sum(axis=0)[None])[0])
    means = {
        name: float(np.mean(effects[name].to_numpy())) if n else np.nan
        for name in (*SIZES, *SHARED)
        if name in effects.columns
    }
    if any(means.get(name, 1.0) < LEAST_SHARED for name in SHARED):
        r = lo = hi = np.nan
    return {"r": r, "lo": float(lo), "hi": float(hi), "n": n} | means


def _correlation(sums: np.ndarray) -> np.ndarray:
    """r of rows (var, best_var, cov); NaN where a variance is 0."""
    with np.errstate(invalid="ignore", divide="ignore"):
        return sums[:, 2] / np.sqrt(sums[:, 0] * sums[:, 1])
