"""Planted features have the properties they claim, and the criterion finds their partners."""

from __future__ import annotations

import numpy as np
import polars as pl
import pytest

from homolog.errors import InputError
from homolog.matching.beyond import Grouping, beyond_controls
from homolog.matching.columns import prepare
from homolog.matching.homologs import Baseline, Criterion, classify
from homolog.matching.null import calibrate, document_exchanges
from homolog.matching.pairs import match_pair
from homolog.matching.pearson import max_pearson
from homolog.matching.planted import PlantedMatches, plant_matches
from homolog.matching.planting import CONTROLLED, Planting

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
        ("mixed", {"by_token": 0.6, "in_untrained": 0.3, "mixed": 0.2}),
        ("untrained_noise", {"untrained_noise": 1.0}),
        ("vocabulary", {"vocabulary": 3}),
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


@pytest.fixture(scope="module")
def controlled() -> PlantedMatches:
    """50 shared, 20 by the token, 15 in untrained models, 10 mixtures, 5 of their own a side."""
    shares = {"by_token": 0.4, "in_untrained": 0.3, "mixed": 0.2}
    plain = {"frequency": (0.01, 0.05), "leak": 0.0, "threshold": 0.0}
    return plant_matches(TOKENS, 100, seed=8, planting=Planting(**shares, **plain))


def carriers(planted: PlantedMatches, kind: str, *sides: str) -> list[np.ndarray]:
    """Columns of A of a kind, and those that carry the same latents, float64 (tokens, latents)."""
    columns = np.flatnonzero(planted.kind_a == kind)
    number = planted.latent["a"][columns]
    places = [columns]
    places += [
        np.array([np.flatnonzero(planted.latent[side] == latent)[0] for latent in number])
        for side in sides
    ]
    return [
        getattr(planted, side).toarray()[:, place].astype(np.float64)
        for side, place in zip(("a", *sides), places, strict=True)
    ]


def by_token(x: np.ndarray, token: np.ndarray) -> np.ndarray:
    """Share of the variance of each column that means by token explain."""
    n = np.maximum(np.bincount(token), 1)
    means = np.stack([np.bincount(token, column) / n for column in x.T], axis=1)[token]
    return means.var(axis=0) / x.var(axis=0)


def test_what_controls_know_is_no_homolog(controlled):
    for own, kind, partner in (
        ("a", controlled.kind_a, controlled.partner_a),
        ("b", controlled.kind_b, controlled.partner_b),
    ):
        kinds = dict(zip(*np.unique(kind, return_counts=True), strict=True))
        assert kinds["shared"] == 50 and kinds["token"] + kinds["token set"] == 20
        assert kinds["untrained"] == 15 and kinds["mixture"] == 10 and kinds["own"] == 5
        assert ((partner >= 0) == (kind == "shared")).all()
        assert ((controlled.latent[own] < 0) == (kind == "own")).all()
    for side in ("untrained_a", "untrained_b"):
        known = controlled.latent[side]
        assert (known >= 0).sum() == 25 and len(set(known[known >= 0])) == 25
    plain = {"frequency": (0.01, 0.05), "leak": 0.0, "threshold": 0.0}
    first, again = (
        plant_matches(3000, 40, seed=1, planting=Planting(**plain, **more))
        for more in ({}, {"vocabulary": 50, "untrained_noise": 0.3})
    )
    assert first.a.data.tobytes() == again.a.data.tobytes()
    assert first.b.data.tobytes() == again.b.data.tobytes()


def test_tokens_follow_zipf_and_latents_are_functions_of_them(controlled):
    token = controlled.token
    assert token.dtype == np.int32 and len(token) == TOKENS
    harmonic = (1 / np.arange(1, 10_001)).sum()
    for k in (1, 2, 5, 20):
        expected = TOKENS / (k * harmonic)
        assert abs((token == k - 1).sum() - expected) < 5 * np.sqrt(expected)
    single, several = (carriers(controlled, kind, "b") for kind in ("token", "token set"))
    for a, b in (single, several):
        np.testing.assert_allclose(by_token(a, token), 1)
        assert by_token(b, token).min() > 0.05
        assert np.diagonal(correlations(a, b)).min() > 0.2
    n_tokens = [[len(np.unique(token[x > 0])) for x in a.T] for a, _ in (single, several)]
    assert set(n_tokens[0]) == {1} and min(n_tokens[1]) >= 2 and max(n_tokens[1]) <= 8


def test_stand_ins_carry_copies_with_noise_of_their_own(controlled):
    a, b, own, partner = carriers(controlled, "untrained", "b", "untrained_a", "untrained_b")
    assert np.diagonal(correlations(a, own)).min() > 1 - 1e-6
    with_b, with_u, between = (
        np.diagonal(correlations(x, y)) for x, y in ((a, b), (a, partner), (b, partner))
    )
    assert np.abs(with_b - with_u).max() < 0.1 and abs((with_b - with_u).mean()) < 0.02
    # given the latent, the copies are independent (but for spurious firings in the same documents)
    assert np.abs(between - with_b * with_u).max() < 0.08
    assert (by_token(a, controlled.token) < 0.2).all()  # some 2500 tokens among 60,000
    noisier = plant_matches(
        TOKENS,
        100,
        seed=8,
        planting=Planting(frequency=(0.01, 0.05), leak=0, in_untrained=0.5, untrained_noise=0.3),
    )
    a, b, own, partner = carriers(noisier, "untrained", "b", "untrained_a", "untrained_b")
    assert np.diagonal(correlations(a, own)).max() < 0.8
    assert (np.diagonal(correlations(a, partner)) < np.diagonal(correlations(a, b))).mean() > 0.9


def test_mixtures_need_both_controls(controlled):
    a, own = carriers(controlled, "mixture", "untrained_a")
    token, n = controlled.token, np.maximum(np.bincount(controlled.token), 1)
    for x, u in zip(a.T, own.T, strict=True):
        inner, outer = (v - (np.bincount(token, v) / n)[token] for v in (x, u))
        left = inner - outer * (inner @ outer) / (outer @ outer)
        assert left.var() < 1e-6 * x.var()
        assert inner.var() > 0.1 * x.var() and np.corrcoef(x, u)[0, 1] ** 2 < 0.9


def test_leaks_may_come_from_any_frequency():
    reach = {None: [], 10: []}
    for leak_reach, distance in reach.items():
        planting = Planting(frequency=(0.005, 0.1), leak=0.5, leak_reach=leak_reach)
        mixed = plant_matches(TOKENS, 100, seed=9, planting=planting)
        x = mixed.a.toarray()
        i, j = np.nonzero(correlations(x, x) - np.eye(100) > 0.25)
        distance.extend(np.abs(np.log(mixed.frequency_a[i] / mixed.frequency_a[j])))
    assert max(reach[10]) < 0.8 < 1.2 < max(reach[None])  # 10 ranks: a tenth of log 20


def test_the_verdict_calls_nothing_that_controls_know():
    """Every kind of latent, no superposition; what the same criterion without controls calls."""
    shares = {"by_token": 0.3, "in_untrained": 0.3, "mixed": 0.3}
    plain = {"frequency": (0.005, 0.05), "noise": (0.0, 0.5), "leak": 0.0}
    planted = plant_matches(TOKENS, 120, seed=10, planting=Planting(**shares, **plain))
    exchanges = document_exchanges(planted.document, 6, seed=0)
    a, b = prepare(planted.a), prepare(planted.b)
    pair = match_pair(a, b, 1, exchanges=exchanges, threads=1)
    grouping = Grouping.of(planted.document, planted.token)
    tables, parts = [], []
    for names, x, y, stand_in, of in (
        ("AB", a, b, planted.untrained_b, pair),
        ("BA", b, a, planted.untrained_a, pair.reversed),
    ):
        r, index = of.a_to_b.r[:, 0], of.a_to_b.index[:, 0]
        active = np.bincount((planted.a, planted.b)[names == "BA"].indices, minlength=120)
        threshold = calibrate(r, active, of.null_a, n_tokens=TOKENS, fdr=0.01).threshold
        untrained = prepare(stand_in)
        best = max_pearson(x, untrained, 1, threads=1).a_to_b.index[:, 0]
        own, partner, control = (
            ([columns], np.zeros(120, np.int64), features)
            for columns, features in ((x, np.arange(120)), (y, index), (untrained, best))
        )
        parts.append(
            beyond_controls(own, partner, [control], grouping, lambda layer: layer, threads=1)
        )
        rows = {"feature": np.arange(120), "best_feature": index, "r": r, "threshold": threshold}
        told = {"comparison": "main", "model": names[0], "best_model": names[1]}
        told |= {"label": "sae", "best_label": "sae", "layer": 0, "best_layer": 0}
        tables.append(pl.DataFrame(rows).with_columns(pl.lit(v).alias(k) for k, v in told.items()))
    matches, beyond = pl.concat(tables), pl.concat(parts)
    token = [Baseline("tokens", "the current token", by_token=True)]
    kind = np.concatenate([planted.kind_a, planted.kind_b])
    called, without = (
        classify(matches, Criterion("main", token), given)["homolog"].to_numpy()
        for given in (beyond, None)
    )
    shared, known = kind == "shared", np.isin(kind, CONTROLLED)
    assert not called[known].any() and without[known].mean() > 0.9
    assert called[shared].mean() > 0.95 and not called[kind == "own"].any()
