"""Are layers of about the same depth more alike than others, whatever is alike to everything?

For a matrix of similarities v_ij of the layers of two models, with the means of its rows and
columns taken away,

    c_ij = v_ij - v_i. - v_.j + v_..
    T    = mean of c_ij over the diagonal

where the diagonal has, for each layer of the model with more of them, the layer of the other that
is nearest in relative depth, (layer + 1) / number of layers (two where they tie).  T is held
against that of both models' layers in random orders,

    p = (1 + #{draws with T_s >= T}) / (1 + draws),

as the diagonal structure of matrices of nearest neighbours is in [Wolfram & Schein 2025].  Without
its means a layer that is alike to all of the other model's adds nothing.  Neighbouring layers of a
model are alike, so there are fewer independent ones than layers: p says that the order of depth is
not arbitrary, and is best read beside that of an untrained model.

Wolfram & Schein, "Layers at Similar Depths Generate Similar Activations Across LLM Architectures",
2025, arXiv 2504.08775.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from jaxtyping import Bool, Float

DRAWS = 9999
NEAR = 1e-9  # depths that differ by less tie


@dataclass(frozen=True)
class DiagonalTest:
    """on, off: mean similarity on the diagonal and elsewhere.  p: see the module's first lines.

    All are NaN where a model has fewer than two layers with known similarities, p also where all of
    them are equal.
    """

    on: float
    off: float
    p: float


def diagonal_of(
    depth_a: Float[np.ndarray, " layers_a"], depth_b: Float[np.ndarray, " layers_b"]
) -> Bool[np.ndarray, "layers_a layers_b"]:
    """Which pairs of layers are the diagonal.  depth: relative, of each layer of A and of B."""
    apart = np.abs(np.subtract.outer(depth_a, depth_b))
    axis = 0 if len(depth_a) <= len(depth_b) else 1
    return apart <= apart.min(axis, keepdims=True) + NEAR


def diagonal_test(
    values: Float[np.ndarray, "layers_a layers_b"],
    depth_a: Float[np.ndarray, " layers_a"],
    depth_b: Float[np.ndarray, " layers_b"],
    *,
    seed: int,
    draws: int = DRAWS,
) -> DiagonalTest:
    """Hold the diagonal of a matrix of similarities against the rest.

    depth_a, depth_b: relative depths of its rows and columns.  Layers without known values are left
    out.
    """
    known_a, known_b = np.isfinite(values).any(1), np.isfinite(values).any(0)
    v = values[known_a][:, known_b]
    if min(v.shape) < 2 or not np.isfinite(v).all():
        return DiagonalTest(np.nan, np.nan, np.nan)
    where = diagonal_of(depth_a[known_a], depth_b[known_b])
    centred = v - v.mean(1, keepdims=True) - v.mean(0) + v.mean()
    rows, columns = np.nonzero(where)
    generator = np.random.default_rng(seed)
    orders = [np.tile(np.arange(n), (draws, 1)) for n in v.shape]
    own, other = (generator.permuted(order, axis=1) for order in orders)
    drawn = centred[own[:, rows], other[:, columns]].mean(1)
    found = centred[rows, columns].mean()
    scale = np.abs(centred).max()
    p = (1 + (drawn >= found - 1e-12 * scale).sum()) / (1 + draws)
    off = v[~where].mean() if (~where).any() else np.nan
    return DiagonalTest(float(v[where].mean()), float(off), float(p) if scale > 0 else np.nan)
