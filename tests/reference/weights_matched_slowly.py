"""Slow, independent matching by weights: every distance by a loop, the assignment by scipy."""

from __future__ import annotations

import numpy as np
from scipy.optimize import linear_sum_assignment

from homolog.dictionaries import SparseAutoencoder


def parts(sae: SparseAutoencoder, how: str) -> list[tuple[np.ndarray, np.ndarray]]:
    """(encoder, decoder) of each feature, folded one by one."""
    found = []
    for i in range(sae.d_sae):
        e, d = sae.W_enc[:, i].double().numpy(), sae.W_dec[i].double().numpy()
        if how == "threshold":
            assert sae.threshold is not None
            begins = float(sae.threshold[i])
            found.append((e / begins, d * begins))
        else:
            length, reads = float(np.sqrt((d**2).sum())), float(np.sqrt((e**2).sum()))
            found.append((e * length if how == "norm" else e / reads, d / length))
    return found


def distances(a: SparseAutoencoder, b: SparseAutoencoder, how: str) -> np.ndarray:
    """Mean squared difference of encoders and decoders, (features_a, features_b)."""
    return np.array(
        [
            [np.concatenate([(e - u) ** 2, (d - v) ** 2]).mean() for u, v in parts(b, how)]
            for e, d in parts(a, how)
        ]
    )


def products(a: SparseAutoencoder, b: SparseAutoencoder, how: str) -> np.ndarray:
    """<e_i, e_j> + <d_i, d_j>, (features_a, features_b)."""
    return np.array([[e @ u + d @ v for u, v in parts(b, how)] for e, d in parts(a, how)])


def largest_total(weights: np.ndarray) -> float:
    """The largest sum over pairs of which each feature has one at most, and no weight below 0."""
    allowed = np.maximum(weights, 0)
    rows, columns = linear_sum_assignment(allowed, maximize=True)
    return float(allowed[rows, columns].sum())
