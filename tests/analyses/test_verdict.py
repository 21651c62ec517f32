"""The section of the result: cards, order of the controls, criteria, numbers."""

from __future__ import annotations

import polars as pl
import pytest
from tests.analyses.planted_run import A, B, changed, make_run, read_pair
from tests.report.pages import said

from homolog.analyses.verdict import ANALYSIS, CONTROLS, cards, summary_tables
from homolog.analyses.verdict.figures import criteria, criteria_figure
from homolog.analyses.verdict.order import checks, follow_a_token
from homolog.record.comparisons import (
    COMPARISONS,
    MAIN,
    MODEL_SEED,
    NEURONS_RANDOM,
    RANDOM_MODEL,
    ROTATED,
    SAE_SEED,
    TOKENS,
    Comparison,
    register,
)
from homolog.record.tables import MATCHES, SUMMARY

EXPECTED = [RANDOM_MODEL, ROTATED, SAE_SEED, MODEL_SEED, NEURONS_RANDOM]


@pytest.fixture
def planted(tmp_path):
    return lambda **options: read_pair(make_run(tmp_path / "run", **options))


def outcomes(records):
    return {check.comparison.name: check.outcome for check in checks(records)}


def test_the_cards_show_the_share_of_homologs_and_its_ceiling(planted):
    records = planted()
    alive = records.matches.filter(pl.col("n_active") > 0)
    text = said(ANALYSIS, records) + said(CONTROLS, records)
    for card, model in zip(cards(records), (A, B), strict=True):
        own = alive.filter(model=model, comparison=MAIN.name)
        (skyline, ceiling), (result, share) = card.bars
        assert (skyline, result) == (SAE_SEED, MAIN)
        assert share == pytest.approx(own["homolog"].sum() / own.height)
        assert ceiling == card.shared["ceiling"]
        ends = [f"{100 * card.shared[end]:.0f}%" for end in ("lo", "hi")]
        assert f"95% interval {' to '.join(ends)}" in text
        assert f"r = {own['r'].drop_nans().mean():.2f} on average" in text


def test_the_card_of_a_withheld_verdict_has_no_shares(planted):
    records = planted(withheld={(A, B)})
    first, second = cards(records)
    assert first.bars == [] and len(second.bars) == 2
    text = said(ANALYSIS, records) + said(CONTROLS, records)
    assert text.count("the verdict is withheld") == 1 and text.count("on average") == 2


def test_the_run_says_what_a_homolog_is(planted):
    text = said(ANALYSIS, planted(drop={ROTATED.name}))
    sentence = next(part for part in text.split(". ") if part.startswith("A homolog is"))
    for said_of_it in ("discovery rate 1%", "at least 12.25% more", "70%", "(an untrained model)"):
        assert said_of_it in sentence, said_of_it


def test_controls_as_expected(planted):
    records = planted()
    assert outcomes(records) == {comparison.name: "yes" for comparison in EXPECTED}
    text = said(ANALYSIS, records) + said(CONTROLS, records)
    assert "5 of 5 expectations hold." in text
    assert "follow one current token" not in text and "current token alone" not in text


def test_an_untrained_model_as_good_as_the_trained_one_is_said_so(planted):
    records = planted(means={"main": 0.5, "random-model": 0.6})
    assert outcomes(records)[RANDOM_MODEL.name] == "no"
    text = said(ANALYSIS, records) + said(CONTROLS, records)
    assert "The other model is well above an untrained model no" in text
    assert "4 of 5 expectations hold and 1 does not." in text


def test_above_but_not_well_above_is_weak(planted):
    records = planted(means={"main": 0.50, "random-model": 0.45})
    assert outcomes(records)[RANDOM_MODEL.name] == "weakly"
    assert "4 of 5 expectations hold and 1 only weakly." in said(CONTROLS, records)


def test_main_above_a_skyline_is_not_as_expected(planted):
    records = planted(means={"main": 0.9, "model-seed": 0.6})
    assert outcomes(records)[MODEL_SEED.name] == "no"
    assert "not above a second training seed of the same architecture no" in said(CONTROLS, records)


def test_neurons_far_above_their_baseline_are_explained_by_the_token(planted):
    def measured(run):
        run["neurons_by_token"] = {A: 0.71, B: 0.84}

    records = planted(means={"neurons": 0.45, "neurons-random": 0.2}, edit=measured)
    assert outcomes(records)[NEURONS_RANDOM.name] == "no"
    text = said(ANALYSIS, records) + said(CONTROLS, records)
    assert f"71% of the variance of {A}'s neurons and 84% of the variance of {B}'s" in text


def test_controls_not_run_are_counted(planted):
    records = planted(drop={ROTATED.name, NEURONS_RANDOM.name})
    unknown = [name for name, outcome in outcomes(records).items() if outcome == "not measured"]
    assert unknown == [ROTATED.name, NEURONS_RANDOM.name]
    text = said(ANALYSIS, records) + said(CONTROLS, records)
    assert "3 of 5 expectations hold." in text and "2 could not be checked" in text


def test_an_undefined_mean_is_never_as_expected(tmp_path):
    nan = pl.when(comparison=RANDOM_MODEL.name).then(float("nan"))
    columns = [nan.otherwise(pl.col(name)).alias(name) for name in ("mean", "mean_lo", "mean_hi")]
    path = changed(make_run(tmp_path / "run"), SUMMARY, *columns)
    assert outcomes(read_pair(path))[RANDOM_MODEL.name] == "no"


def test_what_the_current_token_explains_is_told_apart(tmp_path):
    path = make_run(tmp_path / "run", means={"main": 0.5, "random-model": 0.6})
    matches = MATCHES.read(path / MATCHES.file)
    by_token = matches.filter(comparison=MAIN.name, model=A).with_columns(
        comparison=pl.lit(TOKENS.name),
        best_model=pl.lit("current-token"),
        r=pl.when(layer=0).then(0.9).otherwise(0.2).cast(pl.Float32),
    )
    MATCHES.write(pl.concat([matches, by_token]), path / MATCHES.file)
    records = read_pair(path)
    (explained,) = follow_a_token(records)
    later = matches.filter(pl.col("layer") > 0, pl.col("r").is_not_nan(), model=A)
    main, untrained = (later.filter(comparison=c.name) for c in (MAIN, RANDOM_MODEL))
    joined = main.join(untrained, on=["layer", "feature"], suffix="_untrained")
    assert (explained["model"], explained["n"]) == (A, joined.height)
    assert explained["share"] == pytest.approx(0.25, abs=0.01)  # layer 0 of 4
    assert explained["other"] == pytest.approx(joined["r"].mean())
    assert explained["untrained"] == pytest.approx(joined["r_untrained"].mean())
    text = said(ANALYSIS, records) + said(CONTROLS, records)
    assert f"25% of {A}'s features follow one current token" in text
    assert f"Over the other {joined.height:,} features" in text


def test_a_baseline_from_elsewhere_stands_everywhere(tmp_path):
    """A comparison that somebody registers is expected, controls homologs, and is explained."""
    new = Comparison("shuffled", "baseline", "Shuffled|text", "its words", lambda models: [])
    register(new)
    try:
        path = make_run(tmp_path / "run", drop={ROTATED.name})
        for table in (MATCHES, SUMMARY):
            rows = table.read(path / table.file)
            copied = rows.filter(comparison=RANDOM_MODEL.name).with_columns(
                comparison=pl.lit(new.name)
            )
            table.write(pl.concat([rows, copied]), path / table.file)
        records = read_pair(path)
        assert outcomes(records)[new.name] == "yes"
        text = said(ANALYSIS, records) + said(CONTROLS, records)
        assert "(an untrained model and shuffled text)" in text
        assert "The other model is well above shuffled text yes" in text
        assert "Shuffled text its words (baseline)" in text
    finally:
        COMPARISONS.remove(new)


def test_the_numbers_name_dictionaries_and_stress_the_result(planted):
    tables = summary_tables(planted())
    captions = ["All features", "Alive features only", "Frequent features only"]
    assert [table.caption for table in tables] == captions
    sides = [row[1] for row in tables[0].rows]
    assert f"{A}\n→ {B}@rotated" in sides and f"{A}\n→ {A}@seed1" in sides
    assert {tables[0].rows[place][0] for place in tables[0].strong} == {MAIN.plain}
    assert [row[0] for row in tables[0].rows[:2]] == [SAE_SEED.plain] * 2


def test_shares_count_the_planted_tests(planted):
    records = planted()
    shares = {
        (row["comparison"], row["side"], row["criterion"]): row["share"]
        for row in criteria(records)
    }
    for comparison in (MAIN, MODEL_SEED, SAE_SEED):
        rows = records.matches.filter(pl.col("n_active") > 0, comparison=comparison.name, side="A")
        assert rows.height == 180
        counts = dict.fromkeys(("significant", "homolog", "mutual", "one_to_one", "stable"), 0)
        for row in rows.iter_rows(named=True):
            above = row["r"] - (0.4 if row["n_active"] < 1000 else 0.2) > 0.1
            homolog = above and row["r"] >= 0.35
            counts["significant"] += above
            counts["homolog"] += homolog
            counts["mutual"] += homolog and row["feature"] % 2 == 0
            counts["one_to_one"] += homolog and row["feature"] % 3 == 0
            counts["stable"] += homolog and row["feature"] % 5 != 0
        asked = {
            MAIN: list(counts),
            SAE_SEED: ["significant", "homolog"],
            MODEL_SEED: ["significant"],
        }[comparison]
        own = {key[2]: value for key, value in shares.items() if key[:2] == (comparison.name, "A")}
        assert own == {name: pytest.approx(counts[name] / 180, abs=1e-4) for name in asked}
        assert list(own) == asked
    assert {key[0] for key in shares} == {MAIN.name, MODEL_SEED.name, SAE_SEED.name}


def test_a_withheld_direction_has_no_shares(planted, tmp_path):
    records = planted(withheld={(A, B)})
    shown = {(row["comparison"], row["side"]) for row in criteria(records)}
    assert (MAIN.name, "B") in shown and (MAIN.name, "A") not in shown
    assert criteria_figure(records) is not None
    both = read_pair(make_run(tmp_path / "none", withheld={(A, B), (B, A)}))
    assert criteria_figure(both) is None


def test_a_skyline_without_a_null_has_no_significant_features(tmp_path):
    known = pl.when(comparison=MAIN.name).then("threshold").otherwise(float("nan"))
    path = changed(make_run(tmp_path / "run"), MATCHES, known.cast(pl.Float32).alias("threshold"))
    rows = [row for row in criteria(read_pair(path)) if row["criterion"] == "significant"]
    assert {row["comparison"] for row in rows} == {MAIN.name}
