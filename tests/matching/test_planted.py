"""Planted features have the properties they claim, and the criterion finds their partners."""

from __future__ import annotations

import numpy as np
import pytest

from homolog.errors import InputError
from homolog.matching.columns import prepare
from homolog.matching.null import calibrate, document_exchanges
from homolog.matching.pairs import match_pair
from homolog.matching.planted import PlantedMatches, Planting, plant_matches

TOKENS = 60_000


def correlations(x: np.ndarray, y: np.ndarray) -> np.ndarray:
    """float64 (features of x, features of y)."""
    return np.corrcoef(x.T.astype(np.float64), y.T.astype(np.float64))[: x.shape[1], x.shape[1] :]


def counts_by_document(x, document: np.ndarray) -> np.ndarray:
    """Firings, (documents, features)."""
    counts = np.zeros((document[-1] + 1, x.shape[1]))
    np.add.at(counts, document, (x.toarray() > 0).astype(np.float64))
    return counts


@pytest.fixture(scope="module")
def plain() -> PlantedMatches:
    """Without superposition: columns are the latents themselves, up to scale."""
    return plant_matches(
        TOKENS, 100, seed=3, planting=Planting(frequency=(0.01, 0.05), leak=0.0, threshold=0.0)
    )


def test_shapes_and_truth(plain):
    for x in (plain.a, plain.b):
        assert (
            x.shape == (TOKENS, 100)
            and x.dtype == np.float32
            and x.has_canonical_format
            and (x.data > 0).all()
        )
    assert plain.document.dtype == np.int32 and plain.document[0] == 0
    assert set(np.diff(plain.document).tolist()) == {0, 1}
    for own, other in ((plain.partner_a, plain.partner_b), (plain.partner_b, plain.partner_a)):
        paired = np.flatnonzero(own >= 0)
        assert len(paired) == 50 and (other[own[paired]] == paired).all()
    paired = plain.partner_a >= 0
    assert (np.isnan(plain.noise_a) == ~paired).all()
    assert (plain.noise_b[plain.partner_a[paired]] == plain.noise_a[paired]).all()
    assert (plain.frequency_b[plain.partner_a[paired]] == plain.frequency_a[paired]).all()


def test_nothing_is_read_from_places_or_sizes(plain):
    paired = np.flatnonzero(plain.partner_a >= 0)
    partner = plain.partner_a[paired]
    # by chance one place in 100 agrees; rank correlations of 50 numbers have a spread of 1/7
    assert (paired == partner).mean() < 0.1
    largest = [x.max(axis=0).toarray() for x in (plain.a, plain.b)]
    for own, other in (
        (paired, partner),
        (largest[0][paired], largest[1][partner]),
        (np.arange(100), plain.noise_a),
    ):
        ranks = [np.argsort(np.argsort(v[~np.isnan(other)])) for v in (own, other)]
        assert abs(np.corrcoef(ranks)[0, 1]) < 0.5
    assert largest[0].max() / largest[0].min() > 20  # scales from 1/10 to 10
    # and the shared ones lie anywhere: 50 of 100 have a mean of 49.5 +- 3
    assert abs(paired.mean() - 49.5) < 15


def test_the_same_seed_gives_the_same_bytes():
    first, again, other = (plant_matches(3000, 40, seed=seed) for seed in (1, 1, 2))
    for name in ("a", "b"):
        x, y = getattr(first, name), getattr(again, name)
        assert x.data.tobytes() == y.data.tobytes() and x.indices.tobytes() == y.indices.tobytes()
    assert first.partner_a.tobytes() == again.partner_a.tobytes()
    assert first.partner_a.tobytes() != other.partner_a.tobytes()


def test_frequencies_and_values(plain):
    for x, frequency in ((plain.a, plain.frequency_a), (plain.b, plain.frequency_b)):
        observed = np.bincount(x.indices, minlength=100) / TOKENS
        # some 120 documents, each with an activity of relative spread 1: a frequency is known to 1
        # / sqrt(120) = 9 %, the mean of 100 of them to 1 %; noisy copies fire up to 6 % less often
        # (a spurious firing may meet a true one)
        assert np.abs(np.log(observed / frequency)).max() < 0.5
        assert -0.06 < np.log(observed / frequency).mean() < 0.03
    clean = plain.a.tocsc()
    log_sd = [
        np.log(clean.data[low:high]).std()
        for low, high in zip(clean.indptr[:-1], clean.indptr[1:], strict=True)
    ]
    assert abs(np.mean(log_sd) - 0.5) < 0.01
    heavy = plant_matches(
        TOKENS,
        40,
        seed=4,
        planting=Planting(frequency=(0.02, 0.05), leak=0, threshold=0, values="exponential"),
    ).a.tocsc()
    parts = [
        heavy.data[low:high] for low, high in zip(heavy.indptr[:-1], heavy.indptr[1:], strict=True)
    ]
    # mean = sd, unlike 1.88 above
    assert abs(np.mean([part.mean() / part.std() for part in parts]) - 1) < 0.03


def test_pairs_correlate_as_the_noise_says(plain):
    paired = np.flatnonzero(plain.partner_a >= 0)
    r = correlations(
        plain.a.toarray()[:, paired], plain.b.toarray()[:, plain.partner_a[paired]]
    ).diagonal()
    p, s = plain.frequency_a[paired], plain.noise_a[paired]
    m, u = np.exp(0.5**2), np.exp(s**2)  # E[v^2] of log-sd 0.5, E[u^2] of log-sd s
    spurious = s * p * (1 - 2 * p)  # where the latent is silent: E[(1 - p g) s p g], E[g^2] = 2
    mean_y, square_y = p * (1 - s) + spurious, p * (1 - s) * m * u + spurious * m
    expected = (p * (1 - s) * m - p * mean_y) / np.sqrt((p * m - p**2) * (square_y - mean_y**2))
    # 600 to 3000 firings a feature with heavy-tailed values: a few hundredths each, some
    # thousandths on average
    assert np.abs(r - expected).max() < 0.08
    assert abs((r - expected).mean()) < 0.01
    assert expected.min() < 0.4 and expected.max() > 0.95
    rare = (1 - s) / np.sqrt((1 - s) * np.exp(s**2) + s)  # the limit that the module states
    assert np.abs(rare - expected).max() < 0.03


def test_latents_cluster_in_documents_and_copies_in_the_same(plain):
    burst = {"frequency": (0.01, 0.02), "leak": 0.0, "threshold": 0.0, "topic_shape": 0.5}
    for shape, planted in (
        (1.0, plain),
        (0.5, plant_matches(TOKENS, 100, seed=5, planting=Planting(**burst))),
    ):
        expected = np.bincount(planted.document)[:, None] * planted.frequency_a
        count = counts_by_document(planted.a, planted.document)
        # count = Poisson(expected g): E[(count - expected)^2 - expected] = expected^2 Var(g) =
        # expected^2 / shape
        clustering = ((count - expected) ** 2 / expected - 1).sum() / expected.sum()
        assert 0.8 / shape < clustering < 1.2 / shape
    length = np.bincount(plain.document)[:, None]
    rate_a, rate_b = (counts_by_document(x, plain.document) / length for x in (plain.a, plain.b))
    r = correlations(rate_a, rate_b)
    paired = np.flatnonzero(plain.partner_a >= 0)
    assert np.median(r[paired, plain.partner_a[paired]]) > 0.85
    assert abs(np.median(r[plain.partner_a < 0])) < 0.03


def test_what_is_not_shared_is_independent_unless_topics_are(plain):
    r = correlations(plain.a.toarray()[:, plain.partner_a < 0], plain.b.toarray())
    # spread 1 / sqrt(n) for independent tokens; documents of independent activity add nothing to
    # the mean of r
    assert abs(r.mean()) < 5 / np.sqrt(TOKENS * r.size)
    assert 0.8 < r.std() * np.sqrt(TOKENS) < 1.2
    topical = plant_matches(
        TOKENS,
        100,
        seed=6,
        planting=Planting(frequency=(0.01, 0.05), leak=0, n_topics=2, topic_shape=0.3),
    )
    r = correlations(topical.a.toarray()[:, topical.partner_a < 0], topical.b.toarray())
    # one pair in two shares its topic: covariance p q / shape, so r = sqrt(p q) / (0.3 M) = 0.025 /
    # 0.385 = 0.065
    assert 0.015 < r.mean() < 0.06


def test_superposition_ties_a_column_to_its_sources():
    frequencies = {"frequency": (0.01, 0.05)}
    mixed = plant_matches(
        TOKENS, 100, seed=7, planting=Planting(leak=0.5, n_leaks=2, threshold=0.3, **frequencies)
    )
    for x, frequency in ((mixed.a, mixed.frequency_a), (mixed.b, mixed.frequency_b)):
        r = correlations(x.toarray(), x.toarray()) - np.eye(100)
        # a column has 2 sources and is, on average, a source of 2 others; those with a source in
        # common add a few
        assert 4 <= (r > 0.15).sum(axis=1).mean() <= 8
        # sources lie within 10 of 100 ranks: a tenth of the range of the logarithms, log 5
        i, j = np.nonzero(r > 0.3)
        assert len(i) > 50 and np.abs(np.log(frequency[i] / frequency[j])).max() < 0.5
        grown = np.bincount(x.indices, minlength=100) / TOKENS / frequency
        # 1 + 2 P(0.5 v > 0.3) = 2.6, where none of the three fire together
        assert 1.2 < grown.mean() < 2.9
    apart = plant_matches(
        TOKENS, 100, seed=7, planting=Planting(leak=0.0, **frequencies)
    ).a.toarray()
    assert (correlations(apart, apart) - np.eye(100)).max() < 0.1


def test_bad_input_is_named():
    for field, options in (
        ("shared", {"shared": 1.5}),
        ("frequency", {"frequency": (0.2, 0.1)}),
        ("noise", {"noise": (0.0, 1.0)}),
    ):
        with pytest.raises(InputError, match=field):
            plant_matches(1000, 50, seed=0, planting=Planting(**options))
    with pytest.raises(InputError, match="n_features is 5"):
        plant_matches(1000, 5, seed=0)


@pytest.mark.parametrize("shared", [0.0, 0.5, 1.0])
def test_targets_hold_end_to_end(shared):
    """At most 1 % false matches, the share within 2 points.

    Neither a threshold nor the null alone holds them.
    """
    planted = plant_matches(
        80_000, 300, seed=11, planting=Planting(shared=shared, frequency=(1e-3, 5e-2))
    )
    exchanges = document_exchanges(planted.document, 6, seed=0)
    pair = match_pair(prepare(planted.a), prepare(planted.b), 1, exchanges=exchanges, threads=1)
    for x, own, back, null, partner in (
        (planted.a, pair.a_to_b, pair.b_to_a, pair.null_a, planted.partner_a),
        (planted.b, pair.b_to_a, pair.a_to_b, pair.null_b, planted.partner_b),
    ):
        r, index = own.r[:, 0], own.index[:, 0]
        found = calibrate(r, np.bincount(x.indices, minlength=300), null, n_tokens=80_000, fdr=0.01)
        significant = found.q <= 0.01
        assert (significant == (r >= found.threshold)).all()
        called = significant & (r >= 0.2) & (r >= 0.7 * back.r[index, 0])
        assert (called & (index != partner)).sum() <= 0.01 * max(1, called.sum())
        assert abs(called.mean() - shared) <= 0.02
        if shared == 0.5:
            # superposition ties features that are not the same
            assert significant.mean() > shared + 0.1
            assert (r > 0.1).mean() > shared + 0.1 and (r > 0.7).mean() < shared - 0.1
