"""The tree of several models: planted groups, their support, and what architectures explain."""

from __future__ import annotations

import itertools

import numpy as np
import polars as pl
import pytest
from tests.analyses.planted_run import A, B, C, make_run

from homolog.analyses.records import read_study
from homolog.analyses.tree import (
    distances,
    joined,
    lines,
    order_of,
    together,
    tree,
    tree_figure,
)
from homolog.record.tables import RESAMPLED, SHARED, TREE

NAMES = ["a0", "a1", "b0", "b1"]
NEAR, FAR, CEILING = 0.3, 0.1, 0.5


def shared(shares: dict[tuple[str, str], float | None]) -> pl.DataFrame:
    rows = [
        {
            "model": a,
            "best_model": b,
            "share": share,
            "ceiling": CEILING,
            "given": share is not None,
        }
        for (a, b), share in shares.items()
    ]
    return SHARED.frame(rows)


def planted(groups: str = "aabb") -> dict[tuple[str, str], float | None]:
    """Models of a group share three times as much."""
    pairs = itertools.permutations(range(len(groups)), 2)
    return {
        (NAMES[i], NAMES[j]): NEAR if groups[i] == groups[j] else FAR + 0.01 * (i + j)
        for i, j in pairs
    }


def test_distances_are_what_is_not_shared_of_what_can_be() -> None:
    far = distances(["a", "b"], shared({("a", "b"): 0.25, ("b", "a"): 0.1}))
    assert far is not None
    np.testing.assert_allclose(far, [[0, 1 - (0.5 + 0.2) / 2], [1 - (0.5 + 0.2) / 2, 0]])
    assert distances(["a", "b"], shared({("a", "b"): 0.25, ("b", "a"): None})) is None
    assert distances(["a", "b"], shared({("a", "b"): 0.25})) is None


def slow_tree(far: np.ndarray) -> list[tuple[float, frozenset[int]]]:
    """Groups from the nearest two on, at the mean distance of their members."""
    groups = [frozenset([i]) for i in range(len(far))]
    found = []
    while len(groups) > 1:
        apart = {
            (x, y): float(np.mean([far[i, j] for i in x for j in y]))
            for x, y in itertools.combinations(groups, 2)
        }
        x, y = min(apart, key=lambda pair: apart[pair])
        groups = [group for group in groups if group not in (x, y)] + [x | y]
        found.append((apart[x, y], x | y))
    return found


@pytest.mark.parametrize("seed", range(5))
def test_groups_are_joined_at_the_mean_distance_of_their_members(seed: int) -> None:
    random = np.random.default_rng(seed)
    far = random.uniform(0.2, 1, (7, 7))
    far = (far + far.T) / 2
    np.fill_diagonal(far, 0)
    nodes, slow = joined(far), slow_tree(far)
    assert [models for *_, models in nodes] == [models for _, models in slow]
    np.testing.assert_allclose([d for *_, d, _ in nodes], [d for d, _ in slow])


def resampled(*groups: str) -> pl.DataFrame:
    """A resample for each grouping."""
    return RESAMPLED.frame(
        [
            {"model": a, "best_model": b, "resample": i, "share": share}
            for i, each in enumerate(groups)
            for (a, b), share in planted(each).items()
        ]
    )


def test_support_is_the_share_of_resamples_with_the_same_models_in_a_node() -> None:
    nodes = tree(NAMES, shared(planted()), resampled("aabb", "aabb", "aabb", "abab"))
    assert dict(nodes.schema) == TREE.schema
    found = {tuple(row["models"]): row for row in nodes.iter_rows(named=True)}
    assert found["a0", "a1"]["support"] == found["b0", "b1"]["support"] == 0.75
    assert found[tuple(NAMES)]["support"] == 1
    assert found["a0", "a1"]["distance"] == pytest.approx(1 - NEAR / CEILING)
    assert found["a0",]["support"] is None and found["a0",]["left"] == -1
    alone = tree(NAMES, shared(planted()), RESAMPLED.frame())
    assert alone["support"].is_null().all() and len(alone) == len(nodes)


def test_there_is_no_tree_where_a_verdict_is_withheld() -> None:
    shares = planted() | {("a0", "b1"): None}
    assert tree(NAMES, shared(shares), resampled("aabb")).is_empty()


def test_architectures_are_told_from_chance() -> None:
    far = distances(NAMES, shared(planted()))
    assert far is not None
    within, between, p = together(far, "aabb") or (0, 0, 0)
    assert within == pytest.approx(1 - NEAR / CEILING) and between > within
    assert p == pytest.approx(1 / 3)  # of 24 orders of a, a, b, b, eight are this pairing
    assert together(far, "aaaa") is None and together(far, "abcd") is None


def test_without_a_relation_no_architecture_stands_out() -> None:
    ps = []
    for seed in range(60):
        far = np.random.default_rng(seed).uniform(0.2, 1, (8, 8))
        far = (far + far.T) / 2
        np.fill_diagonal(far, 0)
        found = together(far, "aabbccdd", seed)
        assert found is not None
        ps.append(found[2])
    assert 0.35 < np.mean(ps) < 0.65 and np.mean(np.array(ps) < 0.05) < 0.15


def test_lines_do_not_cross_and_the_figure_names_every_model(tmp_path) -> None:
    run = make_run(tmp_path / "run", compared=(A, B, C))
    values = {(A, B): 0.3, (B, A): 0.2, (A, C): 0.1, (C, A): 0.1, (B, C): 0.1, (C, B): 0.2}
    nodes = tree([A, B, C], shared(values), RESAMPLED.frame())
    TREE.write(nodes, run / TREE.file)
    assert sorted(order_of(nodes)) == [0, 1, 2]
    drawn = lines(nodes)
    assert {row["x"] for row in drawn if row["corner"] in (0, 3)} >= {0.0}
    figure = tree_figure(read_study(run))
    assert figure is not None
    for name in (A, B, C):
        assert name in str(figure.spec) and name in figure.alt
