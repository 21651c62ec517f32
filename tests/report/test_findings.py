from __future__ import annotations

import polars as pl
import pytest

from homolog.report import read_pair
from homolog.report.findings import failed_controls, findings, homolog_words


@pytest.fixture
def found(make_run, tmp_path):
    def read(**options):
        return findings(read_pair(make_run(tmp_path / "run", **options)))

    return read


def test_the_verdicts_are_the_words_of_the_run(found):
    result = found(withheld={("mamba-s0", "transformer-s0")})
    first, second = result.verdicts
    assert (first.given, first.words) == (True, "The planted words on transformer-s0 in mamba-s0.")
    assert (second.given, second.words) == (False, "No words on mamba-s0.")
    assert second.reason == "dictionaries of transformer-s0 miss their gates"


def test_the_cards_show_the_share_of_homologs_and_its_ceiling(found, tmp_path):
    cards = found().cards
    matches = pl.read_parquet(tmp_path / "run" / "matches.parquet").filter(pl.col("n_active") > 0)
    for card, model in zip(cards, ("transformer-s0", "mamba-s0"), strict=True):
        own = matches.filter((pl.col("model") == model) & (pl.col("comparison") == "main"))
        assert [(name, role) for name, role, _ in card.bars] == [
            ("Same model, second SAE seed", "skyline"),
            ("The other model", "result"),
        ]
        assert card.bars[1][2] == pytest.approx(own["homolog"].sum() / own.height)
        assert card.bars[0][2] == card.shared["ceiling"]
        assert card.interval == f"{100 * card.shared['lo']:.0f}% to {100 * card.shared['hi']:.0f}%"
        assert f"r = {own['r'].drop_nans().mean():.2f} on average" in card.mean


def test_the_card_of_a_withheld_verdict_has_no_shares(found):
    first, second = found(withheld={("transformer-s0", "mamba-s0")}).cards
    assert first.bars == [] and len(second.bars) == 2 and "on average" in first.mean


def test_the_run_says_what_a_homolog_is(make_run, tmp_path):
    words = homolog_words(read_pair(make_run(tmp_path / "run", drop={"rotated"})))
    assert words == (
        "A homolog is a match that lies above what chance reaches at its firing frequency (false "
        "discovery rate 1%), "
        "has an r of at least 0.35, reaches 70% of the highest r of its partner with any feature "
        "of the same model and "
        "has a higher r than the same feature finds in its controls (an untrained model)."
    )


def test_controls_as_expected(found):
    result = found()
    assert [check.outcome for check in result.checks] == ["yes"] * 5
    assert result.order == "5 of 5 expectations hold." and not result.notes


def test_an_untrained_model_as_good_as_the_trained_one_is_said_so(found):
    result = found(means={"main": 0.5, "random-model": 0.6})
    assert result.checks[0].expectation == "The other model is well above an untrained model"
    assert result.checks[0].outcome == "no"
    assert result.order == "4 of 5 expectations hold and 1 does not."


def test_above_but_not_well_above_is_weak(found):
    result = found(means={"main": 0.50, "random-model": 0.45})
    assert result.checks[0].outcome == "weakly"
    assert result.order == "4 of 5 expectations hold and 1 only weakly."


def test_main_above_a_skyline_is_not_as_expected(found):
    result = found(means={"main": 0.9, "model-seed": 0.6})
    check = next(check for check in result.checks if "second training seed" in check.expectation)
    assert check.outcome == "no"


def test_a_failed_control_is_a_warning_and_an_untrained_one_is_not(make_run, tmp_path):
    path = make_run(
        tmp_path / "run", failing={("mamba-s1", 0), ("mamba-s1", 1), ("mamba-random", 0)}
    )
    assert failed_controls(read_pair(path)) == [
        "2 dictionaries of the control mamba-s1 miss their quality gates."
    ]


def test_controls_not_run_are_counted(found):
    result = found(drop={"rotated", "neurons-random"})
    assert [check.outcome for check in result.checks].count("not measured") == 2
    assert (
        result.order
        == "3 of 5 expectations hold. 2 could not be checked: their controls were not run."
    )


def test_an_undefined_mean_is_never_as_expected(make_run, tmp_path):
    path = make_run(tmp_path / "run")
    summary = pl.read_parquet(path / "summary.parquet")
    nan = pl.when(pl.col("comparison") == "random-model").then(float("nan"))
    columns = [nan.otherwise(pl.col(name)).alias(name) for name in ("mean", "mean_lo", "mean_hi")]
    summary.with_columns(columns).write_parquet(path / "summary.parquet")
    assert findings(read_pair(path)).checks[0].outcome == "no"


def test_what_the_current_token_explains_is_told_apart(make_run, tmp_path):
    path = make_run(tmp_path / "run", means={"main": 0.5, "random-model": 0.6})
    matches = pl.read_parquet(path / "matches.parquet")
    own = matches.filter((pl.col("comparison") == "main") & (pl.col("model") == "transformer-s0"))
    by_token = own.with_columns(
        comparison=pl.lit("tokens"),
        best_model=pl.lit("current-token"),
        r=pl.when(pl.col("layer") == 0).then(0.9).otherwise(0.2).cast(pl.Float32),
    )
    pl.concat([matches, by_token]).write_parquet(path / "matches.parquet")
    result = findings(read_pair(path))
    later = matches.filter(
        (pl.col("model") == "transformer-s0") & (pl.col("layer") > 0) & pl.col("r").is_not_nan()
    )
    main = later.filter(pl.col("comparison") == "main")
    untrained = later.filter(pl.col("comparison") == "random-model")
    sentence = next(reason for reason in result.notes if "follow one current token" in reason)
    assert sentence.startswith("25% of transformer-s0's features")  # layer 0 of 4
    joined = main.join(untrained, on=["layer", "feature"], suffix="_untrained")
    assert (
        f"Over the other {len(joined):,} features the mean is {joined['r'].mean():.2f}" in sentence
    )
    assert f"{joined['r_untrained'].mean():.2f} in the untrained model" in sentence
