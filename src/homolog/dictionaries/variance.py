"""Of the variance of residuals, what a reconstruction explains and what a few tokens hold.

    explained variance = 1 - sum_t ||x_t - x'_t||^2 / sum_t ||x_t - m||^2

over tokens, summed over dimensions, m the mean of those same tokens: predicting the mean scores
exactly 0.

    share of T = sum_{t in T} ||x_t - m||^2 / sum_t ||x_t - m||^2
    sink share: T the kept tokens with ||x_t|| > 10 median ||x||, among the kept tokens
    BOS share:  T the masked tokens, among all tokens

A few tokens, the first of a context above all, draw attention that has nowhere to go and have norms
100 times the median [Xiao 2023, arXiv 2309.17453; Sun 2024, arXiv 2402.17762].  Where they are not
masked (`features.sinks`), they are what explained variance and correlations measure.
"""

from __future__ import annotations

import math

import numpy as np
import torch

from homolog.axes import Activations
from homolog.dictionaries.finite import refuse_not_finite
from homolog.errors import InputError
from homolog.record.recipe import Gates

_BLOCK = 8192  # tokens of which sums are taken at once
SINK_NORM = 10.0
"""Tokens whose norm exceeds this many median norms are sinks."""
SINK_SHARE = Gates().sink_share
"""Sinks that hold at most this share of a layer's variance are left where they are."""


def explained_variance(
    x: Activations, x_hat: Activations, keep: torch.Tensor | None = None
) -> float:
    """1 - residual / total sum of squares of (token, d_model).

    keep: (token, bool) leaves tokens out.  NaN where x does not vary.  Computed in float64.
    InputError where x or x_hat is not finite.
    """
    if x.shape != x_hat.shape:
        requirement = f"it must have the shape of x, {tuple(x.shape)}"
        raise InputError("x_hat", tuple(x_hat.shape), requirement, "Check.")
    if keep is not None:
        x, x_hat = x[keep], x_hat[keep]
    refuse_not_finite(x, "x")
    refuse_not_finite(x_hat, "x_hat")
    total = float(squares(x, x.double().mean(0)).sum())
    if total == 0 or not len(x):
        return math.nan
    return 1.0 - float(squares(x.double() - x_hat.double()).sum()) / total


def squares(x: Activations, centre: torch.Tensor | None = None) -> np.ndarray:
    """||x_t - centre||^2 of every token, float64: sums do not depend on the number of threads."""
    blocks = [np.empty(0)]
    for block in x.split(_BLOCK):
        distance = block.double() if centre is None else block.double() - centre
        blocks.append(distance.pow(2).sum(1).cpu().numpy())
    return np.concatenate(blocks)


def mean_of(x: Activations) -> torch.Tensor:
    """Mean over tokens, float64 (d_model,), without a copy of x."""
    total = torch.zeros(x.shape[1], dtype=torch.float64, device=x.device)
    for block in x.split(_BLOCK):
        total += block.double().sum(0)
    return total / len(x)


def share_of(x: Activations, chosen: np.ndarray) -> float:
    """Share of the squares about the mean on chosen tokens (bool); NaN where x does not vary."""
    distances = squares(x, mean_of(x))
    total = float(distances.sum())
    return float(distances[chosen].sum()) / total if total > 0 else math.nan


def norms_of(x: Activations) -> np.ndarray:
    """||x_t|| of every token, float64."""
    return np.sqrt(squares(x))


def sink_share(x: Activations) -> float:
    """Share of the variance of raw residuals on sinks, tokens with norms over 10 medians."""
    norms = norms_of(x)
    return share_of(x, norms > SINK_NORM * np.median(norms))


def bos_share(x: Activations, keep: torch.Tensor) -> float:
    """Share of all tokens' variance on those not in keep (token, bool); NaN where all are."""
    left_out = ~keep.cpu().numpy()
    return share_of(x, left_out) if left_out.any() else math.nan
