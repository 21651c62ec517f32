"""Causal agreement: planted effects, moments in a slow second way, pairs and areas by hand."""

from __future__ import annotations

import numpy as np
import polars as pl
import pytest
import torch
from scipy.sparse import csr_array
from scipy.stats import binomtest, norm

from homolog import Add, load
from homolog.analyses.causal.agreement import agreement
from homolog.analyses.causal.auc import AUC_SCHEMA, _auc, causal_auc
from homolog.analyses.causal.effects import EFFECTS, measure_effects
from homolog.analyses.causal.forward import ProbedModel
from homolog.analyses.causal.measure import causal_words
from homolog.analyses.causal.pairs import (
    CONTROLS,
    PAIRS_SCHEMA,
    PROBES_SCHEMA,
    _draw,
    choose_pairs,
)
from homolog.analyses.stream import place_of
from homolog.corpus import TokenWindows
from homolog.dictionaries import SparseAutoencoder
from homolog.errors import InputError
from homolog.record.tables import LOSS_RECOVERED
from homolog.record.tables.causal import LATER

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


def matches_of(
    r: list[float], homolog: list[bool], layer: int, best_layer: int, *, deeper: bool = False
) -> pl.DataFrame:
    """deeper: one more feature and partner, no homologs, after later blocks."""
    n = len(r)
    table = pl.DataFrame(
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
    below = pl.col("layer", "best_layer") + 1
    return pl.concat([table, table[:1].with_columns(below, homolog=False)]) if deeper else table


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
        tuple(m.__getitem__ for m in matrices),
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
    assert table["ablate_later_r"].is_nan().all()  # nothing comes after the last block
    halves = {True: (0.5, 1.0), False: (0.0, 0.7)}  # of the AUC: the first half says the same
    for same, (least, most) in halves.items():
        half = table.filter((pl.col("feature") < F // 2) == same)
        (row,) = causal_auc(half).filter(kind="steer", above_r=0.7, to_r=1.0).to_dicts()
        assert row["n"] == F // 2 and least <= row["auc"] <= most
        assert row["auc_lo"] <= row["auc"] <= row["auc_hi"] and row["auc_lo"] < row["auc_hi"]


@pytest.mark.parametrize("at_end", [False, True])
def test_moments_are_those_of_single_runs_with_an_edit(at_end: bool):
    """Of features inside both models, and at the end of one, after which no block runs."""
    a, b, windows = load("zoo:transformer-s0"), load("zoo:mamba-s0"), stream()
    generator = torch.Generator().manual_seed(2)
    made = [writing(torch.randn(F, model.d_model, generator=generator)) for model in (a, b)]
    layers = 1, b.n_layers - 1 if at_end else 5
    matrices = [csr_array(firing(windows, seed)) for seed in (3, 4)]
    pairs, probes = choose_pairs(
        matches_of([0.4] * F, [True] * F, *layers, deeper=not at_end),
        "A",
        "B",
        (lambda _: matrices[0], lambda _: matrices[1]),
        n_pairs=2,
        positions=2,
    )
    probed = ProbedModel(a, {1: made[0]}), ProbedModel(b, {layers[1]: made[1]})
    effects = measure_effects(pairs, probes, windows, *probed)
    assert len(probes) == 2 * (2 * (2 + 1) + (0 if at_end else CONTROLS - 1) * 2)
    here = effects.filter(where="here")
    assert here.drop("where", "var", "best_var", "cov", "kl", "best_kl").equals(probes)
    later = effects.filter(where="later")
    assert later.is_empty() if at_end else set(later["kind"]) == {"ablate"} and len(later) > 4
    for row in effects.join(pairs, on=["pair", "control"]).iter_rows(named=True):
        (w,), (p,) = place_of(windows, np.array([row["row"]]))
        tokens = torch.from_numpy(windows.tokens[[w]]).long()
        after = range(int(p) + 1, min(int(p) + LATER, windows.context - 1) + 1)
        at = [int(p)] if row["where"] == "here" else list(after)
        logs = []
        sides = (
            (a, 1, made[0], row["feature"], row["amount"]),
            (b, layers[1], made[1], row["best_feature"], row["best_amount"]),
        )
        for model, layer, sae, feature, amount in sides:
            edit = Add(f"resid.{layer}", amount * sae.W_dec[feature], positions=[int(p)])
            for edits in ([], [edit]):
                logits = model.run(tokens, edits=edits).logits
                assert logits is not None
                logs.append(logits[0, at].double().log_softmax(-1).numpy())
        expected = np.zeros(5)
        for place in range(len(at)):
            of_place = [log[place] for log in logs]
            weight = np.exp(of_place).sum(0) / 4
            x, y = of_place[1] - of_place[0], of_place[3] - of_place[2]
            cov = np.cov(x, y, aweights=weight, ddof=0)
            kl = [(np.exp(of_place[k]) * (of_place[k] - of_place[k + 1])).sum() for k in (0, 2)]
            expected += [cov[0, 0], cov[1, 1], cov[0, 1], *kl]
        measured = [row[name] for name in ("var", "best_var", "cov", "kl", "best_kl")]
        assert np.allclose(measured, expected, rtol=2e-3, atol=1e-5)
        assert row["where"] == "here" or min(measured[:2]) > 0


@pytest.mark.parametrize("n_controls", [1, CONTROLS])
def test_pairs_and_probes_are_what_they_are_said_to_be(n_controls: int):
    """More than one control where there are deeper layers."""
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
        matches_of(r, homolog, 2, 5, deeper=n_controls > 1),
        "A",
        "B",
        (lambda _: csr_array(x), lambda _: csr_array(y)),
    )
    pairs, probes = choose_pairs(*arguments, n_pairs=20, positions=5)
    assert dict(pairs.schema) == PAIRS_SCHEMA and dict(probes.schema) == PROBES_SCHEMA
    assert pairs.filter("matched")["feature"].to_list() == [0, 1, 2, 3, 5, 6]
    for row in pairs.iter_rows(named=True):
        own, best = x[:, row["feature"]], y[:, row["best_feature"]]
        assert (row["n_active"], row["best_n_active"]) == ((own > 0).sum(), (best > 0).sum())
        assert row["n_both"] == ((own > 0) & (best > 0)).sum()
        assert row["matched"] == (row["control"] == 0)
        here = probes.filter(pair=row["pair"], control=row["control"])
        ablated, steered = (here.filter(pl.col("kind") == kind) for kind in ("ablate", "steer"))
        at = ablated["row"].to_numpy()
        assert len(at) == len(set(at)) == min(5, row["n_both"])
        assert np.allclose(-own[at], ablated["amount"]) and np.allclose(
            -best[at], ablated["best_amount"]
        )
        level = np.minimum(own / own[own > 0].mean(), best / best[best > 0].mean())
        assert row["n_both"] <= 5 or level[at].min() >= np.median(level[level > 0])
        at = steered["row"].to_numpy()
        assert len(set(at)) == (3 if row["control"] <= 1 else 0)
        assert not (own[at] > 0).any() and not (best[at] > 0).any()
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
    of_pairs = pairs.filter(pl.col("control") > 0).group_by("pair")
    controls = of_pairs.agg(pl.col("control"), pl.col("best_feature").n_unique().alias("n"))
    for row in controls.iter_rows(named=True):  # numbered from 1, and no feature twice
        assert row["control"] == list(range(1, row["n"] + 1)) and row["n"] <= n_controls
    assert controls["n"].max() == n_controls
    again = choose_pairs(*arguments, n_pairs=20, positions=5)
    assert pairs.equals(again[0]) and probes.equals(again[1])
    few = choose_pairs(*arguments, n_pairs=4, positions=5)[0].filter("matched")
    assert (few["r"] > 0.7).sum() == 2 and (few["r"] < 0.7).sum() == 2  # half of them above 0.7
    with pytest.raises(InputError, match="homologs"):
        choose_pairs(arguments[0].with_columns(homolog=pl.lit(None, pl.Boolean)), *arguments[1:])


def auc_by_hand(
    r: list[float],
    matched: list[float],
    *controls: list[float],
    partner: list[int] | None = None,
) -> pl.DataFrame:
    """controls: the first of every pair, the second of every pair, ...; NaN where there is none.

    partner: of every pair; all different by default.
    """
    n = len(r)
    agreements = [*matched, *(value for each in controls for value in each)]
    number = np.repeat(np.arange(1 + len(controls)), n)
    columns = {"pair": [*range(n)] * (1 + len(controls)), "control": number, "matched": number == 0}
    columns |= {"r": [*r, *[0.0] * n * len(controls)], "best_layer": [0] * len(number)}
    columns |= {"best_feature": [*(partner or range(n))] * (1 + len(controls))}
    columns |= {f"{name}_r": agreements for name in EFFECTS.values()}
    return causal_auc(pl.DataFrame(columns), n_replicates=200)


def test_auc_by_hand():
    r = [0.95] * 10 + [0.75] * 5 + [0.6] * 5
    matched = [0.9] * 8 + [0.1, NAN] + [0.9, 0.9, 0.3, 0.3, 0.2] + [0.1] * 5
    control = [0.0] * 7 + [0.95] + [0.1, 0.0] + [0.3, 0.3, 0.3, 0.4, NAN] + [0.2] * 5
    table = auc_by_hand(r, matched, control)
    assert dict(table.schema) == AUC_SCHEMA
    assert table.select("kind", "where").unique(maintain_order=True).rows() == list(EFFECTS)
    ablate = table.filter(kind="ablate", where="here")
    assert ablate.select("above_r", "to_r", "n").rows() == [
        (0.7, 1.0, 13),
        (0.0, 0.5, 0),
        (0.5, 0.7, 5),
        (0.7, 0.8, 4),
        (0.8, 0.9, 0),
        (0.9, 1.0, 9),
    ]
    auc = ablate["auc"].to_numpy()
    expected = [(7 + 0.5 + 2 + 0.5) / 13, 0, 2.5 / 4, 7.5 / 9]  # an equal pair is half
    assert np.allclose(auc[[0, 2, 3, 5]], expected) and np.isnan(auc[[1, 4]]).all()
    above = ablate.row(0, named=True)
    assert above["mean"] == pytest.approx((8 * 0.9 + 0.1 + 0.9 + 0.9 + 0.3 + 0.3) / 13)
    assert above["control_mean"] == pytest.approx((0.95 + 0.1 + 3 * 0.3 + 0.4) / 13)
    assert above["difference"] == pytest.approx(above["mean"] - above["control_mean"])
    some = [k for k in range(15) if not np.isnan(matched[k] + control[k])]
    sd = [np.std([values[k] for k in some], ddof=1) for values in (matched, control)]
    pooled = ((sd[0] ** 2 + sd[1] ** 2) / 2) ** 0.5
    assert above["standardised"] == pytest.approx(above["difference"] / pooled)
    for name in ("auc", "mean", "control_mean", "difference", "standardised"):
        assert above[f"{name}_lo"] < above[name] < above[f"{name}_hi"]
    constant = ablate.row(2, named=True)
    assert constant["difference"] == pytest.approx(-0.1) and np.isnan(constant["standardised"])


def test_the_interval_of_the_auc_is_wilsons():
    for n_more, n in ((10, 10), (9, 10), (96, 100)):
        matched = [1.0] * n_more + [-1.0] * (n - n_more)
        row = auc_by_hand([0.95] * n, matched, [0.0] * n).row(0, named=True)
        wilson = binomtest(n_more, n).proportion_ci(method="wilson")
        assert (row["auc_lo"], row["auc_hi"]) == pytest.approx((wilson.low, wilson.high))
        assert row["auc_lo"] <= row["auc"] <= row["auc_hi"]


def test_several_controls_by_hand():
    matched = [0.9, 0.5, 0.1, 0.4]
    controls = [0.0, 0.7, 0.0, 0.4], [0.2, 0.1, NAN, 0.4], [0.95, NAN, NAN, 0.4]
    row = auc_by_hand([0.95] * 4, matched, *controls).row(0, named=True)
    share = np.array([2 / 3, 1 / 2, 1, 1 / 2])  # equal ones are half, and missing ones nothing
    assert (row["n"], row["auc"]) == (4, pytest.approx(share.mean()))
    means = [1.15 / 3, 0.4, 0.0, 0.4]
    assert row["control_mean"] == pytest.approx(np.mean(means))
    assert row["difference"] == pytest.approx(np.mean(matched) - np.mean(means))
    every = [(0.0, 1 / 3), (0.2, 1 / 3), (0.95, 1 / 3), (0.7, 0.5), (0.1, 0.5), (0.0, 1), (0.4, 1)]
    value, weight = np.array(every).T  # of each pair 1
    spread = (weight * (value - np.mean(means)) ** 2).sum() / 3
    pooled = ((np.var(matched, ddof=1) + spread) / 2) ** 0.5
    assert row["standardised"] == pytest.approx(row["difference"] / pooled)
    n_alike = min(4 * share.mean() * (1 - share.mean()) / share.var(ddof=1), 3 + 2 + 1 + 3)
    assert n_alike > 4
    middle, z = share.mean(), norm.ppf(0.975)  # the ends solve |p - AUC| = z sqrt(p (1 - p) / n')
    for end in (row["auc_lo"], row["auc_hi"]):
        assert abs(end - middle) == pytest.approx(z * (end * (1 - end) / n_alike) ** 0.5)


def test_controls_that_are_alike_say_no_more_than_one():
    matched, control = [0.9, 0.9, 0.9, 0.1], [0.5] * 4
    one, three = (auc_by_hand([0.95] * 4, matched, *[control] * n) for n in (1, 3))
    ends = ["auc", "auc_lo", "auc_hi", "control_mean", "difference", "standardised"]
    assert np.allclose(*(t.select(ends).row(0) for t in (one, three)))


def test_pairs_of_one_partner_that_are_alike_say_no_more_than_one():
    """Each of 8 pairs written three times with the same partner: every interval stays."""
    matched, control = [0.9, 0.8, 0.7, 0.3, 0.9, 0.25, 0.6, 0.5], [0.1, 0.2, 0.0, 0.4] * 2
    one = auc_by_hand([0.95] * 8, matched, control)
    partner = [*range(8)] * 3
    three = auc_by_hand([0.95] * 24, matched * 3, control * 3, partner=partner)
    apart = auc_by_hand([0.95] * 24, matched * 3, control * 3)
    ends = [f"{name}{end}" for name in ("auc", "mean", "difference") for end in ("", "_lo", "_hi")]
    assert np.allclose(*(t.select(ends).row(0) for t in (one, three)))
    for name in ("auc", "mean", "difference"):
        width, narrower = (
            t.select(pl.col(f"{name}_hi") - pl.col(f"{name}_lo")).item(0, 0) for t in (three, apart)
        )
        assert narrower < 0.75 * width


def test_partners_come_by_turns():
    """Of 30 matches, 24 with one partner, 10 are drawn: the other partners are all among them."""
    partner = np.array([0] * 24 + [1, 2, 3, 4, 5, 6])
    matches = matches_of([0.9] * 30, [True] * 30, 0, 0).with_columns(best_feature=partner)
    draws = []
    for seed in range(20):
        drawn = _draw(matches, 10, np.random.default_rng(seed))
        assert sorted(drawn["best_feature"]) == [0, 0, 0, 0, 1, 2, 3, 4, 5, 6]
        draws += drawn.filter(best_feature=0)["feature"].to_list()
    assert len(set(draws)) > 15  # which of them is random


@pytest.mark.parametrize("auc", [0.85, 0.95])
def test_the_interval_of_the_auc_covers_where_partners_decide(auc: float):
    """40 partners, of which each has one to seven pairs that all win or lose together."""
    random, covered = np.random.default_rng(1), 0
    for _ in range(400):
        partner = np.repeat(np.arange(40), random.integers(1, 8, 40))
        wins = random.random(40) < auc
        row = _auc(np.column_stack([wins[partner], np.full(len(partner), 0.5)]), partner)
        covered += row["auc_lo"] <= auc <= row["auc_hi"]
    assert 0.9 <= covered / 400 <= 0.98


@pytest.mark.parametrize("n_controls", [1, 3])
@pytest.mark.parametrize("auc", [0.9, 0.97])
def test_the_interval_of_the_auc_covers(auc: float, n_controls: int):
    """Of 400 samples of 60 pairs, whose matches are drawn to agree more with this chance."""
    random, covered, width = np.random.default_rng(0), 0, 0.0
    shift = norm.ppf(auc) * 2**0.5  # P(x + shift > y) for standard normal x, y
    for _ in range(400):
        every = random.normal(size=(60, 1 + n_controls))
        every[:, 0] += shift
        row = _auc(every, np.arange(60))
        covered += row["auc_lo"] <= auc <= row["auc_hi"]
        width += (row["auc_hi"] - row["auc_lo"]) / 400
    assert 0.92 <= covered / 400 <= 0.99
    assert width < (0.17 if n_controls == 1 else 0.14)


def test_one_pair_has_an_auc_and_no_interval_of_its_mean():
    table = auc_by_hand([0.95], [0.9], [0.1])
    row = table.row(0, named=True)
    assert (row["n"], row["auc"], row["auc_hi"]) == (1, 1.0, 1.0) and row["auc_lo"] < 0.5
    assert row["mean"] == 0.9 and np.isnan(row["mean_lo"]) and np.isnan(row["standardised"])
    named = table.with_columns(model=pl.lit("A"), best_model=pl.lit("B"))
    (said,) = causal_words(named, LOSS_RECOVERED.frame())
    expected = "100% (21 to 100%) of comparisons, 1 pairs; on later tokens in 100%"
    assert expected in said["words"]
    assert said["words"].endswith("Mean agreement is 0.90 against 0.10.")
    shares = {"kl_recovered": 0.8, "kl_random": 0.01, "recovered": 0.9, "random": 0.0}
    ends = {f"{name}_{end}": value for name, value in shares.items() for end in ("lo", "hi")}
    place = {"model": "A", "best_model": "B", "above_r": 0.7, "to_r": 1.0, "n": 1}
    (said,) = causal_words(named, LOSS_RECOVERED.frame([place | shares | ends]))
    assert "undoes 80% (80 to 80%) of the change" in said["words"]
    assert said["words"].endswith(
        "a random feature's 1% (1 to 1%); of the loss it recovers 90% (90 to 90%)."
    )


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
            "control": [0] * 3,
            "kind": ["ablate"] * 3,
            "where": ["here"] * 3,
            "kl": [0.1, 0.2, 0.0],
            "best_kl": [0.0] * 3,
        }
        | moments
    ).cast({"pair": pl.Int32, "control": pl.Int32})
    row = agreement(pairs, effects).row(0, named=True)
    assert row["ablate_r"] == pytest.approx(6.5 / (5 * 10) ** 0.5) and row["ablate_n"] == 3
    assert row["ablate_kl"] == pytest.approx(0.1)
    assert np.isnan(row["steer_r"]) and np.isnan(row["steer_lo"]) and row["steer_n"] == 0
    assert np.isnan(agreement(pairs, effects[2:]).row(0, named=True)["ablate_r"])


def test_a_study_without_homologs_has_no_pairs_and_no_share():
    windows = stream()
    fires = csr_array(firing(windows, 8))
    none = matches_of([0.9] * F, [False] * F, 0, 0)
    pairs, probes = choose_pairs(none, "A", "B", (lambda _: fires, lambda _: fires))
    assert pairs.is_empty() and probes.is_empty()
    model = load("zoo:transformer-s0")
    effects = measure_effects(
        pairs, probes, windows, ProbedModel(model, {}), ProbedModel(model, {})
    )
    table = causal_auc(agreement(pairs, effects))
    assert table["n"].sum() == 0 and table["auc"].is_nan().all() and table["mean"].is_nan().all()
