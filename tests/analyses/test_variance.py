"""What the best correlations vary with."""

from __future__ import annotations

from tests.analyses.planted_run import changed, make_run

from homolog.analyses.records import read_study
from homolog.analyses.variance import (
    FACTORS,
    variance,
    variance_figure,
    variance_sentence,
)
from homolog.record.tables import VARIANCE


def test_the_variance_is_told_by_its_largest_factors(tmp_path):
    rows = variance(read_study(make_run(tmp_path / "run")))
    assert [row["factor"] for row in rows] == list(FACTORS) * 2
    first, second = variance_sentence(rows).removesuffix(".").split(". ")
    assert first.startswith("Of transformer-s0\u2019s") and second.startswith("Of mamba-s0\u2019s")
    shares = ("60% with the feature itself", "11% with the depth", "5.0% with the seed of the dict")
    places = [first.index(share) for share in shares]  # the residual, 18%, is no factor
    assert places == sorted(places) and "18%" not in first


def test_a_run_without_variance_has_no_figure_of_it(tmp_path):
    path = changed(make_run(tmp_path / "run"), VARIANCE, rows=0)
    assert variance_figure(read_study(path)) is None
    (path / VARIANCE.file).unlink()
    assert variance_figure(read_study(path)) is None
