"""Planted residuals have the properties they claim; truth by hand; the chain on known features."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import polars as pl
import pytest
import scipy.sparse

from homolog.dictionaries import (
    Place,
    ResidualArrays,
    TrainingConfig,
    parse_config,
    rotated,
    train,
)
from homolog.errors import InputError
from homolog.matching.planted_residuals import (
    Encoded,
    Followed,
    PlantedModel,
    ResidualPlanting,
    Truth,
    World,
    account,
    called,
)
from homolog.matching.planted_residuals.latents import CHILD_GIVEN, MEMBER_GIVEN
from homolog.matching.planted_residuals.truth import correlations

SMALL = ResidualPlanting(shared=40, private=24, tokens=12, vocabulary=40)


@pytest.fixture(scope="module")
def world() -> World:
    return World(SMALL, seed=5)


@pytest.fixture(scope="module")
def text(world):
    return world.text("held-out", 200)


def test_latents_fire_as_planted(world, text):
    z = text.latents
    assert z.shape == (200 * SMALL.document_tokens, len(world.latents))
    often = np.bincount(z.indices, minlength=z.shape[1]) / z.shape[0]
    planted = world.latents["frequency"].to_numpy()
    few = planted < 0.05  # above, rates within a document are cut
    # 200 documents of variance 1 each: a standard error of 7 %, and that of counts
    assert (np.abs(often / planted - 1)[few] < 0.4).all()
    assert abs(np.mean(often[few] / planted[few]) - 1) < 0.05
    assert z.data.mean() == pytest.approx(1, abs=0.01)
    a = SMALL.models[0]
    of_a = world.carries(a) & (world.latents["owner"] != "token").to_numpy()
    assert SMALL.mean_active * 0.5 < planted[of_a].sum() < SMALL.mean_active * 1.5


def test_families_and_groups(world, text):
    fires = (text.latents > 0).toarray()
    kind, unit = world.latents["kind"].to_numpy(), world.latents["unit"].to_numpy()
    for parent in np.flatnonzero(kind == "parent"):
        children = np.flatnonzero((kind == "child") & (unit == unit[parent]))
        assert len(children) == 3 and not (fires[:, children] & ~fires[:, [parent]]).any()
        given = fires[fires[:, parent]][:, children].mean(axis=0)
        np.testing.assert_allclose(given, CHILD_GIVEN, atol=0.1)
        assert (world.families[children] == world.families[parent]).all()
    groups = world.units[kind == "group"].reshape(-1, 4)
    assert (groups == groups[:, :1]).all() and (world.families[kind == "group"] == -1).all()
    members = np.flatnonzero(kind == "group")[:2]
    both = fires[:, members].all(axis=1).sum() / fires[:, members[0]].sum()
    assert both == pytest.approx(MEMBER_GIVEN, abs=0.1)
    assert (world.units[(kind == "alone") | (kind == "token")] == -1).all()


def test_token_latents_are_tokens(world, text):
    own = text.latents[:, -SMALL.tokens :].toarray()
    np.testing.assert_array_equal(own, text.token[:, None] == np.arange(SMALL.tokens))


def test_latents_come_in_bursts(world, text):
    alone = world.latents.with_row_index().filter(kind="alone").sort("frequency")["index"][5]
    counts = (text.latents[:, [alone]].toarray() > 0).reshape(200, -1).sum(axis=1)
    assert counts.var() > 2 * counts.mean()  # 1 + mean times, for kappa = 1


def test_residuals_are_sums_of_what_a_model_carries(world, text):
    a, b, untrained = SMALL.models
    shared = world.shared
    assert shared.sum() == 40 and (world.carries(a) & world.carries(b))[shared].all()
    assert not world.carries(untrained)[shared].any()
    assert (world.carries(a) & world.carries(b) & world.carries(untrained)).sum() == SMALL.tokens
    for model in SMALL.models:
        z = world.carried(model, text)
        assert not (np.bincount(z.indices, minlength=z.shape[1])[~world.carries(model)]).any()
        x = world.residuals(model, text).numpy()
        rest = x - z @ world.directions(model)
        assert rest.std() == pytest.approx(model.noise, rel=0.01)
        norms = np.linalg.norm(world.directions(model), axis=1)
        np.testing.assert_allclose(norms, 1, rtol=1e-5)
    r = [correlations(world.carried(m, text), text.latents) for m in (a, b)]
    at = np.flatnonzero(shared)
    assert all((each[at, at] > 0.8).all() and (each[at, at] < 1).all() for each in r)  # jitter
    again = World(SMALL, seed=5).residuals(a, text)
    assert again.equal(world.residuals(a, text))
    assert not World(SMALL, seed=6).residuals(a, text).equal(again)


def test_refusals():
    with pytest.raises(InputError, match="private"):
        ResidualPlanting(private=0)
    with pytest.raises(InputError, match="tokens"):
        ResidualPlanting(tokens=300)


def sparse(rng: np.random.Generator, n: int, width: int) -> np.ndarray:
    return np.where(rng.random((n, width)) < 0.1, rng.exponential(size=(n, width)), 0)


def csr(x: np.ndarray):
    return scipy.sparse.csr_array(x.astype(np.float32))


def test_correlations_are_pearsons():
    rng = np.random.default_rng(0)
    x, z = sparse(rng, 500, 6), sparse(rng, 500, 4)
    x[:, 5] = 0
    r = correlations(csr(x), csr(z))
    wanted = np.corrcoef(x[:, :5].astype(np.float32).T, z.astype(np.float32).T)[:5, 5:]
    np.testing.assert_allclose(r[:5], wanted, atol=1e-9)
    assert np.isnan(r[5]).all()


def planted_by_hand():
    """Latents: 0 alone, 1 alone, 2 parent of 3, 4 not learnt, 5 silent; and features of them."""
    rng = np.random.default_rng(1)
    z = sparse(rng, 5000, 6)
    z[:, 5] = 0
    z[:, 3] = np.where(rng.random(5000) < 0.5, z[:, 2], 0)
    noise = sparse(rng, 5000, 1)[:, 0]
    x = np.column_stack([z[:, 0], 2 * z[:, 1], z[:, 1] + 0.2 * z[:, 0], z[:, 2], noise, 0 * noise])
    family = np.array([-1, -1, 7, 7, -1, -1])
    return x, z, family


def test_followed_by_hand():
    x, z, family = planted_by_hand()
    followed = Followed.of(csr(x), csr(z), family)
    assert followed.latent.tolist() == [0, 1, 1, 2, -1, -1]
    assert followed.best[:4].tolist() == [0, 1, 1, 2] and followed.best[5] == -1
    assert followed.r[0] == pytest.approx(1, abs=1e-6) and np.isnan(followed.r[5])
    wanted = ["learnt", "split", "learnt", "absorbed", "not learnt", ""]
    assert followed.status.tolist() == wanted


def test_account_by_hand():
    """Latents 0, 1 are shared, the others A's; B has 0 in feature 0 and nothing else."""
    x, z, family = planted_by_hand()
    own = Followed.of(csr(x), csr(z), family)
    other = Followed.of(csr(x[:, [0, 4]]), csr(z), family)
    shared = np.arange(6) < 2
    truth = Truth(own, other, shared, ~shared, family)
    rows = {
        "n_active": [9, 9, 9, 9, 9, 0],
        "best_feature": [0, 0, 1, 0, 1, -1],
        "homolog": [True, True, False, True, True, None],
        "r": [0.9, 0.5, 0.1, 0.3, 0.4, np.nan],
    }
    found = account(pl.DataFrame(rows), truth)
    wanted = {
        "planted": 2 / 5,  # one latent is silent
        "latents_learnt": 2 / 5,
        "latents_split": 1 / 5,
        "latents_absorbed": 1 / 5,
        "latents_not_learnt": 1 / 5,
        "followed": 3 / 4,
        "true": 3 / 5,
        "findable": 1 / 5,
        "called": 4 / 5,
        "follow": 4 / 5,
        "right": 1 / 4,
        "wrong_partner": 1 / 4,
        "false_private": 1 / 4,
        "related": 0.0,
        "missed": 0.0,
        "related_r": 0.3,
        "dictionary_part": 1 / 5,
        "matching_part": 1 / 5,
    }
    assert {name: found[name] for name in wanted} == pytest.approx(wanted)
    assert np.isnan(found["leak_r"])  # what is private is of a family
    parts = ("right", "wrong_partner", "false_private", "loose", "false_nothing")
    assert sum(found[name] for name in parts) == pytest.approx(1)
    some = account(pl.DataFrame(rows), truth, np.array([True, False, True, False, False, True]))
    assert (some["true"], some["called"], some["planted"]) == (1, 1 / 2, 2 / 5)


def side(world, text, model: PlantedModel, label: str = "sae", seed: int | None = None) -> Encoded:
    """The model's latents themselves as features; with a seed, at other tokens."""
    z = world.carried(model, text)
    if seed is not None:
        z = z[np.random.default_rng(seed).permutation(z.shape[0])]
    return Encoded(model.name, label, z, 1.0)


def directions(world, sides, matches) -> list[dict[str, float]]:
    a, b = SMALL.models[:2]
    text = world.text("held-out", 200)
    followed = {
        m.name: Followed.of(s.features, world.carried(m, text), world.families)
        for m, s in zip((a, b), sides, strict=True)
    }
    accounts = []
    for own, other in ((a, b), (b, a)):
        private = (world.latents["owner"] == own.name).to_numpy()
        truth = Truth(followed[own.name], followed[other.name], world.shared, private, world.units)
        accounts.append(account(matches.filter(model=own.name), truth))
    return accounts


def test_perfect_dictionaries_give_the_planted_share(world, text):
    a, b, untrained = SMALL.models
    pair = side(world, text, a), side(world, text, b)
    turned = side(world, text, a, "rotated", 1), side(world, text, b, "rotated", 2)
    matches = called(pair, turned, side(world, text, untrained), text, threads=1)
    for found in directions(world, pair, matches):
        assert found["true"] == found["planted"] == found["followed"] == pytest.approx(40 / 76)
        # a private child or member is correlated with its shared parent or fellow, truly
        assert found["missed"] == found["wrong_partner"] == 0
        assert found["false_private"] == found["related"]
        assert found["right"] + found["related"] == 1
    token = (world.latents["owner"] == "token").to_numpy()
    rows = matches.filter(model="A")
    assert (rows["r"].to_numpy()[token] > 0.8).all()
    assert not rows["homolog"].fill_null(False).to_numpy()[token].any()


def test_trained_dictionaries_end_to_end():
    """Few latents in many dimensions: learnt, found, and nothing else called."""
    models = (
        PlantedModel("A", 48, 0.05),
        PlantedModel("B", 40, 0.05),
        PlantedModel("untrained", 40, 0.05),
    )
    plan = replace(
        SMALL, shared=12, private=10, tokens=6, in_families=0, in_groups=0, models=models
    )
    plan = replace(plan, mean_active=3.0)
    world = World(plan, seed=1)
    text, held_out = world.text("train", 128), world.text("held-out", 100)
    config = parse_config({"kind": "batchtopk", "k": 4, "d_sae": 40})
    training = TrainingConfig(n_tokens=65_536, batch=128, dead_after=20_000)
    sides, turned = [], []
    for model in models:
        source = ResidualArrays([world.residuals(model, text)], seed=0, name=model.name)
        on = Place(workers=1)
        sae = train(source, config, training, model=model.name, on=on)["sae"][0]
        x = world.residuals(model, held_out)
        sides.append(Encoded(model.name, "sae", sae.encode_sparse(x), 0.9))
        turned.append(Encoded(model.name, "rotated", rotated(sae, 1, x).encode_sparse(x), 0.9))
    pair, controls = (sides[0], sides[1]), (turned[0], turned[1])
    matches = called(pair, controls, sides[2], held_out, n_exchanges=12, threads=1)
    for own, other in ((0, 1), (1, 0)):
        followed = [
            Followed.of(sides[i].features, world.carried(models[i], held_out), world.families)
            for i in (own, other)
        ]
        private = (world.latents["owner"] == models[own].name).to_numpy()
        truth = Truth(followed[0], followed[1], world.shared, private, world.units)
        found = account(matches.filter(model=models[own].name), truth)
        assert found["latents_not_learnt"] < 0.15
        assert found["missed"] == 0 and found["false_private"] < 0.1
        assert found["right"] > 0.85
