"""Can a feature's partner in another model take its place?

Of a matched pair, i after block L of model A with activations a(t) and decoder direction d, j of
model B with activations b(t), A is run with its residual stream after block L changed at every
token t of a window that is not special:

    clean     h' = h
    zero      h' = h - a(t) d
    partner   h' = h + (c b(t) - a(t)) d          c = sum_t a(t) b(t) / sum_t b(t)^2
    random    the same with b of a random feature of j's layer that fires as often, within a
              factor of two, but does not match i (r < 0.2), and a c of its own

c is the least-squares scale on the documents of one half; the windows are from those of the other,
`WINDOWS` at random of those in which i or j fires.  There is no constant beside c: it would add d
to every token at which neither feature says anything.  Counted are, the same in all four, the
tokens from the first at which i or j fires to the end of each window, but for those whose next
token is special or outside the window.  At each of them

    loss   L  = -log p'(x)                              x: the token that comes next
    KL     KL = sum_v p(v) (log p(v) - log p'(v))       p: clean, p': changed; KL_clean is 0

KL is what the loss becomes when x is drawn from the model's own clean prediction, less its entropy:
the same question without the chance in x, which moves single losses far more than a feature does.
Over pairs, with the means over each pair's tokens,

    recovered    = sum (L_zero - L_partner) / sum (L_zero - L_clean)
    kl_recovered = sum (KL_zero - KL_partner) / sum KL_zero

1: the partner's activation is as good as the feature's own.  0: as good as none; a random feature's
must be near it.  Below: it does harm.  Ratios of sums, for what a single feature carries is often
too near 0 to divide by.  Intervals resample partners with all their pairs, as those of `auc`
(percentile bootstrap [Efron 1979]).

Efron, "Bootstrap methods: another look at the jackknife", Ann. Stat. 7, 1979.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import polars as pl
import torch
from jaxtyping import Float
from scipy.sparse import csc_array

from homolog.analyses.causal.auc import RANGES, number_of_partner, sums_by
from homolog.analyses.causal.effects import SHARE
from homolog.analyses.causal.forward import (
    ProbedModel,
    Streams,
    final_stream,
    in_groups,
    in_parts,
    logs_of,
    streams_of,
    windows_at_once,
)
from homolog.analyses.stream import Entries, Matrices, entries_of, place_of, split_documents
from homolog.corpus import TokenWindows
from homolog.dictionaries.seeds import generator
from homolog.matching.homologs import LEAST_R
from homolog.matching.intervals import INTERVAL
from homolog.progress import told
from homolog.record.tables import LOSS_RECOVERED, SUBSTITUTIONS

WINDOWS = 6
FIT, TEST = 0, 1
VARIANTS = ("zero", "partner", "random")
_NAMES = ("model", "layer", "feature", "best_model", "best_layer", "best_feature")
_TESTED = ("clean", *VARIANTS)
_COSTS = (*(f"loss_{name}" for name in _TESTED), *(f"kl_{name}" for name in VARIANTS))
_MEASURES = {"": "loss", "kl_": "kl"}
"""Of columns of `LOSS_RECOVERED`: how they begin, and what they are about."""
RECOVERED_SCHEMA = LOSS_RECOVERED.only(
    *(name for name in LOSS_RECOVERED.columns if name not in ("model", "best_model"))
)


@dataclass(frozen=True)
class _Places:
    """The stream of features laid out in windows, and which of it fits and which tests."""

    context: int
    window: np.ndarray
    """Of every row of the features."""
    position: np.ndarray
    fits: np.ndarray
    tested: np.ndarray
    """Whether a row lies in a window whose documents are all of the test's half."""

    @classmethod
    def of(cls, windows: TokenWindows, seed: int) -> _Places:
        kept = windows.mask.reshape(-1)
        window, position = place_of(windows, np.arange(int(kept.sum())))
        part = split_documents(windows.document.reshape(-1)[kept], (0.5, 0.5), seed)
        n_other = np.bincount(window[part != TEST], minlength=len(windows))
        return cls(windows.context, window, position, part == FIT, n_other[window] == 0)

    def laid_out(self, entries: Entries, window: int) -> Float[np.ndarray, " position"]:
        """A feature's activations at the positions of a window; 0 where it is silent."""
        values = np.zeros(self.context, dtype=np.float32)
        first, last = np.searchsorted(self.window[entries.rows], [window, window + 1])
        values[self.position[entries.rows[first:last]]] = entries.values[first:last]
        return values


@dataclass(frozen=True)
class _Substitution:
    """One window of a pair: what is added along the feature's direction, by variant."""

    pair: int
    window: int
    layer: int
    feature: int
    first: int
    """Position from which losses count."""
    amounts: Float[np.ndarray, "variant position"]


def substitute(
    pairs: pl.DataFrame,
    windows: TokenWindows,
    a: ProbedModel,
    matrix_of: Matrices,
    best_matrix_of: Matrices,
    *,
    seed: int = 0,
) -> pl.DataFrame:
    """The losses of every matched pair of `pairs` (`choose_pairs`): `SUBSTITUTIONS`.

    a: the model of the features.  Pairs whose partner never fires in the half that fits, or that
    have no window to test, are left out; what is about a random feature is NaN where none fires as
    often.
    """
    places = _Places.of(windows, seed)
    rows: list[dict[str, Any]] = []
    work: list[_Substitution] = []
    matched = pairs.filter("matched")
    for (layer, best_layer), group in matched.group_by("layer", "best_layer", maintain_order=True):
        own = matrix_of(int(layer)).tocsc()  # type: ignore[arg-type]
        others = best_matrix_of(int(best_layer)).tocsc()  # type: ignore[arg-type]
        for pair in group.iter_rows(named=True):
            random = generator(seed, "substitution", *(pair[name] for name in _NAMES))
            made = _prepared(pair, len(rows), (own, others), places, random)
            if made is not None:
                rows.append(made[0])
                work += made[1]
    costs, counts = _costs(work, len(rows), windows, a)
    rows = [
        row | {"n_tokens": int(n)} | dict(zip(_COSTS, map(float, cost), strict=True))
        for row, cost, n in zip(rows, costs, counts, strict=True)
        if n
    ]
    of_random = pl.when(pl.col("random_feature") >= 0).then(pl.col("loss_random", "kl_random"))
    return SUBSTITUTIONS.frame(rows).with_columns(of_random.otherwise(np.nan))


def _prepared(
    pair: dict[str, Any],
    number: int,
    layers: tuple[csc_array, csc_array],
    places: _Places,
    random: np.random.Generator,
) -> tuple[dict[str, Any], list[_Substitution]] | None:
    """The row of a pair, and its windows with what is put in; None where it cannot be tested."""
    own, others = layers
    x, y = entries_of(own, pair["feature"]), entries_of(others, pair["best_feature"])
    scale = _scale(x, y, places.fits)
    fires = np.union1d(x.rows, y.rows)
    possible = np.unique(places.window[fires[places.tested[fires]]])
    if np.isnan(scale) or not len(possible):
        return None
    feature, random_scale = _random_feature(pair["best_feature"], x, others, places.fits, random)
    z = entries_of(others, feature) if feature >= 0 else None
    chosen = np.sort(random.permutation(possible)[:WINDOWS])
    work = []
    for window in map(int, chosen):
        amounts = np.tile(-places.laid_out(x, window), (len(VARIANTS), 1))
        amounts[1] += np.float32(scale) * places.laid_out(y, window)
        if z is not None:
            amounts[2] += np.float32(random_scale) * places.laid_out(z, window)
        first = int(places.position[fires[places.window[fires] == window]].min())
        work.append(_Substitution(number, window, pair["layer"], pair["feature"], first, amounts))
    row = {name: pair[name] for name in ("pair", *_NAMES, "r")} | {"scale": scale}
    row |= {"random_feature": feature, "random_scale": random_scale, "n_windows": len(chosen)}
    return row, work


def _scale(x: Entries, y: Entries, fits: np.ndarray) -> float:
    """c of y for x on the rows that fit; NaN where y never fires there."""
    _, in_x, in_y = np.intersect1d(x.rows, y.rows, assume_unique=True, return_indices=True)
    fit = fits[x.rows[in_x]]
    a, b = (e.values[at].astype(np.float64)[fit] for e, at in ((x, in_x), (y, in_y)))
    square = float((y.values[fits[y.rows]].astype(np.float64) ** 2).sum())
    return float(a @ b) / square if square > 0 else np.nan


def _random_feature(
    partner: int, x: Entries, others: csc_array, fits: np.ndarray, random: np.random.Generator
) -> tuple[int, float]:
    """(feature, c) of one that fires as often as the partner and does not match; (-1, NaN): none.

    As often: within a factor of two.  Not matching: r < 0.2 with the feature.
    """
    n_active = np.diff(others.indptr)
    with np.errstate(divide="ignore"):
        near = np.abs(np.log2(n_active / n_active[partner])) <= 1
    near[partner] = False
    for feature in random.permutation(np.flatnonzero(near)):
        z = entries_of(others, feature)
        scale = _scale(x, z, fits)
        if not np.isnan(scale) and _correlation(x, z, len(fits)) < LEAST_R:
            return int(feature), scale
    return -1, np.nan


def _correlation(x: Entries, y: Entries, n: int) -> float:
    """Pearson r over all n tokens."""
    _, in_x, in_y = np.intersect1d(x.rows, y.rows, assume_unique=True, return_indices=True)
    a, b = x.values.astype(np.float64), y.values.astype(np.float64)
    cov = a[in_x] @ b[in_y] / n - a.sum() * b.sum() / n**2
    variances = (v @ v / n - (v.sum() / n) ** 2 for v in (a, b))
    return float(cov / np.sqrt(np.prod(list(variances))))


@torch.inference_mode()
def _costs(
    work: list[_Substitution], n_pairs: int, windows: TokenWindows, a: ProbedModel
) -> tuple[Float[np.ndarray, "pairs costs"], np.ndarray]:
    """Means of `_COSTS` over each pair's tokens, and how many these are."""
    sums, counts = np.zeros((n_pairs, len(_COSTS))), np.zeros(n_pairs, dtype=np.int64)
    at_once = windows_at_once(windows)
    step = max(1, at_once // len(VARIANTS))
    window = np.array([each.window for each in work], dtype=np.int64)
    for here in told(in_groups(window, at_once), SHARE, 1.0):
        group = sorted((work[k] for k in here), key=lambda each: each.layer)
        layers = sorted({each.layer for each in group})
        streams = streams_of(a.model, windows, window[here], layers)
        for layer in layers:
            own = [each for each in group if each.layer == layer]
            for batch in (own[first : first + step] for first in range(0, len(own), step)):
                pair, costs = _costs_of(batch, windows, a, streams)
                np.add.at(sums, pair, costs)
                counts += np.bincount(pair, minlength=n_pairs)
    return sums / np.maximum(counts, 1)[:, None], counts


def _costs_of(
    batch: list[_Substitution], windows: TokenWindows, a: ProbedModel, streams: Streams
) -> tuple[np.ndarray, Float[np.ndarray, "token costs"]]:
    """(pair, `_COSTS`) of every token that counts, in windows of one layer."""
    layer, window = batch[0].layer, np.array([each.window for each in batch])
    rows = streams.rows(window)
    h, clean = streams.own[layer][rows], streams.final[rows]
    direction = a.dictionaries[layer].W_dec.to(h.device)[[each.feature for each in batch]]
    amounts = torch.from_numpy(np.stack([each.amounts for each in batch])).to(direction)
    steps = amounts[..., None] * direction[:, None, None]
    before, embedded = (
        None if whole is None else whole[rows].repeat_interleave(len(VARIANTS), 0)
        for whole in (streams.before[layer], streams.embedded)
    )
    changed = (h[:, None] + steps.to(h.dtype)).flatten(0, 1)
    changed = final_stream(a.model, layer, changed, before, embedded)
    changed = changed.unflatten(0, (len(batch), len(VARIANTS)))
    row, position = _counted(windows, window, np.array([each.first for each in batch]))
    parts = [np.empty((0, len(_COSTS)))]
    for part in in_parts(len(row), a.model):
        at, place = torch.from_numpy(row[part]), torch.from_numpy(position[part])
        following = windows.tokens[window[row[part]], position[part] + 1]
        x = torch.from_numpy(following).long().to(h.device)[:, None]
        log_p = logs_of(a.model, clean[at, place])
        p = log_p.exp()
        losses, divergences = [-log_p.gather(1, x)[:, 0]], []
        for variant in range(len(VARIANTS)):
            log_q = logs_of(a.model, changed[at, variant, place])
            losses.append(-log_q.gather(1, x)[:, 0])
            divergences.append((p * (log_p - log_q)).sum(-1))
        costs = torch.stack([*losses, *divergences], dim=-1)
        parts.append(costs.double().cpu().numpy())
    pair = np.array([each.pair for each in batch])
    return pair[row], np.concatenate(parts)


def _counted(
    windows: TokenWindows, window: np.ndarray, first: np.ndarray
) -> tuple[np.ndarray, np.ndarray]:
    """(place in `window`, position) of tokens from `first` on whose next token is not special."""
    following = windows.mask[window][:, 1:]
    row, position = np.nonzero(following & (np.arange(windows.context - 1) >= first[:, None]))
    return row, position


def loss_recovered(
    substitutions: pl.DataFrame, *, n_replicates: int = 1000, seed: int = 0
) -> pl.DataFrame:
    """What partners, and random features, recover of loss and KL (`RECOVERED_SCHEMA`).

    By range of r, the first of which is above 0.7.  Ends are NaN for fewer than two partners.  A
    random feature's numbers are over the pairs that have one.
    """
    rows = []
    r = substitutions["r"].to_numpy().astype(np.float64)
    zeros = pl.lit(0.0).alias("kl_clean")
    kinds = {prefix: [f"{of}_{name}" for name in _TESTED] for prefix, of in _MEASURES.items()}
    values = substitutions.with_columns(zeros)
    for above, to in RANGES:
        inside = values.filter((r > above) & (r <= to))
        random = generator(seed, "loss recovered", above, to)
        row = {"above_r": above, "to_r": to, "n": len(inside)}
        for prefix, names in kinds.items():
            costs = inside.select(names).to_numpy().reshape(-1, len(names))
            row[f"{prefix}cost"] = (
                float((costs[:, 1] - costs[:, 0]).mean()) if len(costs) else np.nan
            )
            chance = ~np.isnan(costs[:, 3])
            partner = number_of_partner(inside)
            given = {"recovered": (costs[:, :3], partner)}
            given |= {"random": (costs[chance][:, [0, 1, 3]], partner[chance])}
            for what, (of_pairs, numbers) in given.items():
                at, lo, hi = _ratio(of_pairs, numbers, n_replicates, random)
                name = f"{prefix}{what}"
                row |= {name: at, f"{name}_lo": lo, f"{name}_hi": hi}
        rows.append(row)
    return pl.DataFrame(rows, schema=RECOVERED_SCHEMA)


def _ratio(
    costs: Float[np.ndarray, "pairs 3"],
    partner: np.ndarray,
    n_replicates: int,
    random: np.random.Generator,
) -> tuple[float, float, float]:
    """(ratio of sums, lo, hi) of costs clean, zero, and with something in its place."""
    differences = np.stack([costs[:, 1] - costs[:, 2], costs[:, 1] - costs[:, 0]], axis=1)
    sums = sums_by(partner, differences)
    n = len(sums)
    ratio = float(_quotient(sums.sum(axis=0)[None])[0]) if n else np.nan
    if n < 2:
        return ratio, np.nan, np.nan
    drawn = random.integers(n, size=(n_replicates, n))
    ratios = _quotient(sums[drawn].sum(axis=1))
    defined = ratios[~np.isnan(ratios)]
    if not len(defined):
        return ratio, np.nan, np.nan
    lo, hi = np.quantile(defined, INTERVAL)
    return ratio, float(lo), float(hi)


def _quotient(sums: np.ndarray) -> np.ndarray:
    with np.errstate(invalid="ignore", divide="ignore"):
        return np.where(sums[:, 1] != 0, sums[:, 0] / sums[:, 1], np.nan)
