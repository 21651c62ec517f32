"""The variance of MPPC split: planted components, sums of squares by least squares, a table."""

from __future__ import annotations

import itertools
from collections.abc import Sequence

import numpy as np
import polars as pl
import pytest

from homolog.errors import InputError
from homolog.matching import variance
from homolog.matching.tables import VARIANCE
from homolog.matching.variance import FACTORS, split, variance_table

# main, main-seed, sae-seed, model-seed
STUDY = (
    ["mamba", "mamba", "gpt", "gpt"],
    ["B", "B", "A", "A2"],
)


def effects(names: Sequence[str], values: np.ndarray) -> np.ndarray:
    """values (features, levels) spread over the sets of each level, (features, sets)."""
    level = {name: place for place, name in enumerate(dict.fromkeys(names))}
    return values[:, [level[name] for name in names]]


def planted(
    n: int, sets: tuple[list[str], list[str]], seed: int, **sizes: float
) -> tuple[np.ndarray, np.ndarray]:
    """r (features, sets) with these variances, and the depth bin (of 5) of each feature."""
    generator = np.random.default_rng(seed)
    depth = generator.integers(0, 5, n)
    r = np.sqrt(sizes["depth"] / 2) * (depth - 2)[:, None] + generator.normal(
        0, sizes["feature"] ** 0.5, (n, 1)
    )
    r = r + effects(
        sets[0], generator.normal(0, sizes["architecture"] ** 0.5, (n, len(set(sets[0]))))
    )
    r = r + effects(sets[1], generator.normal(0, sizes["model"] ** 0.5, (n, len(set(sets[1])))))
    return r + generator.normal(0, sizes["residual"] ** 0.5, r.shape), depth


BALANCED = ["a1"] * 4 + ["a2"] * 4, ["m1", "m1", "m2", "m2", "m3", "m3", "m4", "m4"]


@pytest.mark.parametrize("sets", [STUDY, BALANCED], ids=["study", "balanced"])
def test_planted_components(sets):
    sizes = {"architecture": 1.5, "model": 1.0, "depth": 2.0, "feature": 4.0, "residual": 0.5}
    found = split(*planted(40_000, sets, 0, **sizes), *sets)
    assert sum(found.values()) == pytest.approx(1) and list(sorted(found)) == sorted(FACTORS)
    for name, size in sizes.items():
        assert found["model seed" if name == "model" else name] == pytest.approx(
            size / 9, abs=0.01
        ), name
    assert found["SAE seed"] < 0.001


@pytest.mark.parametrize("absent", ["architecture", "model", "depth", "feature"])
def test_what_has_no_variance_has_no_share(absent):
    sizes = {"architecture": 1.0, "model": 1.0, "depth": 1.0, "feature": 1.0, "residual": 1.0} | {
        absent: 0.0
    }
    found = split(*planted(40_000, STUDY, 1, **sizes), *STUDY)
    assert found.pop("model seed" if absent == "model" else absent) < 0.01
    assert found.pop("SAE seed") < 0.001
    np.testing.assert_allclose(list(found.values()), 1 / 4, atol=0.02)


def test_average_effects_alone():
    # Every feature: 0.9 and 0.9 in two dictionaries of B, 0.8 in A, 0.6 in A2; features differ by
    # 0.1 and more. Dictionaries of B: 0. A and A2: Q = (0.8 - 0.6)^2 / 2 = 0.02 = s_m.
    # Architectures: Q = 4 x 0.1^2 = 0.04, of which models bring tr(Q_a Z_m Z_m') s_m = 1.5 x 0.02,
    # so s_a = (0.04 - 0.03) / 2 = 0.005. Features: means -0.1, 0, 0.1 about the average, variance
    # 0.01.
    r = np.array([0.9, 0.9, 0.8, 0.6]) + np.array([[-0.1], [0.0], [0.1]])
    found = split(r, np.zeros(3, dtype=int), *STUDY)
    expected = {
        "SAE seed": 0,
        "model seed": 0.02,
        "architecture": 0.005,
        "feature": 0.01,
        "residual": 0,
    }
    assert found == pytest.approx({name: size / 0.035 for name, size in expected.items()})


def test_a_seed_that_lifts_every_feature():
    # Dictionaries of B differ by 0.2 for all features, and by noise of variance 0.01 besides.
    generator = np.random.default_rng(2)
    r = generator.normal(0, 0.1, (20_000, 4)) + np.array([0.2, 0.0, 0.1, 0.1])
    found = split(r, np.zeros(20_000, dtype=int), *STUDY)
    assert found["SAE seed"] == pytest.approx(0.02 / 0.03, abs=0.01)  # (0.2)^2 / 2
    assert found["residual"] == pytest.approx(0.01 / 0.03, abs=0.01)


@pytest.mark.parametrize("sets", [STUDY, BALANCED, (["x", "y", "y"], ["B", "A", "A2"])])
def test_sums_of_squares_are_those_of_nested_least_squares(sets):
    generator = np.random.default_rng(4)
    n_features, n_sets = 6, len(sets[0])
    y = generator.normal(size=(n_features, n_sets))
    # outer to inner
    groups = [
        [0] * n_sets,
        sets[0],
        list(zip(*sets, strict=True)),
        list(range(n_sets)),
    ]

    def left(names: Sequence[object]) -> float:
        """Residual sum of squares of a regression on feature x level."""
        cells = list(itertools.product(range(n_features), range(n_sets)))
        columns = sorted({(i, str(names[s])) for i, s in cells})
        design = np.array(
            [[float((i, str(names[s])) == column) for column in columns] for i, s in cells]
        )
        beta = np.linalg.lstsq(design, y.ravel(), rcond=None)[0]
        return float(((y.ravel() - design @ beta) ** 2).sum())

    rest = [left(names) for names in groups]
    levels = [variance._same(list(names)) for names in groups]
    for outer, inner in itertools.pairwise(range(4)):
        q = variance._means(levels[inner]) - variance._means(levels[outer])
        assert ((y @ q) * y).sum() == pytest.approx(rest[outer] - rest[inner], abs=1e-9)


def test_expected_squares_by_simulation():
    # Component by component: one factor alone, and the mean of r' Q r over many features is tr(Q Z
    # Z').
    generator = np.random.default_rng(5)
    levels = [variance._same(list(names)) for names in (range(4), STUDY[1], STUDY[0])]
    projections = [
        variance._means(a) - b
        for a, b in zip(levels, [*map(variance._means, levels[1:]), 1 / 4], strict=True)
    ]
    for place, names in ((1, STUDY[1]), (2, STUDY[0])):
        r = effects(names, generator.normal(size=(100_000, len(set(names)))))
        for q in projections[: place + 1]:
            assert ((r @ q) * r).sum(axis=1).mean() == pytest.approx(
                np.trace(q @ levels[place]), abs=0.03
            )


def test_fewer_partner_sets():
    r, depth = planted(40_000, STUDY, 3, architecture=1, model=1, depth=1, feature=4, residual=1)
    # Without B's second dictionary the innermost factor is the model seed; its noise is the
    # residual.
    found = split(r[:, [0, 2, 3]], depth, STUDY[0][1:], ["B", "A", "A2"])
    assert set(found) == set(FACTORS) - {"SAE seed"}
    assert found["residual"] == pytest.approx(2 / 8, abs=0.02) and found["model seed"] < 0.01
    assert found["architecture"] == pytest.approx(1 / 8, abs=0.02)
    # One other architecture and the model's own second dictionary: nothing to compare architectures
    # with.
    found = split(r[:, [0, 2]], depth, ["mamba", "gpt"], ["B", "A"])
    assert set(found) == {"architecture", "depth", "feature", "residual"}
    assert found["residual"] == pytest.approx(3 / 8, abs=0.02)
    assert (
        split(np.full((5, 2), 0.5), np.zeros(5, dtype=int), ["mamba", "gpt"], ["B", "A"])[
            "residual"
        ]
        == 1
    )


def rows(
    comparison: str, model: str, best_model: str, layer: list[int], r: np.ndarray, **labels: str
) -> pl.DataFrame:
    """labels: `label` and `best_label`, of the main dictionaries unless given."""
    frame = pl.DataFrame({"layer": layer, "feature": np.arange(len(r)), "r": r.astype(np.float32)})
    names = {"comparison": comparison, "model": model, "best_model": best_model}
    names |= {"label": "sae", "best_label": "sae"} | labels
    return frame.with_columns(pl.lit(value).alias(name) for name, value in names.items())


SETS = ("main", "main-seed", "sae-seed", "model-seed")


def test_the_table_of_a_study():
    n = 400
    r, depth = planted(
        n, STUDY, 6, architecture=0.02, model=0.01, depth=0.02, feature=0.05, residual=0.01
    )
    r[7, 0] = r[9, 3] = np.nan
    layer = [int(d) for d in depth]
    partners = [
        ("main", "B", "sae"),
        ("main-seed", "B", "seed1"),
        ("sae-seed", "A", "seed1"),
        ("model-seed", "A2", "sae"),
    ]
    parts = [
        rows(name, "A", partner, layer, r[:, s], best_label=label)
        for s, (name, partner, label) in enumerate(partners)
    ]
    # features are told by layer and number
    parts[2] = parts[2].sample(fraction=1, shuffle=True, seed=0)
    noise = [  # of A's second dictionary, and of a comparison that is no partner set
        rows("sae-seed", "A", "A", layer, r[:, 0], label="seed1"),
        rows("main-seed", "A", "B", layer, r[::-1, 1], label="seed1"),
        rows("tokens", "A", "current-token", layer, r[:, 1]),
    ]
    architectures = {"A": "gpt", "A2": "gpt", "B": "mamba"}
    table = variance_table(pl.concat([*parts, *noise]), ["A", "B"], architectures, SETS)
    assert dict(table.schema) == VARIANCE
    assert table["model"].unique().to_list() == ["A"] and table["factor"].to_list() == list(FACTORS)
    assert table["n"].unique().to_list() == [n - 2]
    kept = ~np.isnan(r).any(axis=1)
    expected = split(r.astype(np.float32).astype(float)[kept], depth[kept], *STUDY)
    np.testing.assert_allclose(table["share"], [expected[factor] for factor in FACTORS], rtol=1e-9)
    with pytest.raises(InputError, match="A2 is a partner"):
        variance_table(pl.concat(parts), ["A"], {"A": "gpt", "B": "mamba"}, SETS)
    assert variance_table(parts[0], ["A"], architectures, SETS).is_empty()


def test_depth_bins_follow_the_layers():
    assert variance._depth(np.array([0, 3, 1, 3])).tolist() == [0, 2, 1, 2]
    many = variance._depth(np.arange(24))
    assert len(set(many)) == 10 and (np.diff(many) >= 0).all() and np.bincount(many).min() >= 2
