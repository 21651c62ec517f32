"""Causal agreement: planted effects, moments in a slow second way, pairs and shares by hand."""

from __future__ import annotations

import numpy as np
import polars as pl
import pytest
import torch
from scipy.sparse import csr_array

from homolog import Add, load
from homolog.analyses.causal.agreement import agreement
from homolog.analyses.causal.effects import ProbedModel, measure_effects
from homolog.analyses.causal.pairs import PAIRS_SCHEMA, PROBES_SCHEMA, choose_pairs
from homolog.analyses.causal.shares import SHARES_SCHEMA, causal_shares, causal_words
from homolog.analyses.stream import place_of
from homolog.corpus import TokenWindows
from homolog.dictionaries import SparseAutoencoder
from homolog.errors import InputError

F = 12  # features a layer
NAN = float("nan")


def stream(n: int = 12, context: int = 24) -> TokenWindows:
    rng = np.random.default_rng(0)
    tokens = rng.integers(5, 900, (n, context)).astype(np.int32)
    document = (np.arange(n * context) // 36).reshape(n, context).astype(np.int32)
    return TokenWindows(tokens, document, rng.random((n, context)) > 0.1, tokenizer_fingerprint="f")


def firing(windows: TokenWindows, seed: int, share: float = 0.3) -> np.ndarray:
    rng, shape = np.random.default_rng(seed), (int(windows.mask.sum()), F)
    return ((0.5 + rng.random(shape)) * (rng.random(shape) < share)).astype(np.float32)


def writing(directions: torch.Tensor) -> SparseAutoencoder:
    """A dictionary of these decoder directions; what it reads is of no matter here."""
    d_sae, d_model = directions.shape
    return SparseAutoencoder(
        torch.zeros(d_model, d_sae), torch.zeros(d_sae), directions, torch.zeros(d_model)
    )


def matches_of(r: list[float], homolog: list[bool], layer: int, best_layer: int) -> pl.DataFrame:
    n = len(r)
    return pl.DataFrame(
        {
            "comparison": ["main"] * n,
            "model": ["A"] * n,
            "layer": [layer] * n,
            "feature": list(range(n)),
            "r": r,
            "best_model": ["B"] * n,
            "best_layer": [best_layer] * n,
            "best_feature": list(range(n)),
            "homolog": homolog,
        }
    )


def saying(model, tokens: list[int]) -> torch.Tensor:
    """Directions that make these the next tokens, of three times the length of a last residual."""
    at = torch.arange(5, 105)[None]
    length = model.residuals(at)[-1].norm(dim=-1).median()
    rows = model.hf.get_output_embeddings().weight[tokens].float()
    rows = rows - rows.mean(1, keepdim=True)
    return 3.0 * length * rows / rows.norm(dim=1, keepdim=True)


def test_two_architectures_that_write_the_same_tokens_are_alike_and_others_are_not():
    a, b, windows = load("zoo:transformer-s0"), load("zoo:mamba-s0"), stream()
    fires = firing(windows, 1)
    said = list(range(100, 100 + F))
    other = said[: F // 2] + list(
        range(300, 300 + F // 2)
    )  # the second half of B's features write something else
    last_a, last_b = a.n_layers - 1, b.n_layers - 1
    matrices = {last_a: csr_array(fires)}, {last_b: csr_array(fires * np.float32(0.5))}
    pairs, probes = choose_pairs(
        matches_of([0.99] * F, [True] * F, last_a, last_b),
        "A",
        "B",
        *(m.__getitem__ for m in matrices),
        n_pairs=F,
        positions=6,
    )
    assert pairs["matched"].sum() == F
    probed = (
        ProbedModel(a, {last_a: writing(saying(a, said))}),
        ProbedModel(b, {last_b: writing(saying(b, other))}),
    )
    effects = measure_effects(pairs, probes, windows, *probed)
    table = agreement(pairs, effects)
    matched = table.filter("matched").sort("feature")
    steered, ablated = (
        matched[f"{kind}_r"].to_numpy().reshape(2, -1) for kind in ("steer", "ablate")
    )
    assert steered[0].min() > 0.8 and steered[1].max() < 0.5
    assert (
        ablated[0].mean() > ablated[1].mean() + 0.2
    )  # tokens that were improbable before: little is left to compare
    for kind in ("steer", "ablate"):
        assert (matched[f"{kind}_lo"] <= matched[f"{kind}_r"]).all()
        assert (matched[f"{kind}_r"] <= matched[f"{kind}_hi"]).all()
    shares = causal_shares(table)
    headline = shares.filter((pl.col("kind") == "steer") & (pl.col("above_r") == 0.7)).row(
        0, named=True
    )
    assert headline["n"] == F and headline["share"] == 0.5 and headline["lo"] < 0.5 < headline["hi"]
    assert headline["threshold"] < steered[0].min()


def test_moments_are_those_of_single_runs_with_an_edit():
    a, b, windows = load("zoo:transformer-s0"), load("zoo:mamba-s0"), stream()
    generator = torch.Generator().manual_seed(2)
    made = [writing(torch.randn(F, model.d_model, generator=generator)) for model in (a, b)]
    layers = 1, b.n_layers - 1  # inside, and at the end, after which no block runs
    matrices = [csr_array(firing(windows, seed)) for seed in (3, 4)]
    pairs, probes = choose_pairs(
        matches_of([0.4] * F, [True] * F, *layers),
        "A",
        "B",
        lambda _: matrices[0],
        lambda _: matrices[1],
        n_pairs=2,
        positions=2,
    )
    probed = ProbedModel(a, {1: made[0]}), ProbedModel(b, {layers[1]: made[1]})
    effects = measure_effects(pairs, probes, windows, *probed)
    assert len(probes) == len(effects) == 4 * 4
    for row in effects.join(pairs, on=["pair", "matched"]).iter_rows(named=True):
        (w,), (p,) = place_of(windows, np.array([row["row"]]))
        tokens = torch.from_numpy(windows.tokens[[w]]).long()
        logs = []
        sides = (
            (a, 1, made[0], row["feature"], row["amount"]),
            (b, layers[1], made[1], row["best_feature"], row["best_amount"]),
        )
        for model, layer, sae, feature, amount in sides:
            edit = Add(f"resid.{layer}", amount * sae.W_dec[feature], positions=[int(p)])
            for edits in ([], [edit]):
                logits = model.run(tokens, edits=edits).logits
                logs.append(logits[0, p].double().log_softmax(-1).numpy())
        weight = np.exp(logs).sum(0) / 4
        x, y = logs[1] - logs[0], logs[3] - logs[2]
        cov = np.cov(x, y, aweights=weight, ddof=0)
        expected = [cov[0, 0], cov[1, 1], cov[0, 1]]
        expected += [float((np.exp(logs[k]) * (logs[k] - logs[k + 1])).sum()) for k in (0, 2)]
        found = [row[name] for name in ("var", "best_var", "cov", "kl", "best_kl")]
        assert np.allclose(found, expected, rtol=2e-3, atol=1e-6)


def test_pairs_and_probes_are_what_they_are_said_to_be():
    windows = stream(30)
    x, y = firing(windows, 5), firing(windows, 6)
    y[:, :8] = x[:, :8] * (0.8 + 0.4 * np.random.default_rng(7).random((len(x), 8)))  # matches
    y[:, 3] = 0
    y[:4, 3] = x[:4, 3] = 1.0  # fires on four tokens only
    x[:, 4], y[:, 4] = 0, 0
    x[0, 4] = y[0, 4] = 1.0  # fires together on one token: too few
    r = [0.9, 0.9, 0.9, 0.9, 0.9, 0.5, 0.6, 0.9, 0.3, 0.3, 0.3, 0.3]
    homolog = [True] * 7 + [False] * 5
    arguments = (
        matches_of(r, homolog, 2, 5),
        "A",
        "B",
        lambda _: csr_array(x),
        lambda _: csr_array(y),
    )
    pairs, probes = choose_pairs(*arguments, n_pairs=20, positions=5)
    assert dict(pairs.schema) == PAIRS_SCHEMA and dict(probes.schema) == PROBES_SCHEMA
    assert pairs.filter("matched")["feature"].to_list() == [0, 1, 2, 3, 5, 6]
    for row in pairs.iter_rows(named=True):
        own, best = x[:, row["feature"]], y[:, row["best_feature"]]
        assert (row["n_active"], row["best_n_active"]) == ((own > 0).sum(), (best > 0).sum())
        assert row["n_both"] == ((own > 0) & (best > 0)).sum()
        here = probes.filter(
            (pl.col("pair") == row["pair"]) & (pl.col("matched") == row["matched"])
        )
        ablated, steered = (here.filter(pl.col("kind") == kind) for kind in ("ablate", "steer"))
        at = ablated["row"].to_numpy()
        assert len(at) == len(set(at)) == min(5, row["n_both"])
        assert np.allclose(-own[at], ablated["amount"]) and np.allclose(
            -best[at], ablated["best_amount"]
        )
        level = np.minimum(own / own[own > 0].mean(), best / best[best > 0].mean())
        assert row["n_both"] <= 5 or level[at].min() >= np.median(level[level > 0])
        at = steered["row"].to_numpy()
        assert len(set(at)) == 5 and not (own[at] > 0).any() and not (best[at] > 0).any()
        assert np.allclose(steered["amount"], own[own > 0].mean())
        assert np.allclose(steered["best_amount"], best[best > 0].mean())
        if not row["matched"]:
            assert (
                row["r"] == pytest.approx(np.corrcoef(own, best)[0, 1], abs=1e-4) and row["r"] < 0.2
            )
            match = pairs.filter(pl.col("matched") & (pl.col("pair") == row["pair"])).row(
                0, named=True
            )
            assert match["feature"] == row["feature"] != row["best_feature"]
            if match["best_n_active"] > 10:
                assert 0.5 <= row["best_n_active"] / match["best_n_active"] <= 2
    again = choose_pairs(*arguments, n_pairs=20, positions=5)
    assert pairs.equals(again[0]) and probes.equals(again[1])
    few = choose_pairs(*arguments, n_pairs=4, positions=5)[0].filter("matched")
    assert (few["r"] > 0.7).sum() == 2 and (few["r"] < 0.7).sum() == 2  # half of them above 0.7
    with pytest.raises(InputError, match="homologs"):
        choose_pairs(arguments[0].with_columns(homolog=pl.lit(None, pl.Boolean)), *arguments[1:])


def shares_by_hand(r: list[float], matched: list[float], control: list[float]) -> pl.DataFrame:
    n = len(r)
    columns = {"pair": [*range(n)] * 2, "matched": [True] * n + [False] * n, "r": [*r, *[0.0] * n]}
    columns |= {f"{kind}_r": [*matched, *control] for kind in ("ablate", "steer")}
    return causal_shares(pl.DataFrame(columns), n_replicates=200)


def test_shares_by_hand():
    control = [
        0.0,
        0.1,
        0.2,
        0.3,
        0.4,
    ] * 4  # 19 intervals: the 95 % quantile is the 19.05th of 20, which is 0.4
    r = [0.95] * 10 + [0.75] * 5 + [0.6] * 5
    matched = [0.9] * 8 + [0.1, NAN] + [0.9, 0.9, 0.3, 0.3, 0.3] + [0.1] * 5
    table = shares_by_hand(r, matched, control)
    assert dict(table.schema) == SHARES_SCHEMA
    ablate = table.filter(pl.col("kind") == "ablate")
    assert ablate["threshold"].to_list() == pytest.approx([0.4] * 6)
    assert ablate.select("above_r", "to_r", "n").rows() == [
        (0.7, 1.0, 14),
        (0.0, 0.5, 0),
        (0.5, 0.7, 5),
        (0.7, 0.8, 5),
        (0.8, 0.9, 0),
        (0.9, 1.0, 9),
    ]
    share = ablate["share"].to_numpy()
    assert (
        np.allclose(share[[0, 2, 3, 5]], [10 / 14, 0, 2 / 5, 8 / 9])
        and np.isnan(share[[1, 4]]).all()
    )
    lo, hi = ablate["lo"][0], ablate["hi"][0]
    assert 0.4 < lo < share[0] < hi <= 1.0
    assert ablate["control_median"][0] == pytest.approx(0.2) and ablate["n_control"][0] == 20


def test_one_pair_has_a_share_and_no_interval():
    shares = shares_by_hand([0.95], [0.9], [0.1])
    row = shares.row(0, named=True)
    assert (row["n"], row["share"], row["threshold"]) == (1, 1.0, 0.1)
    assert np.isnan(row["lo"]) and np.isnan(row["hi"])
    named = shares.with_columns(model=pl.lit("A"), best_model=pl.lit("B"))
    (said,) = causal_words(named)
    assert said["words"].startswith("100% of 1 features of A with a partner in B")


def test_an_effect_that_is_nil_has_no_agreement():
    pair = dict.fromkeys(PAIRS_SCHEMA, 0) | {
        "matched": True,
        "model": "A",
        "best_model": "B",
        "r": 0.9,
    }
    pairs = pl.DataFrame([pair], schema=PAIRS_SCHEMA)
    moments = {"var": [1.0, 4.0, 0.0], "best_var": [1.0, 9.0, 0.0], "cov": [0.5, 6.0, 0.0]}
    effects = pl.DataFrame(
        {
            "pair": [0] * 3,
            "matched": [True] * 3,
            "kind": ["ablate"] * 3,
            "kl": [0.1, 0.2, 0.0],
            "best_kl": [0.0] * 3,
        }
        | moments
    ).cast({"pair": pl.Int32})
    row = agreement(pairs, effects).row(0, named=True)
    assert row["ablate_r"] == pytest.approx(6.5 / (5 * 10) ** 0.5) and row["ablate_n"] == 3
    assert row["ablate_kl"] == pytest.approx(0.1)
    assert np.isnan(row["steer_r"]) and np.isnan(row["steer_lo"]) and row["steer_n"] == 0
    assert np.isnan(agreement(pairs, effects[2:]).row(0, named=True)["ablate_r"])


def test_a_study_without_homologs_has_no_pairs_and_no_share():
    windows = stream()
    fires = csr_array(firing(windows, 8))
    none = matches_of([0.9] * F, [False] * F, 0, 0)
    pairs, probes = choose_pairs(none, "A", "B", lambda _: fires, lambda _: fires)
    assert pairs.is_empty() and probes.is_empty()
    model = load("zoo:transformer-s0")
    effects = measure_effects(
        pairs, probes, windows, ProbedModel(model, {}), ProbedModel(model, {})
    )
    shares = causal_shares(agreement(pairs, effects))
    assert (
        shares["n"].sum() == 0
        and shares["share"].is_nan().all()
        and shares["threshold"].is_nan().all()
    )
