"""Rank correlations against scipy, partial ones against a planted confounder; curves by hand."""

from __future__ import annotations

import numpy as np
import polars as pl
import pytest
from scipy.stats import spearmanr

from homolog.analyses.relation.measure import rank_correlation, relate, related
from homolog.errors import InputError
from homolog.record import comparisons
from homolog.record.comparisons import TOKENS, Comparison
from homolog.record.sides import CURRENT_TOKEN, MAIN_LABEL
from homolog.record.tables import CURVES, RELATION


def frame(
    n: int = 2000, seed: int = 0, confounded: float = 0.0, effect: float = 0.0
) -> pl.DataFrame:
    """Features whose r and entropy both rise with the frequency, and whose entropy rises with r."""
    rng = np.random.default_rng(seed)
    freq = rng.random(n)
    r = confounded * freq + rng.random(n)
    return pl.DataFrame(
        {
            "comparison": "main",
            "model": "A",
            "best_model": "B",
            "best_label": MAIN_LABEL,
            "layer": np.arange(n) % 4,
            "feature": np.arange(n) // 4,
            "freq": freq,
            "r": (r / r.max()).astype(np.float32),
            "token_entropy": confounded * freq + effect * r + rng.random(n),
        }
    )


def test_rho_is_scipys_and_the_interval_covers_it():
    rows = frame(effect=0.5)
    found = rank_correlation(rows, "r", "token_entropy", 200, 0)
    assert found["rho"] == pytest.approx(
        spearmanr(rows["r"], rows["token_entropy"]).statistic, abs=1e-12
    )
    assert found["lo"] < found["rho"] < found["hi"]
    z = 1.96 * ((1 + found["rho"] ** 2 / 2) / (2000 - 3)) ** 0.5  # Bonett & Wright 2000
    assert found["hi"] - found["lo"] == pytest.approx(2 * z, rel=0.35)
    assert found == rank_correlation(rows, "r", "token_entropy", 200, 0)


def test_the_partial_correlation_sees_through_frequency_and_layer():
    confounded = rank_correlation(frame(confounded=3.0), "r", "token_entropy", 100, 0)
    assert confounded["rho"] > 0.6 and abs(confounded["partial"]) < 0.08
    both = rank_correlation(frame(confounded=3.0, effect=2.0), "r", "token_entropy", 100, 0)
    assert both["partial_lo"] > 0.2
    layered = frame().with_columns(
        (pl.col(name) + 5 * pl.col("layer")).alias(name) for name in ("r", "token_entropy")
    )
    found = rank_correlation(layered, "r", "token_entropy", 100, 0)
    assert found["rho"] > 0.8 and abs(found["partial"]) < 0.1


def test_what_does_not_vary_has_no_correlation():
    rows = frame().with_columns(token_entropy=pl.lit(1.0))
    assert np.isnan(list(rank_correlation(rows, "r", "token_entropy", 10, 0).values())).all()
    copies = frame().with_columns(r=pl.col("freq"))
    found = rank_correlation(copies, "r", "token_entropy", 10, 0)
    assert np.isfinite(found["rho"]) and np.isnan(found["partial"])


def test_tables_have_each_direction_and_leave_out_what_is_not_defined():
    rows = frame(400)
    nothing = (
        pl.when(pl.col("feature") < 10).then(float("nan")).otherwise(pl.col("r")).cast(pl.Float32)
    )
    matches = pl.concat(
        [
            rows.with_columns(excess=nothing),
            rows.with_columns(
                pl.lit("rotated").alias("comparison"), excess=pl.lit(float("nan"), pl.Float32)
            ),
        ]
    ).drop("token_entropy")
    features = rows.select("model", "layer", "feature", "token_entropy").with_columns(
        complexity=pl.lit(None, pl.Int8)
    )
    relation, curve = relate(matches, features, bins=(0, 0.5, 1), resamples=20)
    assert dict(relation.schema) == RELATION.schema and dict(curve.schema) == CURVES.schema
    assert relation.select("comparison", "of", "measure", "n").rows() == [
        ("main", "r", "token_entropy", 400),
        ("main", "excess", "token_entropy", 360),
        ("rotated", "r", "token_entropy", 400),
    ]
    low = rows.filter(pl.col("r") < 0.5)["token_entropy"]
    first = curve.row(0, named=True)
    assert (first["start"], first["end"], first["n"]) == (0, 0.5, len(low))
    assert first["median"] == pytest.approx(low.median())
    below = [
        (low < first[edge]).mean() for edge in ("lo", "hi")
    ]  # ranks half a standard deviation off, twice over
    assert below == pytest.approx(
        [0.5 - 0.98 / len(low) ** 0.5, 0.5 + 0.98 / len(low) ** 0.5], abs=1.5 / len(low)
    )
    assert curve.filter(comparison="main", of="r")["n"].sum() == 400


def test_a_bin_of_few_features_has_a_median_and_no_interval():
    rows = frame(400).sort("r")
    few = pl.concat([rows.head(5), rows.tail(20)])
    edge = float(rows["r"][200])  # between the two groups
    features = few.select("model", "layer", "feature", "token_entropy")
    _, curve = relate(few.drop("token_entropy"), features, bins=(0, edge, 1), resamples=5)
    below, above = curve.filter(of="r").iter_rows(named=True)
    assert (below["n"], above["n"]) == (5, 20)
    assert below["median"] == pytest.approx(rows["token_entropy"][:5].median())
    assert np.isnan(below["lo"]) and np.isnan(below["hi"])
    ordered = rows["token_entropy"][-20:].sort()  # ranks 10 -+ 0.98 * 4.47 = 5.6 and 14.4
    assert (above["lo"], above["hi"]) == pytest.approx((ordered[6 - 1], ordered[14 - 1]))


def test_edges_must_ascend():
    with pytest.raises(InputError, match="bins"):
        relate(frame(), frame(), bins=(1, 0))


def test_what_is_related_follows_from_the_roles_of_comparisons(monkeypatch):
    added = Comparison("shuffled", "baseline", "Shuffled|text", "words", lambda models: [])
    monkeypatch.setattr(comparisons, "COMPARISONS", [*comparisons.COMPARISONS, added])
    rows = [
        {"comparison": each.name, "kind": each.kind, "label": label, "best_model": "B"}
        for each in comparisons.COMPARISONS
        for label in ("sae", "seed1")
        if each is not TOKENS
    ]
    tokens = {"comparison": TOKENS.name, "kind": "sae", "label": "sae"}
    rows.append(tokens | {"best_model": CURRENT_TOKEN.name})
    kept = related(pl.DataFrame(rows))["comparison"].to_list()
    assert kept == [
        "main",
        "random-model",
        "own-random",
        "rotated",
        "frozen-encoder",
        "sae-seed",
        "model-seed",
        "shuffled",
    ]
