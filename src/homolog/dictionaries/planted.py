"""Activations whose features are known: sparse sums of planted directions.

They lie in superposition [Elhage 2022]:

    x = mean + sum_i m_i b_i d_i + noise
    b_i ~ Bernoulli(p_i),   p_i falling as a power of i (Zipf),   m_i >= 0

An autoencoder should find the d_i that fire often enough; tests and benchmarks measure how well it
does.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch

from homolog.dictionaries.seeds import generator

_NOISE, _OFFSET = 0.05, 1.0
"""Standard deviations of the noise and of the common mean, in each dimension."""


@dataclass(frozen=True, eq=False)
class Planted:
    """Activations (token, d_model) float32 and the truth behind them."""

    x: torch.Tensor
    directions: torch.Tensor
    """(feature, d_model), unit rows."""
    frequency: np.ndarray
    """(feature,) share of tokens at which each fires."""
    active: np.ndarray
    """(token, feature) float32 magnitudes, 0 where silent; empty (0, feature) unless asked for."""


def plant(
    n_tokens: int,
    d_model: int,
    n_features: int,
    *,
    seed: int,
    mean_active: float = 16.0,
    zipf: float = 1.0,
    keep_active: bool = False,
) -> Planted:
    """Draw activations; magnitudes are 0.5 + Gamma(4, 1/8), so 1 on average.

    mean_active: expected features per token.  keep_active: fill `Planted.active`.
    """
    rng = generator(seed, "planted")
    directions = rng.standard_normal((n_features, d_model)).astype(np.float32)
    directions /= np.linalg.norm(directions, axis=1, keepdims=True)
    weight = 1.0 / (np.arange(n_features) + 8.0) ** zipf
    p = np.minimum(weight * (mean_active / weight.sum()), 0.5)
    mean = (_OFFSET * rng.standard_normal(d_model)).astype(np.float32)
    x = np.empty((n_tokens, d_model), np.float32)
    active = np.zeros((n_tokens if keep_active else 0, n_features), np.float32)
    for low in range(0, n_tokens, 8192):
        high = min(low + 8192, n_tokens)
        fires = rng.random((high - low, n_features), dtype=np.float32) < p
        f = np.zeros(fires.shape, np.float32)
        f[fires] = 0.5 + rng.standard_gamma(4.0, int(fires.sum()), dtype=np.float32) / 8
        eps = _NOISE * rng.standard_normal((high - low, d_model), dtype=np.float32)
        x[low:high] = mean + f @ directions + eps
        if keep_active:
            active[low:high] = f
    return Planted(torch.from_numpy(x), torch.from_numpy(directions), p, active)
