from __future__ import annotations

import polars as pl
import pytest

from homolog.report import read_run
from homolog.report.findings import failed_controls, findings, headline_sentences


@pytest.fixture
def found(make_run, tmp_path):
    def read(**options):
        return findings(read_run(make_run(tmp_path / "run", **options)))

    return read


def test_the_planted_shares_are_the_headline(found):
    result = found()
    first, second = headline_sentences(result.headlines)
    assert first.startswith("65% of transformer-s0\u2019s features have a close partner (r > 0.7) in mamba-s0")
    assert second.startswith("50% of mamba-s0\u2019s features have a close partner (r > 0.7) in transformer-s0")
    assert "in an untrained model" in first and "in a rotated dictionary" in first
    assert result.status == "clear" and not result.reasons
    assert [check.outcome for check in result.checks] == ["yes"] * 5


def test_an_untrained_model_as_good_as_the_trained_one_is_said_so(found):
    result = found(means={"main": 0.5, "random-model": 0.6})
    assert result.status == "caution"
    assert result.title == "The rows are not in the expected order"
    assert any("an untrained model: no" in reason for reason in result.reasons)


def test_above_but_not_well_above_is_weak(found):
    result = found(means={"main": 0.50, "random-model": 0.45})
    assert result.checks[0].outcome == "weakly"
    assert result.status == "caution"


def test_main_above_a_skyline_is_not_as_expected(found):
    result = found(means={"main": 0.9, "model-seed": 0.6})
    check = next(check for check in result.checks if "second training seed" in check.expectation)
    assert check.outcome == "no" and result.status == "caution"


def test_failed_gates_give_no_verdict(found):
    result = found(failing={("mamba-s0", 5)})
    assert result.status == "none"
    assert result.reasons[0] == "1 of the 12 dictionaries compared miss their quality gates."
    assert result.reasons[1] == "mamba-s0, block 5: explained variance 0.41 is below 0.60"


def test_a_failed_control_is_a_warning_and_an_untrained_one_is_not(make_run, tmp_path):
    path = make_run(tmp_path / "run", failing={("mamba-s1", 0), ("mamba-s1", 1), ("mamba-random", 0)})
    assert failed_controls(read_run(path)) == ["2 dictionaries of the control mamba-s1 miss their quality gates."]


def test_a_low_seed_skyline_makes_every_row_unreadable(found):
    result = found(means={"main": 0.35, "sae-seed": 0.45})
    assert result.status == "none"
    assert any("below 0.75" in reason for reason in result.reasons)


def test_controls_not_run_are_counted(found):
    result = found(drop={"rotated", "neurons-random"})
    assert [check.outcome for check in result.checks].count("not measured") == 2
    assert result.status == "caution"
    assert "2 of 5 expectations could not be checked: their controls were not run." in result.reasons


def test_an_undefined_mean_is_never_as_expected(make_run, tmp_path):
    path = make_run(tmp_path / "run")
    summary = pl.read_parquet(path / "summary.parquet")
    nan = pl.when(pl.col("comparison") == "random-model").then(float("nan"))
    columns = [nan.otherwise(pl.col(name)).alias(name) for name in ("mean", "mean_lo", "mean_hi")]
    summary.with_columns(columns).write_parquet(path / "summary.parquet")
    assert findings(read_run(path)).checks[0].outcome == "no"


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
    result = findings(read_run(path))
    later = matches.filter((pl.col("model") == "transformer-s0") & (pl.col("layer") > 0) & pl.col("r").is_not_nan())
    main = later.filter(pl.col("comparison") == "main")
    untrained = later.filter(pl.col("comparison") == "random-model")
    sentence = next(reason for reason in result.reasons if "follow one current token" in reason)
    assert sentence.startswith("25% of transformer-s0's features")  # layer 0 of 4
    joined = main.join(untrained, on=["layer", "feature"], suffix="_untrained")
    assert f"Over the other {len(joined):,} features the mean is {joined['r'].mean():.2f}" in sentence
    assert f"{joined['r_untrained'].mean():.2f} in the untrained model" in sentence
