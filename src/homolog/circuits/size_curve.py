"""How much of a task the first k nodes do, for all k: the areas CPR and CMD of the benchmark MIB.

For N nodes in some order, C_x are the first x N of them, and f their faithfulness (`evaluation`),
f(C_0) = 0 and f(C_1) = 1:

    CPR = integral over x from 0 to 1 of f(C_x)          circuit performance ratio, 1: found at once
    CMD = integral over x from 0 to 1 of |1 - f(C_x)|    circuit-model distance, 0: found at once

by the trapezoidal rule between the sizes that are tried: no node, the shares `SHARES` of the nodes,
rounded up, and so all of them.  CPR may exceed 1, where parts that hurt are left out; CMD may not
gain by that.  A straight line has 1/2 of both.

Two things differ from [Mueller 2025].  Their main results take x as a share of edges: here edges
are patched one by one, and nodes are what is ablated, so that x is a share of nodes, and the areas
are not comparable with those of edges.  And theirs begin at the smallest share, here they begin at
no node, whose f is 0 by definition: of a few dozen heads, or a few mixers, one is no small share.

The order of discovery: a node stands where the strongest of its edges does, so that the circuit at
the ends of the strongest n edges is on the curve for every n.

[Mueller 2025] "MIB: A Mechanistic Interpretability Benchmark", arXiv 2504.13151.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import polars as pl

from homolog.circuits.discovery import Discovery
from homolog.circuits.evaluation import CircuitEvaluation
from homolog.models.sites import Site

SHARES = (0.001, 0.002, 0.005, 0.01, 0.02, 0.05, 0.1, 0.2, 0.5, 1.0)
"""Of the nodes, the sizes that MIB tries."""


@dataclass(frozen=True)
class SizeCurve:
    """Faithfulness of the first nodes of an order.

    sizes    numbers of nodes, rising from 0 to all
    scores   faithfulness of that many
    """

    sizes: Sequence[int]
    scores: Sequence[float]

    @property
    def shares(self) -> list[float]:
        """The sizes as shares of all nodes: x."""
        return [size / self.sizes[-1] for size in self.sizes]

    @property
    def cpr(self) -> float:
        """The area under the curve."""
        return float(np.trapezoid(self.scores, self.shares))

    @property
    def cmd(self) -> float:
        """The area between the curve and 1."""
        return float(np.trapezoid(np.abs(1 - np.asarray(self.scores)), self.shares))

    def rows(self) -> list[dict[str, Any]]:
        """One row per size, as columns of `task_curves`."""
        points = zip(self.sizes, self.shares, self.scores, strict=True)
        return [{"n_nodes": n, "share": x, "faithfulness": score} for n, x, score in points]


def tried_sizes(n_nodes: int) -> list[int]:
    """0 and the different numbers of nodes that `SHARES` come to."""
    # a product that should be whole may come out a little above
    return [0, *dict.fromkeys(math.ceil(share * n_nodes - 1e-9) for share in SHARES)]


def size_curves(evaluation: CircuitEvaluation, orders: Sequence[Sequence[Site]]) -> list[SizeCurve]:
    """The curve of each order of all nodes of the evaluation."""
    sizes = tried_sizes(len(evaluation.universe))
    kept = [order[:size] for order in orders for size in sizes]
    scores = evaluation.shares(kept).reshape(len(orders), len(sizes)).tolist()
    return [SizeCurve(sizes, own) for own in scores]


def discovered_order(discovery: Discovery, universe: Sequence[Site]) -> list[Site]:
    """All nodes by the place of their strongest edge; those without a score keep their order."""
    ends = discovery.edges.filter(pl.col("score") != 0).select("sender", "receiver")
    named = [node for pair in ends.iter_rows() for end in pair for node in discovery.nodes_at(end)]
    return list(dict.fromkeys([*named, *universe]))
