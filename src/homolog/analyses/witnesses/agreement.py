"""How far two witnesses agree about the same features, beyond chance.

    p_o = (n_yes,yes + n_no,no) / n          p_e = p_1 p_2 + (1 - p_1)(1 - p_2)
    kappa = (p_o - p_e) / (1 - p_e)          [Cohen 1960]

over the features of which both say something; p_1, p_2: the share that either calls shared.  Two
witnesses that both say yes of nearly everything agree often and say nothing: kappa is 0 in
expectation where one's answers have nothing to do with the other's, and 1 where they are the same.
Where one says the same of all features there is nothing to agree on, and it is NaN.

Interval: 2.5 and 97.5 % quantiles over lines through layers drawn with replacement (Efron 1979).
The residual stream carries a feature on, and its copies in later layers are no further evidence: a
line, from the layer where it is born, is one draw (`analyses/flow`).  Without a flow each feature
is its own.  Drawing lines is drawing their kinds, n lines of the same four counts being alike: a
multinomial over distinct counts.  Where a witness gives its rarer answer on fewer than
`LEAST_LINES` lines, draws without any decide, and there is no interval (NaN).  What the interval
does not cover is other text.

Cohen, "A coefficient of agreement for nominal scales", 1960.
"""

from __future__ import annotations

import itertools
from typing import Any

import numpy as np
import polars as pl
from jaxtyping import Float, Int

from homolog.analyses.witnesses.rules import NAMES
from homolog.matching.intervals import INTERVAL
from homolog.record.tables import WITNESS_AGREEMENT
from homolog.record.tables.describing import FEATURE_KEY

RESAMPLES = 1000
LEAST_LINES = 10
CELLS = ("both", "alone", "other_alone", "neither")
DIRECTION = ["model", "best_model"]


def agreement(
    said: pl.DataFrame, lines: pl.DataFrame | None = None, *, resamples: int = RESAMPLES, seed: int
) -> pl.DataFrame:
    """`WITNESS_AGREEMENT`: every direction and two witnesses that say anything of one feature.

    said: `WITNESSES`.  lines: model, layer, feature, born_layer and born_feature, as in `FLOW`.
    """
    random = np.random.default_rng(seed)
    rows = []
    for direction, part in with_lines(said, lines).group_by(DIRECTION, maintain_order=True):
        about = dict(zip(DIRECTION, direction, strict=True))
        for one, other in itertools.combinations(NAMES, 2):
            known = part.drop_nulls([one, other])
            if len(known):
                facts = about | {"witness": one, "other": other}
                rows.append(facts | _compared(known, one, other, resamples, random))
    return WITNESS_AGREEMENT.frame(rows)


def with_lines(said: pl.DataFrame, lines: pl.DataFrame | None) -> pl.DataFrame:
    """The rows with born_layer and born_feature: the beginning of each feature's line."""
    own = said.with_columns(born_layer="layer", born_feature="feature")
    if lines is None:
        return own
    born = lines.select(*FEATURE_KEY, "born_layer", "born_feature").drop_nulls()
    return own.update(born, on=FEATURE_KEY, how="left")


def _counts(one: str, other: str) -> list[pl.Expr]:
    """Of two columns of answers, the counts of `CELLS`."""
    first, second = pl.col(one), pl.col(other)
    cells = (first & second, first & ~second, ~first & second, ~first & ~second)
    return [cell.sum().cast(pl.Int64).alias(name) for name, cell in zip(CELLS, cells, strict=True)]


def _compared(
    known: pl.DataFrame, one: str, other: str, resamples: int, random: np.random.Generator
) -> dict[str, Any]:
    """What two witnesses say of features of which both say something."""
    counted = _counts(one, other)
    by_line = known.group_by("born_layer", "born_feature").agg(counted)
    lo, hi = _interval(by_line, resamples, random)
    cells = known.select(counted).row(0)
    both, alone, other_alone, neither = cells
    return {
        "n": len(known),
        "n_lines": len(by_line),
        "both": both,
        "alone": alone,
        "other_alone": other_alone,
        "agreement": (both + neither) / len(known),
        "kappa": float(kappa(np.array([cells]))[0]),
        "kappa_lo": lo,
        "kappa_hi": hi,
    }


def _interval(
    by_line: pl.DataFrame, resamples: int, random: np.random.Generator
) -> tuple[float, float]:
    """Of kappa, from lines with their counts of `CELLS`."""
    kinds = by_line.group_by(CELLS).len().sort(CELLS)
    counts, n = kinds.select(CELLS).to_numpy(), kinds["len"].to_numpy()
    answers = [(0, 1), (2, 3), (0, 2), (1, 3)]  # of either witness, yes and no
    if min(n[counts[:, cells].any(axis=1)].sum() for cells in answers) < LEAST_LINES:
        return np.nan, np.nan
    drawn = random.multinomial(n.sum(), n / n.sum(), size=resamples)
    lo, hi = np.nanquantile(kappa(drawn @ counts), INTERVAL)
    return float(lo), float(hi)


def kappa(cells: Int[np.ndarray, "tables 4"]) -> Float[np.ndarray, " tables"]:
    """Cohen's kappa of tables of counts, in the order of `CELLS`; NaN where a side is constant."""
    both, alone, other_alone, neither = cells.T
    n, first, second = cells.sum(axis=1), both + alone, both + other_alone
    observed = (both + neither) / n
    chance = (first * second + (n - first) * (n - second)) / n**2
    varies = (first > 0) & (first < n) & (second > 0) & (second < n)
    return np.where(varies, (observed - chance) / np.where(varies, 1 - chance, 1.0), np.nan)
