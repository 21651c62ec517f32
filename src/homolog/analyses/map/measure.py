"""The features of all compared models in one plane, by which of them fire together.

    neighbours   of each feature the `NEIGHBOURS` of any layer of any model whose activations
                 correlate most highly with its own (`matching.max_pearson`)
    places       of that graph (`layout`)

Correlations are over as many tokens, evenly spaced, as hold `ACTIVATIONS` of all features together;
one that is silent there, or correlates with none, has no place.
"""

from __future__ import annotations

import numpy as np
import polars as pl
import scipy.sparse
from jaxtyping import Float
from scipy.sparse import csr_array

from homolog.analyses.analysis import Tables
from homolog.analyses.map.layout import layout
from homolog.analyses.material import Material
from homolog.dictionaries import derive_seed
from homolog.matching import max_pearson
from homolog.record.tables import MAP

NEIGHBOURS = 8
ACTIVATIONS = 30_000_000


def measure_map(material: Material) -> Tables:
    """Task: the places of all features of the compared models."""
    layers = [(m.name, layer) for m in material.compared for layer in material.layers(m.name)]
    step = 1
    matrices: list[csr_array] = []
    for place, (model, layer) in enumerate(layers):
        matrix = material.features(model, layer).matrix
        if place == 0:
            step = max(1, -(-matrix.nnz * len(layers) // ACTIVATIONS))
        matrices.append(matrix[::step])
    where = positions(matrices, derive_seed(material.seed, "map"))
    frames = [
        pl.DataFrame({"feature": np.arange(len(xy)), "x": xy[:, 0], "y": xy[:, 1]}).select(
            pl.lit(model).alias("model"), pl.lit(layer).alias("layer"), pl.all()
        )
        for (model, layer), xy in zip(layers, where, strict=True)
    ]
    placed = pl.concat(frames).filter(pl.col("x").is_finite())
    return {MAP.name: MAP.frame(placed)}


def positions(matrices: list[csr_array], seed: int) -> list[Float[np.ndarray, "_ 2"]]:
    """The place of each feature of each matrix (tokens, features), NaN for those without one.

    Row t of all matrices is the same token.
    """
    features = csr_array(scipy.sparse.hstack(matrices, format="csr"))
    graph = neighbours(features)
    known = np.flatnonzero(np.diff(graph.indptr) > 0)
    sizes = [n_columns(matrix) for matrix in matrices]
    where = np.full((sum(sizes), 2), np.nan, np.float32)
    if len(known):
        where[known] = layout(csr_array(graph[known][:, known]), seed)
    return np.split(where, np.cumsum(sizes)[:-1])


def neighbours(features: csr_array) -> csr_array:
    """The graph of features: r of each two of which one is among the nearest of the other.

    Symmetric; only r above 0.
    """
    n = n_columns(features)
    best = max_pearson(features, features, min(NEIGHBOURS + 1, n)).a_to_b
    one = np.repeat(np.arange(n), best.index.shape[1])
    other, r = best.index.ravel(), best.r.ravel()
    kept = (other >= 0) & (other != one) & (r > 0)
    graph = csr_array((r[kept], (one[kept], other[kept])), shape=(n, n))
    return csr_array(graph.maximum(graph.T))


def n_columns(matrix: csr_array) -> int:
    """Of a matrix, whose shape the types of scipy leave open."""
    assert matrix.shape is not None
    return int(matrix.shape[1])
