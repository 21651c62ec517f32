"""What ablating and steering a feature does to the next token, and how alike two effects are.

At a position t, with h the residual stream after the block of the feature, d its decoder direction
(row of W_dec):

    ablate   h' = h - a(t) d     where both features of a pair fire; a(t): its activation there
    steer    h' = h + m d        where neither fires; m: its mean activation where it does
    delta(v) = log p'(v | t) - log p(v | t)              for every token v of the vocabulary

The rest of h stays, the dictionary's reconstruction error in it, and the later blocks run on h'.
The effect is taken at t itself, on the next token.  Of a pair (i in A, j in B) are kept, at each
position, over the vocabulary around that position's means,

    var_w(delta_A), var_w(delta_B), cov_w(delta_A, delta_B),     w = (p_A + p'_A + p_B + p'_B) / 4

Without weights the many tokens that no one expects would decide, for they move most in log p and
mean least; w counts a token as far as either model expects it, before or after.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
import polars as pl
import torch
from jaxtyping import Float

from homolog.analyses.stream import place_of
from homolog.corpus import TokenWindows
from homolog.dictionaries import SparseAutoencoder
from homolog.features.capture import FORWARD_TOKENS
from homolog.models import LanguageModel, Site
from homolog.models.edits import Transform

SIZES = ("kl", "best_kl")
MOMENTS = ("var", "best_var", "cov", *SIZES)
LogProbabilities = Float[torch.Tensor, "probe vocabulary"]


@dataclass(frozen=True)
class ProbedModel:
    """A model with the dictionaries, by layer, along whose directions something is added."""

    model: LanguageModel
    dictionaries: Mapping[int, SparseAutoencoder]


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
) -> pl.DataFrame:
    """`probes` with the moments of both effects: var, best_var, cov (nats^2), kl, best_kl (nats).

    a: the model of the features, b: that of their partners.  kl: sum_v p log(p / p'), the size of
    the effect.  Of each model every window with a probe is run once, and its blocks after the
    feature's once for each probe.
    """
    sites = probes.join(
        pairs, on=["pair", "matched"], how="left", maintain_order="left", validate="m:1"
    )
    window, position = place_of(windows, sites["row"].to_numpy())
    moments = np.full((len(sites), len(MOMENTS)), np.nan)
    for here in _by_windows(window, _at_once(windows)):
        logs = []
        for probed, prefix in ((a, ""), (b, "best_")):
            names = (f"{prefix}layer", f"{prefix}feature", f"{prefix}amount")
            added = (sites[name].to_numpy()[here] for name in names)
            logs += _log_probabilities(
                probed, windows, _Additions(window[here], position[here], *added)
            )
        moments[here] = _moments(*logs).numpy()
    return probes.with_columns(pl.Series(name, moments[:, k]) for k, name in enumerate(MOMENTS))


def _at_once(windows: TokenWindows) -> int:
    """Windows that are run together."""
    return max(1, FORWARD_TOKENS // windows.context)


def _by_windows(window: np.ndarray, at_once: int) -> list[np.ndarray]:
    """The probes in groups that lie in at most `at_once` windows."""
    rank = np.unique(window, return_inverse=True)[1] // at_once
    n_groups = int(rank.max()) + 1 if len(rank) else 0
    return [np.flatnonzero(rank == group) for group in range(n_groups)]


@torch.inference_mode()
def _log_probabilities(
    probed: ProbedModel, windows: TokenWindows, added: _Additions
) -> tuple[LogProbabilities, LogProbabilities]:
    """log p and log p' of the next token at each probe, float32."""
    model, last = probed.model, probed.model.n_layers - 1
    names, number = np.unique(added.window, return_inverse=True)
    tokens = torch.from_numpy(windows.tokens[names]).long()
    sites = {int(at): Site("resid", int(at)) for at in {*added.layer, last}}
    run = model.run(tokens, capture=list(sites.values()), stop_after=sites[last])
    at, of_window = torch.from_numpy(added.position).to(model.device), torch.from_numpy(number)
    final = run[sites[last]][of_window, at][:, None]
    clean = model.logits(final)[:, 0].log_softmax(-1)
    changed, at_once = torch.empty_like(clean), _at_once(windows)
    for layer in np.unique(added.layer):
        directions = probed.dictionaries[int(layer)].W_dec.to(model.device)
        own = np.flatnonzero(added.layer == layer)
        # in order of position: blocks need not run past the last of a batch
        own = own[np.argsort(added.position[own], kind="stable")]
        for batch in np.split(own, range(at_once, len(own), at_once)):
            here = at[batch]
            h = run[sites[int(layer)]][of_window[batch], : int(here.max()) + 1].clone()
            step = directions[torch.from_numpy(added.feature[batch]).long()]
            step = step * torch.from_numpy(added.amount[batch]).to(step)[:, None]
            h[torch.arange(len(batch)), here] += step.to(h.dtype)
            logits = _logits_at(model, int(layer), h, here)
            changed[torch.from_numpy(batch)] = logits.log_softmax(-1)
    return clean, changed


def _logits_at(
    model: LanguageModel, layer: int, h: torch.Tensor, position: torch.Tensor
) -> torch.Tensor:
    """Logits (batch, vocabulary) at one position of each prompt, from h after the block `layer`.

    The position is put last before the unembedding, so that no other is unembedded.
    """

    def to_the_end(value: torch.Tensor) -> torch.Tensor:
        value = value.clone()
        value[:, -1] = value[torch.arange(len(value)), position]
        return value

    if layer == model.n_layers - 1:
        return model.logits(to_the_end(h)[:, -1:])[:, 0]
    moved = Transform(Site("resid", model.n_layers - 1), function=to_the_end)
    return model.continue_from(layer, h, edits=[moved], last_only=True)[:, 0]


def _moments(*logs: LogProbabilities) -> Float[torch.Tensor, "probe moment"]:
    """(probes, `MOMENTS`), float64, on the CPU; logs: of A before and after, of B likewise."""
    logs = tuple(log.double().cpu() for log in logs)
    p = [t.exp() for t in logs]
    weight = sum(p) / 4
    x, y = logs[1] - logs[0], logs[3] - logs[2]
    kl = [-(p[0] * x).sum(-1), -(p[2] * y).sum(-1)]
    x, y = (t - (weight * t).sum(-1, keepdim=True) for t in (x, y))
    return torch.stack(
        [(weight * x * x).sum(-1), (weight * y * y).sum(-1), (weight * x * y).sum(-1), *kl], dim=-1
    )
