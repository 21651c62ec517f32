"""Similarity of the spaces of two blocks."""

from __future__ import annotations

import polars as pl
import pytest
from tests.analyses.planted_run import changed, make_run, read_pair
from tests.report.pages import said

from homolog.analyses.spaces import ANALYSIS, SPACES, space_means, spaces, spaces_figure
from homolog.record.comparisons import RANDOM_MODEL
from homolog.record.tables import LAYERS


@pytest.fixture(scope="module")
def records(tmp_path_factory):
    return read_pair(make_run(tmp_path_factory.mktemp("spaces") / "run"))


def test_spaces_have_a_panel_for_each_measure_there_is(records):
    rows = spaces(records)
    assert list(dict.fromkeys(row["measure"] for row in rows)) == ["cka", "svcca", "decoder_rsa"]
    assert len(rows) == 3 * 4 * 8
    cka = {(row["a"], row["b"]): row for row in rows if row["measure"] == "cka"}
    same, furthest = cka[0, 1], cka[3, 0]  # relative depth the same, and 7/8 apart
    assert (same["value"], same["tone"]) == (pytest.approx(1.2 * 0.65), 1)
    assert (furthest["value"], furthest["tone"]) == (pytest.approx(1.2 * (0.65 - 0.5 * 7 / 8)), 0)
    assert cka[0, 7]["tone"] == pytest.approx(1 / 7, abs=1e-4)  # 0.75 of 0.875 away
    assert same["panel"].startswith("Residual streams: CKA, 0.2")
    assert same["panel"].endswith("to 0.78") and same["n"] is None
    assert next(row["n"] for row in rows if row["measure"] == "decoder_rsa" and row["b"] == 3) == 43
    figure = spaces_figure(records)
    assert figure is not None
    assert figure.read.endswith("Not measured in this run: Decoder directions: SVCCA.")


def test_spaces_stand_beside_those_of_the_untrained_model(tmp_path):
    less = pl.when(comparison=RANDOM_MODEL.name).then(pl.col("mean") / 10).otherwise("cka")
    records = read_pair(changed(make_run(tmp_path / "run"), LAYERS, less.alias("cka")))
    distances = [abs((i + 1) / 4 - (j + 1) / 8) for i in range(4) for j in range(8)]
    mean = 0.65 - 0.5 * sum(distances) / 32
    cka, _, rsa = space_means(records)
    assert cka == ("Residual streams: CKA", pytest.approx(1.2 * mean), pytest.approx(mean / 10))
    assert rsa == ("Decoder directions: RSA", pytest.approx(mean - 0.5), None)
    figure = spaces_figure(records)
    assert figure is not None
    assert f"CKA {1.2 * mean:.2f}, {mean / 10:.2f} with the untrained model" in figure.read


def test_spaces_not_measured_are_left_out(tmp_path):
    none = [pl.lit(None, pl.Float64).alias(name) for name in SPACES]
    records = read_pair(changed(make_run(tmp_path / "run"), LAYERS, *none))
    assert spaces_figure(records) is None
    assert said(ANALYSIS, records).startswith("Not measured in this run")
