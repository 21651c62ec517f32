"""Verdicts: shares by hand, words, and the coverage of the interval."""

from __future__ import annotations

from types import SimpleNamespace

import numpy as np
import polars as pl
import pytest
from tests.matching.studies import (
    GOOD,
    NAN,
    UNTRAINED,
    classified,
    criterion,
    rows,
    small_study,
)

from homolog.errors import InputError
from homolog.matching import Resamples, prepare, resampled_pairs
from homolog.matching.tables import SHARED
from homolog.matching.verdict import resampled_shares, verdicts


def only(table: pl.DataFrame, **options) -> SimpleNamespace:
    """The one row of the table of verdicts."""
    rule = criterion(options.pop("untrained", UNTRAINED))
    saes = options.pop("saes", GOOD)
    if "replicates" in options:
        replicates = options.pop("replicates")
        options["resampled"] = resampled_shares(table, rule.result, replicates)
    (row,) = verdicts(table, saes, rule, ceiling="sae-seed", **options).to_dicts()
    return SimpleNamespace(**row)


def test_rivals_lower_the_ceiling_too():
    study = rows("main", "A", "B", [0.9, 0.9], threshold=[0.1] * 2)
    skyline = rows("sae-seed", "A", "A", [0.9, 0.4], threshold=[0.1] * 2, best_feature=[0, 0])
    skyline = skyline.with_columns(best_label=pl.lit("seed1"))
    back = rows("sae-seed", "A", "A", [0.9, NAN], threshold=[0.1] * 2, label="seed1")
    assert only(classified(pl.concat([study, skyline, back]), {}), untrained={}).ceiling == 0.5
    assert only(classified(pl.concat([study, skyline]), {}), untrained={}).ceiling == 1.0


def test_the_share_its_ceiling_and_the_words():
    found = only(classified(small_study()))
    # 1 of 5 alive; with A's second dictionary features 0 (0.9 > 0.5), 2 (0.7 > 0.6) and 3 (0.9 >
    # 0.2)
    assert (found.n_features, found.n_alive, found.share, found.ceiling) == (6, 5, 0.2, 0.6)
    assert found.share_significant == 0.8
    assert found.mean_r == pytest.approx(0.55) and found.mean_excess is None
    assert found.words == (
        "20% of the features of A have a homolog in B; with another seed of its own dictionary it "
        "is 60%."
    )
    assert found.given and found.reason == ""


def test_shares_of_the_other_columns():
    study = small_study().with_columns(
        excess=pl.col("r") - 0.1,
        mutual=pl.Series([True, False] * 15),
        partner_r=pl.Series([0.57, 0.7, NAN, 0.15, 0.5, NAN] * 5, dtype=pl.Float32),
        stable=pl.Series([True, True, None, False, False, None] * 5),
    )
    found = only(classified(study))
    assert (found.share_mutual, found.share_stable, found.share_one_to_one) == (0.2, 0.2, 0.2)
    assert found.mean_excess == pytest.approx(0.45)
    unmeasured = study.with_columns(
        stable=pl.lit(None, pl.Boolean), partner_r=pl.lit(NAN, pl.Float32)
    )
    found = only(classified(unmeasured))
    assert found.share_stable is None and found.share_one_to_one is None


def test_the_table_has_a_row_for_each_pair():
    parts = [small_study(), rows("main", "B", "A", [0.9, NAN], threshold=[0.1, NAN])]
    saes = GOOD.with_columns(passed=(pl.col("model") == "A") | (pl.col("label") != "sae"))
    both = pl.concat(parts)
    table = verdicts(classified(both), GOOD, criterion(), ceiling="sae-seed")
    assert dict(table.schema) == SHARED
    assert table["model"].to_list() == ["A", "B"] and table["given"].to_list() == [True, True]
    assert table["share"].to_list() == [0.2, 1.0]
    withheld = verdicts(classified(both), saes, criterion(), ceiling="sae-seed")
    assert withheld["given"].to_list() == [False, False] and withheld["share"].null_count() == 2
    nothing = verdicts(classified(both.clear()), GOOD, criterion(), ceiling="sae-seed")
    assert nothing.is_empty() and nothing.schema == table.schema


def test_controls_of_other_models_do_not_count_and_missing_ones_are_named():
    study = small_study().filter(~pl.col("comparison").is_in(["tokens", "rotated"]))
    study = pl.concat([study, rows("rotated", "A", "C", [0.99] * 5 + [NAN], best_label="rotated")])
    twin_of_c = study.with_columns(pl.col("best_model").replace({"B-random": "C-random"}))
    untrained = {"B": "B-random", "C": "C-random"}
    found = only(classified(study, untrained), untrained=untrained)
    assert found.share == 0.4  # features 0 and 2
    assert found.words.endswith(
        "Controls that were not run: B with rotated dictionaries and the current token."
    )
    found = only(classified(twin_of_c, untrained), untrained=untrained)
    assert found.share == 0.6  # feature 1 too: the untrained twin of C says nothing of B
    assert (
        "not run: an untrained B, B with rotated dictionaries and the current token." in found.words
    )
    nothing = only(classified(twin_of_c, {}), untrained={})
    assert nothing.share == 0.6 and nothing.given


def test_only_main_dictionaries_count():
    """Rows of second dictionaries, with homologs alone, leave that of the main ones as it is."""
    high, bars = [0.99] * 5 + [NAN], [0.1] * 5 + [NAN]
    others = [
        rows("main", "A", "B", high, threshold=bars, label="seed1"),
        rows("main", "A", "B", high, threshold=bars, best_label="seed1"),
        rows("main", "A", "B", high, threshold=bars, label="seed1", best_label="seed1"),
        rows("sae-seed", "A", "A", high, threshold=bars, best_label="seed2"),
        rows("sae-seed", "A", "A", [0.3] * 5 + [NAN], threshold=bars, label="seed1"),
    ]
    study = pl.concat([others[0], small_study(), *others[1:]])
    assert only(classified(study)) == only(classified(small_study()))
    without = study.filter(pl.col("comparison") != "tokens")
    tokens = rows("tokens", "A", "current-token", high, label="seed1")
    found = only(classified(pl.concat([without, tokens])))
    assert "Controls that were not run: the current token." in found.words


def failing(model: str, label: str, reason: str) -> pl.DataFrame:
    hit = (pl.col("model") == model) & (pl.col("label") == label) & (pl.col("layer") == 1)
    return GOOD.with_columns(
        passed=pl.col("passed") & ~hit,
        reason=pl.when(hit).then(pl.lit(reason)).otherwise(pl.col("reason")),
    )


def test_a_failed_gate_withholds_the_verdict():
    table = classified(small_study())
    found = only(table, saes=failing("B", "sae", "explained variance 0.31, below 0.5"))
    assert not found.given and found.share is None and found.ceiling is None and found.lo is None
    assert found.reason == (
        "1 of the 2 dictionaries of B misses the quality gates (block 1: explained variance 0.31, "
        "below 0.5)"
    )
    assert found.words == f"No verdict on A in B: {found.reason}."
    assert found.mean_r is not None and found.n_alive == 5
    assert (
        only(table, saes=GOOD.filter(pl.col("model") == "A")).reason
        == "the dictionaries of B were not measured"
    )
    # a second dictionary that fails takes the ceiling only
    found = only(table, saes=failing("A", "seed1", "dead share 0.7"))
    assert found.given and found.share == 0.2 and found.ceiling is None
    assert found.words.endswith(
        "have a homolog in B. There is no ceiling: 1 of the 2 dictionaries of A (seed1) misses "
        "the quality gates "
        "(block 1: dead share 0.7)."
    )


def test_without_a_null_or_a_live_feature_there_is_no_verdict():
    study = small_study()
    without = study.with_columns(threshold=pl.lit(NAN, pl.Float32))
    for frame in (without, study.drop("threshold")):
        table = classified(frame)
        assert table["homolog"].null_count() == len(table)
        assert only(table).words == "No verdict on A in B: the null of the maximum was not run."
    dead = classified(study.with_columns(n_active=pl.lit(0)))
    assert only(dead).reason == "no feature of A is active on this text"
    no_seed = only(classified(study.filter(pl.col("comparison") != "sae-seed")))
    assert (
        no_seed.ceiling is None
        and "A was not compared with another seed of its own dictionary." in no_seed.words
    )
    blank = (
        pl.when(pl.col("comparison") == "main")
        .then(pl.col("threshold"))
        .otherwise(NAN)
        .cast(pl.Float32)
    )
    no_seed_null = only(classified(study.with_columns(threshold=blank)))
    assert (
        no_seed_null.ceiling is None
        and "the null of the maximum was not run for" in no_seed_null.words
    )


def test_the_interval_by_hand():
    # Bars 0.5 for four features, three with a homolog.  Replicates hold 3, 4, 3, 2 of 4: mean 0.75,
    # and the interval is theirs, laid around 0.75.
    study = rows("main", "A", "B", [0.6, 0.7, 0.8, 0.4, NAN], threshold=[0.5] * 4 + [NAN])
    replicates = np.array(
        [[0.6, 0.6, 0.4, NAN], [0.7] * 4, [0.8] * 4, [0.4, 0.5, 0.6, 0.4], [NAN] * 4],
        dtype=np.float32,
    )
    found = only(classified(study), replicates={("A", "B"): replicates})
    lo, hi = np.quantile([3 / 4, 4 / 4, 3 / 4, 2 / 4], [0.025, 0.975])
    assert found.share == 0.75
    assert (found.lo, found.hi) == (pytest.approx(lo), pytest.approx(hi))
    assert found.words.startswith("75% (52 to 98%) of the features of A")
    # all replicates lose a feature that the whole stream has: a share of less noise, not a smaller
    # one
    worse = np.where(np.arange(5)[:, None] == 0, 0.1, replicates).astype(np.float32)
    moved = only(classified(study), replicates={("A", "B"): worse})
    assert moved.lo is not None and moved.hi is not None and moved.lo <= 0.75 <= moved.hi
    steady = np.repeat(replicates[:, :1], 4, axis=1)
    assert only(classified(study), replicates={("A", "B"): steady}).words.startswith(
        "75.0% (75.0 to 75.0%) of"
    )
    with pytest.raises(InputError, match="the pair has 5 rows"):
        only(classified(study), replicates={("A", "B"): replicates[:3]})


def test_percents_in_words():
    def words(n_homolog: int, n: int) -> str:
        r = np.where(np.arange(n) < n_homolog, 0.9, 0.1)
        return only(classified(rows("main", "A", "B", list(r), threshold=[0.2] * n))).words.split(
            " of the"
        )[0]

    assert [words(0, 10), words(10, 10), words(1, 3)] == ["0%", "100%", "33%"]
    assert [words(1, 15), words(1, 2000), words(199, 2000)] == ["6.7%", "<0.1%", "10%"]


def test_pairs_of_three_models_come_in_the_order_of_their_rows():
    parts = []
    for model, other in (("A", "B"), ("B", "A"), ("A", "C"), ("C", "A")):
        parts.append(rows("main", model, other, [0.9, 0.15], threshold=[0.1, 0.1]))
    saes = pl.concat([GOOD, GOOD.filter(pl.col("model") == "A").with_columns(model=pl.lit("C"))])
    found = verdicts(classified(pl.concat(parts)), saes, criterion(), ceiling="sae-seed")
    assert found.select("model", "best_model", "share").rows() == [
        ("A", "B", 0.5),
        ("B", "A", 0.5),
        ("A", "C", 0.5),
        ("C", "A", 0.5),
    ]


def text(
    generator: np.random.Generator, strength: np.ndarray, n_documents: int
) -> tuple[np.ndarray, ...]:
    """Features of A and B on drawn documents: y follows x, by document more or less."""
    n, length = len(strength), 60
    document = np.repeat(np.arange(n_documents), length)
    rate = 0.04 * generator.gamma(1, 1, (n_documents, n))[document]
    x, z = (
        (generator.random(rate.shape) < rate) * generator.exponential(size=rate.shape)
        for _ in range(2)
    )
    mix = np.clip(strength + generator.normal(0, 0.2, (n_documents, n)), 0, 1)[document]
    return x, mix * x + (1 - mix) * z, document


def test_the_interval_covers_the_share_of_other_texts():
    generator = np.random.default_rng(0)
    n = 120
    strength = generator.random(n)
    pairs = np.repeat(np.arange(n)[:, None], 2, axis=1)
    shares, intervals = [], []
    for study in range(40):
        x, y, document = text(generator, strength, 40)
        both = prepare(x), prepare(y)
        r = [float(np.corrcoef(x[:, i], y[:, i])[0, 1]) for i in range(n)]
        replicates = resampled_pairs(*both, pairs, Resamples.draw(document, 200, study))
        table = classified(rows("main", "A", "B", r, threshold=[0.6] * n))
        found = only(table, replicates={("A", "B"): replicates})
        shares.append(found.share)
        intervals.append((found.lo, found.hi))
    truth = np.mean(shares)  # of texts of this length
    covered = np.mean([lo <= truth <= hi for lo, hi in intervals])
    assert 0.85 <= covered <= 1
    width = np.mean([hi - lo for lo, hi in intervals]) / 3.92
    assert 0.7 < width / np.std(shares) < 1.5
