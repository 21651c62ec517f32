"""Partners across dictionary seeds: planted dictionaries, and rows by hand."""

from __future__ import annotations

import numpy as np
import polars as pl
import scipy.sparse
from tests.matching.all_layers import match_models

from homolog.features import SparseFeatures
from homolog.matching.stability import with_stability
from homolog.matching.tables import STABILITY

N_TOKENS, N_LAYERS, WIDTH = 2000, 2, 12


def rows(
    model: str, best_model: str, partners: list[tuple[int, int, float, int, int]], **labels: str
) -> pl.DataFrame:
    """Rows (layer, feature, r, best_layer, best_feature) of one direction.

    labels: `label` and `best_label`, of the main dictionaries unless given.
    """
    names = {
        "layer": pl.Int32,
        "feature": pl.Int32,
        "r": pl.Float32,
        "best_layer": pl.Int32,
        "best_feature": pl.Int32,
    }
    frame = pl.DataFrame(partners, schema=names, orient="row")
    sides = {"model": model, "best_model": best_model, "label": "sae", "best_label": "sae"}
    return frame.with_columns(pl.lit(value).alias(name) for name, value in (sides | labels).items())


def test_the_way_there_and_back_by_hand():
    nan = float("nan")
    main = rows(
        "A", "B", [(0, 0, 0.9, 1, 5), (0, 1, 0.8, 1, 6), (0, 2, 0.7, 0, 5), (0, 3, nan, -1, -1)]
    )
    main_seed = rows(
        "A",
        "B",
        [(0, 0, 0.8, 1, 2), (0, 1, 0.6, 1, 3), (0, 2, 0.5, 0, 2), (0, 3, nan, -1, -1)],
        best_label="seed1",
    )
    partners = [(1, 2, 0.9, 1, 5), (1, 3, 0.9, 1, 5), (0, 2, 0.9, 1, 5)]
    sae_seed = rows("B", "B", partners, label="seed1")
    found = with_stability(main, main_seed, sae_seed)
    # feature 0 comes back to (1, 5); 1 comes back to (1, 5), not (1, 6); 2 to feature 5, but of
    # another layer
    assert found["stable"].to_list() == [True, False, False, None]
    np.testing.assert_array_equal(
        found["other_seed_r"], np.array([0.8, 0.6, 0.5, nan], dtype=np.float32)
    )
    assert found.drop(STABILITY).equals(main)
    assert dict(found.select(list(STABILITY)).schema) == STABILITY
    assert with_stability(found, main_seed, sae_seed).equals(found)


def test_what_was_not_measured_is_null_and_pairs_keep_apart():
    main = pl.concat([rows("A", "B", [(0, 0, 0.9, 0, 1)]), rows("A", "C", [(0, 0, 0.9, 0, 1)])])
    main_seed = rows("A", "C", [(0, 0, 0.4, 0, 7)], best_label="seed1")
    sae_seed = pl.concat(
        [
            rows("C", "C", [(0, 7, 0.9, 0, 1)], label="seed1"),
            rows("C", "C", [(0, 7, 0.9, 0, 2)], best_label="seed1"),
        ]
    )
    found = with_stability(main, main_seed, sae_seed)
    assert found["stable"].to_list() == [None, True]
    assert found["other_seed_r"].is_nan().to_list() == [True, False]
    without = with_stability(main, main_seed, sae_seed.clear())  # the way back was not run
    assert without["stable"].to_list() == [None, None]
    assert without["other_seed_r"].is_nan().to_list() == [True, False]
    nothing = with_stability(main, main_seed.clear(), sae_seed.clear())
    assert nothing["stable"].null_count() == 2 and nothing["other_seed_r"].is_nan().all()


def test_every_further_seed_counts():
    main = rows("A", "B", [(0, 0, 0.9, 0, 1), (0, 1, 0.9, 0, 1), (0, 2, 0.9, 0, 1)])
    main_seed = pl.concat(
        [
            rows(
                "A",
                "B",
                [(0, 0, 0.1, 0, 9), (0, 1, 0.1, 0, 3), (0, 2, 0.5, 0, 8)],
                best_label="seed2",
            ),
            rows(
                "A",
                "B",
                [(0, 0, 0.6, 0, 3), (0, 1, 0.6, 0, 3), (0, 2, 0.5, 0, 3)],
                best_label="seed1",
            ),
            # of A's own second dictionary, which says nothing of the main one
            rows("A", "B", [(0, 0, 0.7, 0, 5)], label="seed1", best_label="seed0"),
            rows("B", "A", [(0, 1, 0.7, 0, 0)], label="seed2"),
        ]
    )
    sae_seed = pl.concat(
        [
            rows("B", "B", [(0, 3, 0.9, 0, 1)], label="seed1"),
            rows("B", "B", [(0, 9, 0.9, 0, 4), (0, 3, 0.9, 0, 1)], label="seed2"),
        ]
    )
    found = with_stability(main, main_seed, sae_seed)
    # seed1 leads all three back to feature 1; seed2 leads the first to 4, the second back, and from
    # its feature 8, the third's partner, the way was not measured
    assert found["back_in"].to_list() == [1, 2, None]
    assert found["stable"].to_list() == [False, True, None]
    r = found["other_seed_r"].to_numpy()  # of the first of the seeds
    np.testing.assert_array_equal(r, np.array([0.6, 0.6, 0.5], np.float32))


def dictionary(columns: np.ndarray, model: str, label: str = "sae") -> list[SparseFeatures]:
    """Features (tokens, layers x width) as a model's layers."""
    document = np.repeat(np.arange(20, dtype=np.int32), N_TOKENS // 20)
    parts = np.split(columns, N_LAYERS, axis=1)
    return [
        SparseFeatures(scipy.sparse.csr_array(part), "s", document, model, layer, label)
        for layer, part in enumerate(parts)
    ]


def test_planted_dictionaries():
    # B's second dictionary holds the features of the first in another order, but for the last six,
    # which are new. A's features are noisy copies of B's, so exactly those of the features kept are
    # stable.
    generator = np.random.default_rng(0)
    n = N_LAYERS * WIDTH
    truth, new, noise = (
        (generator.random((N_TOKENS, n)) < 0.05) * generator.exponential(size=(N_TOKENS, n))
        for _ in range(3)
    )
    kept = np.arange(n) < n - 6
    second = np.where(kept, truth, new)[:, generator.permutation(n)]
    a, b, b_again = (
        dictionary(truth + 0.2 * noise, "A"),
        dictionary(truth, "B"),
        dictionary(second, "B", "seed1"),
    )
    main = match_models(a, b, comparison="main").matches
    main_seed = match_models(a, b_again, comparison="main-seed").matches
    sae_seed = match_models(b, b_again, comparison="sae-seed").matches
    found = with_stability(main, main_seed, sae_seed)
    own = found.filter(pl.col("model") == "A")
    assert (own["r"] > 0.9).all()
    assert own["stable"].to_list()[: n - 6] == [True] * (n - 6)
    assert (own["other_seed_r"].to_numpy() > 0.9).tolist() == kept.tolist()
    # the lost ones have chance partners only; whether those lead back is read off the correlations
    # themselves
    there = np.corrcoef((truth + 0.2 * noise).T, second.T)[:n, n:].argmax(axis=1)
    back = np.corrcoef(second.T, truth.T)[:n, n:].argmax(axis=1)
    np.testing.assert_array_equal(own["stable"].to_numpy(), back[there] == np.arange(n))
    # A has no second dictionary
    assert found.filter(pl.col("model") == "B")["stable"].null_count() == n
