"""Edges patched for real: the change of the metric when one edge carries its corrupt value.

    effect of u -> v at P  =  m(run in which v reads its input + (u_corrupt - u_clean) at P)
                              - m(clean run)                             P: positions

where the input that v reads is otherwise what the model computes, and everything after v is
computed anew.  An edge into a receiver of block l changes nothing before that block, so that the
pass starts there, from the clean residual stream.  A write is patched by what it changes in the
scan's output y, which is linear in it.  With m = -KL for "kl", a negative effect always means that
the edge helps.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np
import polars as pl
import torch
from jaxtyping import Bool, Float
from scipy.stats import rankdata
from torch import Tensor

from homolog.circuits.edges import LOGITS, Contrast, position_labels, senders, with_states_at
from homolog.circuits.metrics import interval, measure
from homolog.circuits.tables import CHOSEN_AS, CORRELATIONS, PATCHED_EDGES
from homolog.corpus.tasks.nearest import check_choice
from homolog.corpus.tasks.pairs import PromptPairs
from homolog.models.base import LanguageModel
from homolog.models.edits import Add, Edit
from homolog.models.sites import Site
from homolog.record.circuits import KL, LOGIT_DIFFERENCE, METRICS, RANK

SMOOTH_METRICS = tuple(name for name in METRICS if name != RANK)
# keeps this draw apart from others with the same seed
_DRAW = int.from_bytes(b"validated edges", "little")


class Validation(NamedTuple):
    """Real effects of some edges beside their scores.

    effects      columns `tables.PATCHED_EDGES`: the effect is a mean over prompts with its 95 %
                 interval, chosen_as is "top" or "random"
    correlation  columns `tables.CORRELATIONS`: of score and effect, by edges ("top", "random",
                 "all"); NaN where undefined
    """

    effects: pl.DataFrame
    correlation: pl.DataFrame


def validate(
    model: LanguageModel,
    pairs: PromptPairs,
    edges: pl.DataFrame,
    n_top: int = 20,
    n_random: int = 20,
    seed: int = 0,
    *,
    metric: str = LOGIT_DIFFERENCE,
    batch: int = 16,
) -> Validation:
    """Patch for real the edges with the largest scores in size, and others drawn at random.

    edges   of `discovery.discover`; the random ones are drawn from those whose score is not 0
            (where it is 0, the prompts do not differ on the edge, or nothing leads from it to the
            logits)
    metric  that of the scores
    batch   prompts in one pass
    """
    ranked = edges.sort(pl.col("score").abs(), descending=True)
    rest = ranked.slice(n_top).filter(pl.col("score") != 0)
    drawn = np.random.default_rng([_DRAW, seed]).permutation(len(rest))[:n_random]
    top, random = ranked.head(n_top), rest[np.sort(drawn).tolist()]
    chosen = pl.concat([top, random])
    by_prompt = edge_effects(model, pairs, chosen, metric=metric, batch=batch)
    names = ("effect", "effect_low", "effect_high")
    bounds = zip(names, interval(by_prompt, seed=seed), strict=True)
    of_top, of_random = CHOSEN_AS
    effects = chosen.with_columns(
        *(pl.Series(name, bound.numpy()) for name, bound in bounds),
        pl.Series("chosen_as", [of_top] * len(top) + [of_random] * len(random), dtype=pl.String),
    )
    return Validation(PATCHED_EDGES.frame(effects), _correlations(effects))


def edge_effects(
    model: LanguageModel,
    pairs: PromptPairs,
    edges: pl.DataFrame,
    *,
    metric: str = LOGIT_DIFFERENCE,
    batch: int = 16,
) -> Float[Tensor, "edge prompt"]:
    """The effect of each of `edges` (sender, receiver, tap, position) on each prompt, float64."""
    rows = edges.to_dicts()
    places = [_start(row) for row in rows]
    needed = sorted({site for site in places if site is not None}, key=lambda s: s.layer or 0)
    if not rows:
        return torch.zeros(0, len(pairs), dtype=torch.float64)
    final = Site("resid", model.n_layers - 1)
    names, labels = position_labels(pairs)
    chunks = []
    with torch.no_grad():
        for first in range(0, len(pairs), batch):
            chunk = slice(first, first + batch)
            contrast = Contrast.of(model, pairs[chunk], (*needed, final))
            clean = metric_of(contrast.logits, pairs[chunk], contrast.logits, metric)
            effects = []
            for row, place in zip(rows, places, strict=True):
                mask = (labels[chunk] == names.index(row["position"])).to(contrast.logits.device)
                logits = _patched(contrast, row, mask, contrast.clean[place or final], place)
                patched = metric_of(logits, pairs[chunk], contrast.logits, metric)
                effects.append(patched - clean)
            chunks.append(torch.stack(effects).double().cpu())
    return torch.cat(chunks, dim=1)


def metric_of(
    logits: Tensor, pairs: PromptPairs, clean_logits: Tensor, metric: str
) -> Float[Tensor, " prompt"]:
    """The metric of the last position's logits (prompt, vocabulary): more is better."""
    check_choice("metric", metric, SMOOTH_METRICS)
    measured = measure(logits, pairs, clean_logits)
    check_choice(f"metric for {pairs.name}", metric, measured)
    return -measured[KL] if metric == KL else measured[metric]


def _start(row: dict[str, Any]) -> Site | None:
    """Where the pass starts: before the receiver's block; None for the logits."""
    if row["receiver"] == LOGITS:
        return None
    return Site("resid_pre", Site.parse(row["receiver"]).layer)


def _patched(
    contrast: Contrast,
    row: dict[str, Any],
    mask: Bool[Tensor, "prompt position"],
    h: Tensor,
    start: Site | None,
) -> Float[Tensor, "prompt vocabulary"]:
    """Last logits with one edge patched where `mask` is; `h` is the clean stream at the start."""
    model = contrast.model
    if start is None:
        change = contrast.streams[:, -1:, _index(model, row["sender"])]
        return model.logits((h[:, -1:] + change * mask[:, -1:, None]).to(h.dtype))[:, 0]
    edit = _edit(contrast, row, mask)
    embedded = contrast.clean["embed"]
    return model.continue_from((start.layer or 0) - 1, h, [edit], True, embedded)[:, 0]


def _edit(contrast: Contrast, row: dict[str, Any], mask: Bool[Tensor, "prompt position"]) -> Edit:
    """What patches the edge: its difference, where `mask` is, added to what the receiver reads."""
    receiver = Site.parse(row["receiver"])
    layer = receiver.layer or 0
    inner = with_states_at(contrast.model, layer)
    if inner is not None and receiver.kind == inner.local_taps:
        change = contrast.taps(inner)[:, :, row["tap"]].unsqueeze(2)
        spread = mask.view(*mask.shape, *[1] * (change.ndim - 2))
        return Add(receiver, change * spread, taps=(row["tap"],))
    if inner is not None and receiver.kind == inner.state:
        return Add(Site(inner.readout, layer), contrast.written(inner, mask))
    change = contrast.streams[:, :, _index(contrast.model, row["sender"])]
    return Add(receiver, change * mask[..., None])


def _index(model: LanguageModel, sender: str) -> int:
    return senders(model).index(Site.parse(sender))


def _correlations(effects: pl.DataFrame) -> pl.DataFrame:
    groups = {kind: effects.filter(pl.col("chosen_as") == kind) for kind in CHOSEN_AS}
    rows = []
    for kind, group in (groups | {"all": effects}).items():
        x, y = group["score"].to_numpy(), group["effect"].to_numpy()
        finite = np.isfinite(x).all() and np.isfinite(y).all()
        spearman = _pearson(rankdata(x), rankdata(y)) if finite else np.nan
        correlations = {"pearson": _pearson(x, y), "spearman": spearman}
        rows.append({"edges": kind, "n": len(group)} | correlations)
    return CORRELATIONS.frame(rows)


def _pearson(x: np.ndarray, y: np.ndarray) -> float:
    """NaN for fewer than two values, or where all are equal."""
    if len(x) < 2 or not np.ptp(x) > 0 or not np.ptp(y) > 0:
        return float("nan")
    return float(np.corrcoef(x, y)[0, 1])
