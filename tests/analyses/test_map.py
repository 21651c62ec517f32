"""Places of features: groups that fire together stand together, whichever model they are of."""

from __future__ import annotations

import numpy as np
import scipy.sparse
from scipy.sparse import csr_array
from scipy.spatial.distance import cdist

from homolog.analyses.map.layout import layout
from homolog.analyses.map.measure import NEIGHBOURS, neighbours, positions

GROUPS, PER_GROUP = 6, 15


def planted(n_tokens: int = 4000, seed: int = 0) -> tuple[list[csr_array], np.ndarray]:
    """Two models' features, and the group of each: those of a group fire on its topic's tokens.

    Both have features of every group.  The last feature of the first model never fires.
    """
    rng = np.random.default_rng(seed)
    topic = rng.integers(0, GROUPS, n_tokens)
    group = np.tile(np.repeat(np.arange(GROUPS), PER_GROUP), 2)
    fires = (topic[:, None] == group) & (rng.random((n_tokens, len(group))) < 0.5)
    values = np.where(fires, rng.random(fires.shape) + 0.5, 0).astype(np.float32)
    half = GROUPS * PER_GROUP
    silent = np.zeros((n_tokens, 1), np.float32)
    matrices = [np.hstack([values[:, :half], silent]), values[:, half:]]
    return [csr_array(scipy.sparse.csr_matrix(matrix)) for matrix in matrices], group


def test_neighbours_are_the_highest_correlations() -> None:
    matrices, _ = planted()
    features = csr_array(scipy.sparse.hstack(matrices))
    dense = features.toarray().astype(np.float64)
    with np.errstate(invalid="ignore", divide="ignore"):
        r = np.nan_to_num(np.corrcoef(dense.T))
    np.fill_diagonal(r, 0)
    nearest = np.argsort(-r, axis=1)[:, :NEIGHBOURS]
    wanted = np.zeros_like(r, bool)
    wanted[np.arange(len(r))[:, None], nearest] = True
    wanted &= r > 0
    wanted |= wanted.T
    found = neighbours(features).toarray()
    assert np.array_equal(found > 0, wanted)
    np.testing.assert_allclose(found[wanted], r[wanted], atol=2e-6)


def test_what_fires_together_stands_together_in_both_models() -> None:
    matrices, group = planted()
    first, second = positions(matrices, seed=3)
    assert first.dtype == np.float32 and np.isnan(first[-1]).all()
    where = np.concatenate([first[:-1], second])
    assert np.isfinite(where).all()
    distance = cdist(where, where)
    np.fill_diagonal(distance, np.inf)
    nearest = np.argsort(distance, axis=1)[:, : PER_GROUP - 1]
    assert (group[nearest] == group[:, None]).mean() > 0.95  # by chance 1 in 6
    model = np.repeat([0, 1], GROUPS * PER_GROUP)
    assert 0.3 < (model[nearest] == model[:, None]).mean() < 0.7  # the models are mixed


def test_the_same_seed_gives_the_same_places_and_another_seed_others() -> None:
    matrices, _ = planted(500)
    first, again, other = (np.concatenate(positions(matrices, seed)) for seed in (1, 1, 2))
    assert np.array_equal(first, again, equal_nan=True)
    assert not np.allclose(first, other, equal_nan=True)


def test_parts_that_nothing_joins_and_single_pairs_have_places() -> None:
    pairs = csr_array((np.ones(4), ([0, 1, 2, 3], [1, 0, 3, 2])), shape=(4, 4))
    where = layout(pairs, seed=0)
    assert np.isfinite(where).all()
    distance = cdist(where, where)
    assert distance[0, 1] < distance[0, 2:].min() and distance[2, 3] < distance[2, :2].min()


def test_features_of_which_none_fires_have_no_places() -> None:
    empty = csr_array((5, 3), dtype=np.float32)
    assert all(np.isnan(where).all() for where in positions([empty, empty], seed=0))
