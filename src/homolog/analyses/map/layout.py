"""A graph with weights in the plane, so that what is joined stands together.

Places y minimise, over the edges ij of weight w and pairs at random,

    L = - sum over edges  w_ij log q_ij  -  sum over random pairs  log(1 - q_ij)
    q_ij = 1 / (1 + |y_i - y_j|^2)

by stochastic descent: in each of `EPOCHS` rounds an edge is taken with the chance w_ij / max w, its
ends are drawn together, and one of them is driven from `APART` random others; steps shrink to 0.
That is LargeVis (Tang, Liu, Zhang and Mei 2016) and, with a = b = 1, UMAP (McInnes, Healy and
Melville 2018) on correlations as they are.

It starts from the graph's second and third eigenvectors of D^-1/2 W D^-1/2, by `POWERS` of block
iteration, as ranks: so neighbourhoods that are far apart in the graph begin apart.  Nothing depends
on threads, and random choices are a hash of the seed.
"""

from __future__ import annotations

import numpy as np
from jaxtyping import Float
from scipy.sparse import csr_array, diags_array

from homolog.analyses.features.measure.example_kernels import mixed, uniform
from homolog.compiled import jit

EPOCHS, APART, POWERS = 200, 5, 60
SPREAD = 10.0
"""Half the width in which places begin."""
LONGEST = 4.0
"""Of a step in each direction."""


def layout(graph: csr_array, seed: int = 0) -> Float[np.ndarray, "nodes 2"]:
    """Places of the nodes, float32.  graph: symmetric, weights above 0."""
    where = _start(graph, seed)
    edges = graph.tocoo()
    one, other = (side.astype(np.int64) for side in (edges.row, edges.col))
    chance = edges.data.astype(np.float64) / max(float(edges.data.max(initial=0)), 1e-12)
    _descend(where, one, other, chance, seed)
    return where.astype(np.float32)


def _start(graph: csr_array, seed: int) -> Float[np.ndarray, "nodes 2"]:
    n = len(graph.indptr) - 1
    degree = np.maximum(np.asarray(graph.sum(axis=1)).ravel().astype(np.float64), 1e-12)
    scaled = diags_array(degree**-0.5)
    normal = (scaled @ graph @ scaled).tocsr()
    trivial = np.sqrt(degree / degree.sum())[:, None]
    basis = np.random.default_rng(seed).normal(size=(n, 2))
    for _ in range(POWERS):
        basis = basis + normal @ basis  # + 1, or the most negative eigenvalue could win
        basis, _ = np.linalg.qr(basis - trivial @ (trivial.T @ basis))
    basis = basis / np.sqrt(degree)[:, None]
    ranks = np.argsort(np.argsort(basis, axis=0, kind="stable"), axis=0, kind="stable")
    return SPREAD * (2 * ranks / max(1, n - 1) - 1)


@jit()
def _descend(where, one, other, chance, seed):
    """Move `where` (nodes, 2), in place."""
    n, m = len(where), len(one)
    for epoch in range(EPOCHS):
        rate = 1.0 - epoch / EPOCHS
        for e in range(m):
            if uniform(seed, epoch, e) >= chance[e]:
                continue
            i, j = one[e], other[e]
            dx, dy = where[i, 0] - where[j, 0], where[i, 1] - where[j, 1]
            pull = -2.0 * rate / (1.0 + dx * dx + dy * dy)
            for axis, d in ((0, dx), (1, dy)):
                step = min(LONGEST, max(-LONGEST, pull * d))
                where[i, axis] += step
                where[j, axis] -= step
            for s in range(APART):
                k = np.int64(mixed(seed + 1 + s, epoch, e) % np.uint64(n))
                if k == i:
                    continue
                dx, dy = where[i, 0] - where[k, 0], where[i, 1] - where[k, 1]
                near = dx * dx + dy * dy
                push = 2.0 * rate / ((0.001 + near) * (1.0 + near))
                for axis, d in ((0, dx), (1, dy)):
                    where[i, axis] += min(LONGEST, max(-LONGEST, push * d))
