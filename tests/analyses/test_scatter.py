"""Points of a pair: the union of firings, drawn when many, with values from both matrices."""

from __future__ import annotations

import numpy as np
import polars as pl
import scipy.sparse

from homolog.analyses.scatter.measure import scatter
from homolog.features import SparseFeatures
from homolog.record.tables import SCATTER


def features(values: np.ndarray, name: str, layer: int) -> SparseFeatures:
    matrix = scipy.sparse.csr_array(values.astype(np.float32))
    return SparseFeatures(matrix, "stream", np.zeros(len(values), np.int32), name, layer)


def matches(rows: list[tuple]) -> pl.DataFrame:
    return pl.DataFrame(
        rows, schema=["feature", "best_model", "best_layer", "best_feature"], orient="row"
    )


def test_few_points_are_all_there_in_the_order_of_the_stream():
    own = features(np.array([[0, 1.0], [2, 0], [0, 0], [3, 0]]), "A", 0)
    other = {("B", 1): features(np.array([[5.0], [0], [0], [7]]), "B", 1)}
    found = scatter(
        own, matches([(0, "B", 1, 0), (1, "B", -1, -1)]), lambda model, layer: other[model, layer]
    )
    assert dict(found.schema) == SCATTER.schema
    assert found.rows() == [(0, "B", [0.0, 2.0, 3.0], [5.0, 0.0, 7.0])]


def test_many_points_are_drawn_alike_each_time():
    rng = np.random.default_rng(0)
    x, y = (rng.random((500, 3)) * (rng.random((500, 3)) < 0.5) for _ in range(2))
    own, other = features(x, "A", 0), features(y, "B", 1)
    rows = matches([(i, "B", 1, 2 - i) for i in range(3)])
    first, again = (scatter(own, rows, lambda *_: other, points=40, seed=1) for _ in range(2))
    assert first.equals(again) and set(first["scatter_x"].list.len()) == {40}
    pairs = {(np.float32(a), np.float32(b)) for a, b in zip(x[:, 0], y[:, 2], strict=True)}
    row = first.row(0, named=True)
    drawn = [
        (np.float32(a), np.float32(b))
        for a, b in zip(row["scatter_x"], row["scatter_y"], strict=True)
    ]
    assert len(set(drawn)) == 40 and set(drawn) <= pairs and (0, 0) not in drawn


def test_a_feature_that_never_fires_has_its_partner_s_points():
    own, other = features(np.zeros((3, 1)), "A", 0), features(np.array([[0.0], [4], [0]]), "B", 0)
    found = scatter(own, matches([(0, "B", 0, 0)]), lambda *_: other)
    assert found.rows() == [(0, "B", [0.0], [4.0])]
