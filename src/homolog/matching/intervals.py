"""Mean and median MPPC with 95 % intervals from documents resampled (Efron 1979).

Documents, not tokens, are the unit: tokens of one document are not independent.  A replicate draws
as many documents as there are, with replacement; with w_d the times that document d was drawn, each
feature's correlation with its partner is

    n = sum_d w_d n_d,   S_x = sum_d w_d sum_{t in d} x_t   (S_y, S_xx, S_yy, S_xy likewise)
    r = (S_xy / n - S_x S_y / n^2) / sqrt((S_xx / n - S_x^2 / n^2)(S_yy / n - S_y^2 / n^2))

exactly as if the drawn documents were concatenated.  The interval of a mean (median) has the width
from the 2.5 % to the 97.5 % quantile of those of the replicates, which is taken about their mean
and laid around the mean (median) itself: a feature that is constant in a replicate is left out of
it, and those are rare features, whose r is not that of the others.

**What the interval covers:** other text of the same kind, for these two models, these dictionaries
and these partners.  The partner of each feature is held fixed, as found on the whole stream, so the
search for the maximum (whose upward bias rare features feel most) is not repeated; other SAE seeds,
model seeds or corpora are not covered either: the skyline rows show those.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import polars as pl
from jaxtyping import Float, Int

from homolog.errors import InputError
from homolog.features import check_same_stream
from homolog.matching.columns import Columns
from homolog.matching.layers import Layer, LayerFacts
from homolog.matching.moments import own_sums, pair_sums
from homolog.matching.tables import SUMMARY

FREQUENT_ACTIVATIONS = 30
SIDES = ("model", "label", "best_model", "best_label")
HIGH_MATCH = 0.7
INTERVAL = (0.025, 0.975)
"""Quantiles of resamples between which a 95 % interval lies."""
_COLUMNS_AT_ONCE = 1024


@dataclass(frozen=True)
class Resamples:
    """Draws of documents: how often each was drawn, float64, and the document of every token."""

    counts: Float[np.ndarray, "documents replicates"]
    document: Int[np.ndarray, "token"]  # int64, 0 ... documents - 1
    tokens: Int[np.ndarray, "documents"]  # tokens of each document

    @classmethod
    def draw(cls, document: np.ndarray, n_replicates: int, seed: int) -> Resamples:
        """Draw the documents in `document` (tokens,) with replacement, `n_replicates` times."""
        _, number, tokens = np.unique(document, return_inverse=True, return_counts=True)
        generator = np.random.default_rng(seed)
        n = len(tokens)
        counts = generator.multinomial(n, np.full(n, 1 / n), size=n_replicates).T.astype(np.float64)
        return cls(counts, number.astype(np.int64), tokens.astype(np.int64))


def resampled_pairs(
    a: Columns, b: Columns, pairs: Int[np.ndarray, "pairs 2"], resamples: Resamples
) -> Float[np.ndarray, "pairs replicates"]:
    """Pearson r of features (i of a, j of b) on every resample, float32; NaN where constant.

    pairs: original feature indices, both not constant.
    """
    weights, n = resamples.counts, resamples.tokens @ resamples.counts
    given = resamples.document, len(resamples.tokens)
    x, xx, of_a = _own_means(a, a.position[pairs[:, 0]], resamples)
    y, yy, of_b = _own_means(b, b.position[pairs[:, 1]], resamples)
    out = np.empty((len(pairs), weights.shape[1]), dtype=np.float32)
    for here in _chunks(len(pairs)):
        i, j = of_a[here], of_b[here]
        positions = a.position[pairs[here, 0]], b.position[pairs[here, 1]]
        xy = pair_sums(a, b, positions, *given).T @ weights / n
        var_x, var_y = xx[i] - x[i] * x[i], yy[j] - y[j] * y[j]
        defined = (var_x > 1e-12 * xx[i]) & (var_y > 1e-12 * yy[j])
        scale = np.sqrt(np.where(defined, var_x * var_y, 1.0))
        out[here] = np.where(defined, np.clip((xy - x[i] * y[j]) / scale, -1, 1), np.nan)
    return out


def _own_means(
    side: Columns, position: np.ndarray, resamples: Resamples
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Means of x and of x^2 on every resample, float64 (columns, replicates), of the columns that
    stand at these positions, each once; and for each position its row there.
    """
    columns, row = np.unique(position, return_inverse=True)
    weights, n = resamples.counts, resamples.tokens @ resamples.counts
    means = np.empty((2, len(columns), weights.shape[1]))
    for here in _chunks(len(columns)):
        sums = own_sums(side, columns[here], resamples.document, len(resamples.tokens))
        for of, mean in zip(sums, means, strict=True):
            mean[here] = of.T @ weights / n
    return means[0], means[1], row


def _chunks(n: int) -> Iterator[slice]:
    return (slice(at, at + _COLUMNS_AT_ONCE) for at in range(0, n, _COLUMNS_AT_ONCE))


def summarise(
    matches: pl.DataFrame,
    features_a: Sequence[Layer],
    features_b: Sequence[Layer],
    columns: Callable[[Any], Columns],
    *,
    seed: int,
    n_replicates: int = 500,
    frequent: int = FREQUENT_ACTIVATIONS,
) -> pl.DataFrame:
    """Summary of one comparison, rows of `SUMMARY`: two directions x strata all, alive, frequent.

    matches: of the same features (`layers.tables_of`).  columns: gives the prepared columns of a
    layer, of which `by_column` is read.  all: every feature; alive: active on at least one token of
    the stream; frequent: on at least `frequent` tokens (each of the feature itself, whatever its
    partner does).  n_undefined counts the features of the stratum without a correlation (constant
    on the stream); mean, median and share_above_07 are over the others.  seed: of the resampled
    documents.
    """
    check_same_stream([*features_a, *features_b])
    if n_replicates < 1:
        requirement = "at least one resample is needed"
        raise InputError("n_replicates", n_replicates, requirement, "Give 500.")
    resamples = Resamples.draw(features_a[0].document, n_replicates, seed)
    rows = []
    for own, others in ((features_a, features_b), (features_b, features_a)):
        sides = (own[0].model, own[0].label, others[0].model, others[0].label)
        part = matches.filter(**dict(zip(SIDES, sides, strict=True)))
        replicates = replicates_of(part, own, others, resamples, columns)
        head = (part["comparison"][0], own[0].kind, *sides)
        n_active, r = part["n_active"].to_numpy(), part["r"].to_numpy().astype(np.float64)
        for stratum, floor in (("all", 0), ("alive", 1), ("frequent", frequent)):
            inside = n_active >= floor
            rows.append((*head, stratum, *_row(r[inside], replicates[inside])))
    return pl.DataFrame(rows, schema=SUMMARY, orient="row")


def replicates_of(
    part: pl.DataFrame,
    own: Sequence[Layer | LayerFacts],
    others: Sequence[Layer | LayerFacts],
    resamples: Resamples,
    columns: Callable[[Any], Columns],
) -> Float[np.ndarray, "rows replicates"]:
    """r of every row of `part` with its partner on every resample; NaN for one document."""
    out = np.full((len(part), resamples.counts.shape[1]), np.nan, dtype=np.float32)
    if len(resamples.tokens) < 2:  # every resample is the text itself: that is no interval
        return out
    layer, best_layer = part["layer"].to_numpy(), part["best_layer"].to_numpy()
    pairs = np.stack([part["feature"].to_numpy(), part["best_feature"].to_numpy()], axis=1)
    for features in own:
        for other in others:
            met = (layer == features.layer) & (best_layer == other.layer) & (pairs[:, 1] >= 0)
            rows = np.flatnonzero(met)
            if len(rows):
                both = columns(features), columns(other)
                out[rows] = resampled_pairs(*both, pairs[rows], resamples)
    return out


def _row(r: np.ndarray, replicates: np.ndarray) -> tuple[int | float, ...]:
    """Numbers of one stratum, from n_features to share_above_07."""
    defined = ~np.isnan(r)
    head = (len(r), int((~defined).sum()))
    if not defined.any():
        return (*head, *[float("nan")] * 7)
    r, replicates = r[defined], replicates[defined]
    mean = (r.mean(), *_interval(_means(replicates), r.mean()))
    median = (np.median(r), *_interval(_medians(replicates), np.median(r)))
    return (*head, *(float(number) for number in (*mean, *median, (r > HIGH_MATCH).mean())))


def _means(replicates: np.ndarray) -> np.ndarray:
    present = ~np.isnan(replicates)
    count = present.sum(axis=0)
    total = np.where(present, replicates, 0).sum(axis=0, dtype=np.float64)
    return np.where(count > 0, total / np.maximum(count, 1), np.nan)


def _medians(replicates: np.ndarray) -> np.ndarray:
    ordered = np.sort(np.ascontiguousarray(replicates.T), axis=1).astype(np.float64)  # NaN last
    count = (~np.isnan(ordered)).sum(axis=1)
    row, last = np.arange(len(ordered)), np.maximum(count - 1, 0)
    return (ordered[row, last // 2] + ordered[row, (last + 1) // 2]) / 2


def _interval(values: np.ndarray, at: float) -> tuple[float, float]:
    """The interval around `at`, from the values of the replicates."""
    values = values[~np.isnan(values)]
    if not len(values):
        return float("nan"), float("nan")
    lo, hi = np.clip(at + np.quantile(values, INTERVAL) - values.mean(), -1, 1)
    return float(lo), float(hi)
