"""What a partner explains of a feature beyond what all controls explain of it together.

x is the feature, y its partner, u_1 ... u_K its best partners in the controls that were run, s(t)
the current token.  Shares of the variance of x, over tokens t:

    V_partner  = 1 - sum_t (x - a - b y)^2 / sum_t (x - mean)^2 = r(x, y)^2
    V_controls = 1 - sum_t (x - a' - m(s) - sum_k c_k (u_k - m_k(s)))^2 / sum_t (x - mean)^2
    beyond     = V_partner - V_controls

with least squares for a, a', b and c, and m(s), m_k(s) what the tokens s in all *other* documents
say of x and u_k, those of other groups: a mean for each token learns rare tokens by heart.  For n_s
tokens s there, of mean x_s,

    m(s) = n_s / (n_s + noise / spread) x_s

with the variance of x within kinds of tokens, `noise`, and that of their true means, `spread`, by
the analysis of variance; 0 where that finds none.  A mean of few tokens is noise, thousands of them
together as much as n_kinds / n of the variance, and taken at its word the token would hide what the
other controls explain.  Tokens that are in one group alone count as one.  Without the current
token among the controls, all tokens count as one.

So the controls are taken together, each at its best, against the partner alone: a feature that is
a mixture of a token and of what an untrained model has too is explained by neither, but by both.
Controls with the same noise as the partner give `beyond` near 0, where a partial correlation given
them does not: their noise leaves a part of what they have in common with x for y to explain.

Interval: documents are the unit, dealt into `GROUPS` groups of about one length.  Moving a, b and c
does not change the sums to first order, so that the influence of a group g on `beyond` is

    d_g = (left by the controls in g - left by y in g - beyond x (sum of (x - mean)^2 in g)) / total
    se  = sqrt(G / (G - 1) sum_g d_g^2),      t = beyond / se with G - 1 degrees of freedom

p is one-sided, for beyond <= 0, and q is that of Benjamini and Hochberg within a direction.

Sources: the comparison of two models that do not contain each other by the mean difference of their
squared errors is that of Diebold & Mariano, "Comparing Predictive Accuracy", J. Bus. Econ. Stat.
1995, and Vuong, Econometrica 1989; influence and groups as in Efron & Tibshirani 1993, ch. 11; the
shrunk means are best linear predictors of a one-way random-effects model, with the components of
variance by Henderson, "Estimation of Variance and Covariance Components", Biometrics 1953.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
import polars as pl
import scipy.stats
from jaxtyping import Float, Int

from homolog.matching import beyond_kernels as kernels
from homolog.matching.columns import Columns, SparseEntries
from homolog.matching.gathered import Place, gathered, places_of, rows_in_threads
from homolog.matching.tables import BEYOND

GROUPS = 32
_ROWS_AT_ONCE = 64


@dataclass(frozen=True)
class Grouping:
    """Tokens by kind, and by groups of documents.

    kind: int32 (tokens,).  group: int32 (tokens,).  count: float64 (groups, kinds), tokens.
    """

    kind: Int[np.ndarray, "token"]
    group: Int[np.ndarray, "token"]
    count: Float[np.ndarray, "groups kinds"]

    @classmethod
    def of(cls, document: np.ndarray, token: np.ndarray | None, n_groups: int = GROUPS) -> Grouping:
        """document: of each token.  token: its id; None where it is no control."""
        _, number, size = np.unique(document, return_inverse=True, return_counts=True)
        n_groups = max(1, min(n_groups, len(size)))
        dealt, load = np.zeros(len(size), np.int32), np.zeros(n_groups)
        for place in np.argsort(-size, kind="stable"):
            dealt[place] = load.argmin()
            load[dealt[place]] += size[place]
        group = dealt[number]
        kind = np.zeros(len(document), np.int32)
        if token is not None:
            in_groups = np.zeros((n_groups, token.max() + 1), bool)
            in_groups[group, token] = True
            common = np.flatnonzero(in_groups.sum(axis=0) > 1)
            kinds = np.zeros(in_groups.shape[1], np.int32)  # 0: what is in one group alone
            kinds[common] = np.arange(1, len(common) + 1)
            kind = kinds[token]
        count = np.zeros((n_groups, int(kind.max(initial=0)) + 1))
        np.add.at(count, (group, kind), 1)
        return cls(kind, group, count)

    @cached_property
    def counts(self) -> tuple[np.ndarray, ...]:
        """What `beyond_kernels.shares` is told of groups."""
        others = self.count.sum(axis=0) - self.count
        of_others = np.stack([others.sum(1), (others**2).sum(1), (others > 0).sum(1)], axis=1)
        return self.count, self.count.sum(axis=1), others, of_others


def beyond_controls(
    own: Place,
    partner: Place,
    controls: Sequence[Place],
    grouping: Grouping,
    columns: Callable[[Any], Columns],
    *,
    threads: int | None = None,
) -> pl.DataFrame:
    """One row of `BEYOND` for every row; NaN where the feature or its partner is undefined.

    own, partner, controls: where the columns of each row lie, a control's -1 where it has none.
    columns: gives the prepared columns of a layer, of which `by_column` is read; layers are asked
    for in turn.  control_r: sqrt of V_controls, 0 where that is negative.  threads: numba's by
    default; the result does not depend on it.
    """
    layer, n = own[1], len(own[1])
    shares = np.full((n, 3), np.nan)
    change = np.full((n, len(grouping.count)), np.nan)
    known = (own[2] >= 0) & (partner[2] >= 0)
    for number in np.unique(layer[known]):
        rows = np.flatnonzero(known & (layer == number))
        x, y = (gathered([place], rows, columns) for place in (own, partner))
        given = gathered(controls, rows, columns)
        shares[rows], change[rows] = _explained(x, y, given, grouping, len(rows), threads)
    return _frame(shares, change)


def beyond_matches(
    rows: pl.DataFrame,
    controls: Sequence[pl.DataFrame],
    grouping: Grouping,
    layers_of: Callable[[str, str], Sequence[Any]],
    columns: Callable[[Any], Columns],
    *,
    threads: int | None = None,
) -> pl.DataFrame:
    """One row of `BEYOND` for every match, in order; NaN where r is not defined.

    rows: of matches.  controls: for each control the best partner of each row, columns `PARTNER`,
    null where there is none.  layers_of: gives the layers of a (model, label), each with its number
    (`layer`).  The others: as for `beyond_controls`.
    """
    of_feature, of_partner, *of_controls = places_of(rows, controls, layers_of)
    return beyond_controls(of_feature, of_partner, of_controls, grouping, columns, threads=threads)


def _explained(
    x: SparseEntries,
    y: SparseEntries,
    controls: SparseEntries,
    grouping: Grouping,
    n: int,
    threads: int | None,
) -> tuple[np.ndarray, np.ndarray]:
    """Shares (n, 3) of n rows, and what each group of documents changes of them (n, groups)."""
    out, change = np.zeros((n, 3)), np.zeros((n, len(grouping.count)))
    columns, tokens = (tuple(x), tuple(y), tuple(controls)), (grouping.kind, grouping.group)
    counts = grouping.counts

    def work(first: int, last: int) -> None:
        kernels.shares(*columns, tokens, counts, np.arange(first, last), out, change)

    rows_in_threads(work, n, _ROWS_AT_ONCE, threads)
    return out, change


def _frame(shares: np.ndarray, change: np.ndarray) -> pl.DataFrame:
    partner, token, controls = shares.T
    beyond, n_groups = partner - controls, change.shape[1]
    se = p = np.full(len(beyond), np.nan)
    if n_groups > 1:
        se = np.sqrt(n_groups / (n_groups - 1) * (change**2).sum(axis=1))
        with np.errstate(divide="ignore", invalid="ignore"):
            p = scipy.stats.t.sf(beyond / se, n_groups - 1)
    values = {
        "token_r2": token,
        "control_r": np.sqrt(np.maximum(controls, 0)),
        "beyond": beyond,
        "beyond_se": se,
        "beyond_p": p,
    }
    return pl.DataFrame(values, schema=BEYOND)
