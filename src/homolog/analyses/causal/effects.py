"""What ablating and steering a feature does to the next tokens, and how alike two effects are.

At a position t, with h the residual stream after the block of the feature, d its decoder direction
(row of W_dec):

    ablate   h' = h - a(t) d     where both features of a pair fire; a(t): its activation there
    steer    h' = h + m d        where neither fires; m: its mean activation where it does
    delta(v | s) = log p'(v | s) - log p(v | s)          for every token v of the vocabulary

The rest of h stays, the dictionary's reconstruction error in it, and the later blocks run on h'.
The effect is taken "here", at s = t, on the next token; of an ablation also "later", at the up to
`LATER` positions s > t that follow in the window, which see it through the later blocks alone:
where both features of the pair have such a block.  Of a pair (i in A, j in B) are kept, at each s,
over the vocabulary around that position's means,

    var_w(delta_A), var_w(delta_B), cov_w(delta_A, delta_B),     w = (p_A + p'_A + p_B + p'_B) / 4

and summed over the later s.  Without weights the many tokens that no one expects would decide, for
they move most in log p and mean least; w counts a token as far as either model expects it, before
or after.  Where the tokenizers differ, `two_tokenizers` says what stands for the vocabulary.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import polars as pl
import torch
from jaxtyping import Float

from homolog.analyses.causal.forward import (
    ProbedModel,
    final_stream,
    in_groups,
    in_parts,
    logs_of,
    streams_of,
    vocabulary_of,
    windows_at_once,
)
from homolog.analyses.causal.two_tokenizers import (
    SHARED,
    LogProbabilities,
    Stops,
    TwoTokenizers,
    renormalised,
)
from homolog.analyses.stream import place_of
from homolog.corpus import TokenWindows
from homolog.progress import told
from homolog.record.tables.causal import LATER

SHARE = 0.5
"""Of the task, about; the partners in features' places are the rest."""
HERE = "here"
WHERE = {"ablate": (HERE, "later"), "steer": (HERE,)}
"""Where the effects of each kind of intervention are taken."""
EFFECTS = {
    (kind, where): kind if where == HERE else f"{kind}_{where}"
    for kind, places in WHERE.items()
    for where in places
}
"""The columns of `CAUSAL` on each effect begin with its name."""
SIZES = ("kl", "best_kl")
MOMENTS = ("var", "best_var", "cov", *SIZES)
Moments = Float[torch.Tensor, "read moment"]


@dataclass(frozen=True)
class _Reads:
    """Where the effects are taken: one entry per probe and stop, in order of both."""

    probe: np.ndarray
    stop: np.ndarray
    later: np.ndarray


@dataclass(frozen=True)
class _Additions:
    """What is added to a model's residual stream: one place and direction per probe."""

    window: np.ndarray
    position: np.ndarray
    layer: np.ndarray
    feature: np.ndarray
    amount: np.ndarray


def measure_effects(
    pairs: pl.DataFrame,
    probes: pl.DataFrame,
    windows: TokenWindows,
    a: ProbedModel,
    b: ProbedModel,
    two: TwoTokenizers | None = None,
) -> pl.DataFrame:
    """The moments of both effects, a row per probe and place where they are taken.

    Columns: those of `probes`, `where` ("here" or "later"), var, best_var, cov (nats^2), kl,
    best_kl (nats); sums over the later positions.  a: the model of the features, b: that of their
    partners.  kl: sum_v p log(p / p'), the size of the effect, over the whole vocabulary.  Of each
    model every window with a probe is run once, and its blocks after the feature's once for each
    probe.

    two: of models with different tokenizers, and windows is that of A.  `row` of a probe is then
    the unit at whose end it is, and two more columns, `SHARED`, have means over the positions.
    """
    keys = ["pair", "control"]
    sites = probes.join(pairs, on=keys, how="left", maintain_order="left", validate="m:1")
    if two is None:
        at_tokens = Stops.at_tokens(windows)
        stops = at_tokens, at_tokens
        stop = np.ravel_multi_index(place_of(windows, sites["row"].to_numpy()), windows.mask.shape)
    else:
        stops, stop = two.stops, sites["row"].to_numpy()
    seen_later = sites.select(
        pl.col("kind").is_in([kind for kind, places in WHERE.items() if len(places) > 1])
        & (pl.col("layer") < a.model.n_layers - 1)
        & (pl.col("best_layer") < b.model.n_layers - 1)
    )
    reads = _reads(seen_later.to_series().to_numpy(), stop, stops)
    names = MOMENTS if two is None else (*MOMENTS, *SHARED)
    sums = np.zeros((2, len(sites), len(names)))
    groups = in_groups(stops[0].window[stop], windows_at_once(windows))
    for here in told(groups, 0.0, SHARE):
        inside = np.isin(reads.probe, here)
        own = _Reads(reads.probe[inside], reads.stop[inside], reads.later[inside])
        own_probe = np.searchsorted(here, own.probe)
        streams: list[torch.Tensor] = []
        for probed, side, prefix in zip((a, b), stops, ("", "best_"), strict=True):
            columns = (f"{prefix}layer", f"{prefix}feature", f"{prefix}amount")
            added = (sites[name].to_numpy()[here] for name in columns)
            place = side.window[stop[here]], side.position[stop[here]]
            at = side.position[own.stop]
            streams += _streams_at(probed, side.windows, _Additions(*place, *added), own_probe, at)
        moments = _moments(a, b, streams, own.stop, two)
        np.add.at(sums, (own.later.astype(int), own.probe), moments.numpy())
    return _by_place(probes, reads, names, sums)


def _reads(seen_later: np.ndarray, stop: np.ndarray, stops: tuple[Stops, Stops]) -> _Reads:
    """Every stop at which the effect of a probe is taken: later ones in the windows of both."""
    after = np.arange(1 + LATER)
    every = stop[:, None] + after
    known = np.minimum(every, len(stops[0].window) - 1)
    taken = (known == every) & (seen_later[:, None] | (after == 0))
    for side in stops:
        taken &= side.window[known] == side.window[stop][:, None]
    probe, after = np.nonzero(taken)
    return _Reads(probe, stop[probe] + after, after > 0)


def _by_place(
    probes: pl.DataFrame, reads: _Reads, names: tuple[str, ...], sums: np.ndarray
) -> pl.DataFrame:
    """Sums (place, probe, name) as rows; no row where a probe has no position of that kind."""
    parts = []
    for later, where in enumerate((HERE, "later")):
        of_place = reads.probe[reads.later == bool(later)]
        there, n = np.unique(of_place, return_counts=True)
        values = dict(zip(names, sums[later, there].T, strict=True))
        values |= {name: values[name] / n for name in SHARED if name in values}
        columns = [pl.Series(name, value) for name, value in values.items()]
        parts.append(probes[there].with_columns(pl.lit(where).alias("where"), *columns))
    return pl.concat(parts)


@torch.inference_mode()
def _streams_at(
    probed: ProbedModel,
    windows: TokenWindows,
    added: _Additions,
    probe: np.ndarray,
    position: np.ndarray,
) -> tuple[torch.Tensor, torch.Tensor]:
    """The last stream at each read, as it is and changed (read, d_model).

    probe, position: of the reads, in the order of probes.
    """
    model, at_once = probed.model, windows_at_once(windows)
    streams = streams_of(model, windows, added.window, [int(at) for at in np.unique(added.layer)])
    of_window = streams.rows(added.window)
    clean = streams.final[of_window[torch.from_numpy(probe)], torch.from_numpy(position)]
    changed = torch.empty_like(clean)
    starts = np.searchsorted(probe, np.arange(len(added.position) + 1))
    ends = position[starts[1:] - 1] if len(probe) else position
    for layer in map(int, np.unique(added.layer)):
        directions = probed.dictionaries[layer].W_dec.to(model.device)
        own = np.flatnonzero(added.layer == layer)
        # in order of the last read: blocks need not run past that of a batch
        own = own[np.argsort(ends[own], kind="stable")]
        for batch in np.split(own, range(at_once, len(own), at_once)):
            until = int(ends[batch].max()) + 1
            h = streams.own[layer][of_window[batch], :until].clone()
            before, embedded = (
                None if whole is None else whole[of_window[batch], :until]
                for whole in (streams.before[layer], streams.embedded)
            )
            step = directions[torch.from_numpy(added.feature[batch]).long()]
            step = step * torch.from_numpy(added.amount[batch]).to(step)[:, None]
            h[torch.arange(len(batch)), torch.from_numpy(added.position[batch])] += step.to(h.dtype)
            final = final_stream(model, layer, h, before, embedded)
            for place, number in enumerate(batch):
                read = slice(starts[number], starts[number + 1])
                changed[read] = final[place, torch.from_numpy(position[read])]
    return clean, changed


@torch.inference_mode()
def _moments(
    a: ProbedModel,
    b: ProbedModel,
    streams: list[torch.Tensor],
    stop: np.ndarray,
    two: TwoTokenizers | None,
) -> Moments:
    """`MOMENTS` of every read, and `SHARED` of two tokenizers, float64, on the CPU.

    streams: of A as it is and changed, of B likewise.  stop: of each read; what the models say as
    they are is computed once for those of one stop.
    """
    n_values = len(MOMENTS) + (0 if two is None else len(SHARED))
    moments = torch.empty(len(stop), n_values, dtype=torch.float64)
    order = np.argsort(stop, kind="stable")
    for part in in_parts(len(stop), max(a.model, b.model, key=vocabulary_of)):
        _, first, again = np.unique(stop[order[part]], return_index=True, return_inverse=True)
        rows = torch.from_numpy(order[part])
        logs = []
        for model, clean, changed in ((a.model, *streams[:2]), (b.model, *streams[2:])):
            before = logs_of(model, clean[rows[first]])[torch.from_numpy(again)]
            logs += [log.double().cpu() for log in (before, logs_of(model, changed[rows]))]
        moments[rows] = _moments_of(*logs) if two is None else _shared_moments_of(two, logs)
    return moments


def _moments_of(*logs: LogProbabilities) -> Moments:
    """logs: of A before and after, of B likewise."""
    p = [t.exp() for t in logs]
    weight = sum(p) / 4
    x, y = logs[1] - logs[0], logs[3] - logs[2]
    kl = [-(p[0] * x).sum(-1), -(p[2] * y).sum(-1)]
    x, y = (t - (weight * t).sum(-1, keepdim=True) for t in (x, y))
    return torch.stack(
        [(weight * x * x).sum(-1), (weight * y * y).sum(-1), (weight * x * y).sum(-1), *kl], dim=-1
    )


def _shared_moments_of(two: TwoTokenizers, logs: list[torch.Tensor]) -> Moments:
    """The same over the tokens in common, sizes over all, and the mass in common of either."""
    own, best = two.tokens
    sides = zip((own, own, best, best), logs, strict=True)
    common, mass = zip(*(renormalised(tokens, log) for tokens, log in sides), strict=True)
    moments = _moments_of(*common)
    for place, (before, after) in enumerate((logs[:2], logs[2:])):
        moments[:, MOMENTS.index(SIZES[place])] = (before.exp() * (before - after)).sum(-1)
    masses = [(mass[0] + mass[1]) / 2, (mass[2] + mass[3]) / 2]
    return torch.cat([moments, torch.stack(masses, dim=-1)], dim=-1)
