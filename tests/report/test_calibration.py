"""r against chance, the tests that matches pass, variance and spaces: rows and figures."""

from __future__ import annotations

import dataclasses

import numpy as np
import polars as pl
import pytest

from homolog.report import aggregate, calibration_rows, read_pair, read_study
from homolog.report.calibration_charts import (
    calibration_figure,
    criteria_figure,
    variance_figure,
    variance_sentence,
)
from homolog.report.layer_charts import spaces_figure
from homolog.report.tables import best_shared


@pytest.fixture(scope="module")
def records(make_run, tmp_path_factory):
    return read_pair(make_run(tmp_path_factory.mktemp("calibration") / "run"))


def test_shares_count_the_planted_tests(records):
    found = {
        (row["comparison"], row["side"], row["criterion"]): row["share"]
        for row in calibration_rows.criteria(records)
    }
    for comparison in ("main", "model-seed", "sae-seed"):
        counts = dict.fromkeys(
            ("alive", "significant", "homolog", "mutual", "one_to_one", "stable"), 0
        )
        rows = records.matches.filter(
            (pl.col("comparison") == comparison) & (pl.col("side") == "A")
        )
        for row in rows.iter_rows(named=True):
            if row["n_active"] == 0:
                continue
            above = row["r"] - (0.4 if row["n_active"] < 1000 else 0.2) > 0.1
            homolog = above and row["r"] >= 0.35
            passed = {
                "alive": True,
                "significant": above,
                "homolog": homolog,
                "mutual": homolog and row["feature"] % 2 == 0,
                "one_to_one": homolog and row["feature"] % 3 == 0,
                "stable": homolog and row["feature"] % 5 != 0,
            }
            for name, holds in passed.items():
                counts[name] += holds
        assert counts["alive"] == 180
        asked = {
            "main": list(counts)[1:],
            "sae-seed": ["significant", "homolog"],
            "model-seed": ["significant"],
        }
        for name in asked[comparison]:
            assert found[comparison, "A", name] == pytest.approx(counts[name] / 180, abs=1e-4), (
                comparison,
                name,
            )
        assert [key[2] for key in found if key[:2] == (comparison, "A")] == asked[comparison]
    assert {comparison for comparison, _, _ in found} == {"main", "model-seed", "sae-seed"}


def test_a_withheld_direction_has_no_shares(make_run, tmp_path):
    records = read_pair(make_run(tmp_path / "run", withheld={("transformer-s0", "mamba-s0")}))
    found = {(row["comparison"], row["side"]) for row in calibration_rows.criteria(records)}
    assert ("main", "B") in found and ("main", "A") not in found
    assert criteria_figure(records) is not None
    both = {("transformer-s0", "mamba-s0"), ("mamba-s0", "transformer-s0")}
    assert criteria_figure(read_pair(make_run(tmp_path / "none", withheld=both))) is None


def test_every_column_of_the_heatmap_is_whole(records):
    rows = [
        row
        for row in calibration_rows.calibration(records)
        if row["panel"] == "Features of mamba-s0"
    ]
    columns: dict[float, list[dict]] = {}
    for row in rows:
        if row["part"] == "cell":
            columns.setdefault(row["freq"], []).append(row)
    assert [cells[0]["n"] for cells in columns.values()] == [
        120,
        120,
        120,
    ]  # 360 defined, 100 or more a column
    for cells in columns.values():
        assert sum(cell["share"] for cell in cells) == pytest.approx(1, abs=1e-3)
    lowest = min(columns)
    main = records.matches.filter((pl.col("comparison") == "main") & (pl.col("side") == "B")).sort(
        "freq"
    )
    first = main.filter(pl.col("r").is_finite()).head(120)["r"].to_numpy()
    for cell in columns[lowest]:
        inside = np.mean((first >= cell["r"]) & (first < cell["r_end"]))
        assert cell["share"] == pytest.approx(inside, abs=1e-4)


def test_the_line_is_the_null_at_each_frequency(records):
    rows = calibration_rows.calibration(records)
    points = [row for row in rows if row.get("series") == "null"]
    assert len(points) > 40 and points == sorted(
        points, key=lambda row: (row["panel"] != "Features of transformer-s0", row["freq"])
    )
    step = 1000 / 90_000
    assert {row["r"] for row in points if row["freq"] < 0.98 * step} == {0.4}
    assert {row["r"] for row in points if row["freq"] > 1.02 * step} == {0.2}
    significant = [row for row in rows if row.get("series") == "significant"]
    assert [row["r"] for row in significant] == [pytest.approx(row["r"] + 0.1) for row in points]


@pytest.mark.parametrize("frequencies", [[0.01], [0.01, 0.01, 0.01], [1e-6, 1.0]])
def test_few_features_and_equal_frequencies_are_drawn(records, frequencies):
    n = len(frequencies)
    few = records.matches.filter((pl.col("comparison") == "main") & pl.col("r").is_finite()).head(n)
    few = dataclasses.replace(records, matches=few.with_columns(freq=pl.Series(frequencies)))
    cells = [row for row in calibration_rows.calibration(few) if row["part"] == "cell"]
    assert sum(row["share"] for row in cells) == pytest.approx(1, abs=1e-3) and all(
        row["freq_end"] > row["freq"] for row in cells
    )
    assert calibration_figure(few) is not None


def test_no_line_of_significance_where_nothing_is_called(records):
    none = records.matches.with_columns(threshold=pl.lit(float("inf"), pl.Float32))
    figure = calibration_figure(dataclasses.replace(records, matches=none))
    assert figure is not None and "dashed" not in figure.read
    figure = calibration_figure(records)
    assert figure is not None and figure.read.endswith(
        "a match is significant (false discovery rate 1%)."
    )


def test_a_skyline_without_a_null_has_no_significant_features(records):
    unknown = (
        pl.when(pl.col("comparison") == "main")
        .then("threshold")
        .otherwise(float("nan"))
        .alias("threshold")
    )
    rows = calibration_rows.criteria(
        dataclasses.replace(records, matches=records.matches.with_columns(unknown))
    )
    assert {row["comparison"] for row in rows if row["criterion"] == "significant"} == {"main"}


def test_a_run_without_a_null_has_no_figure_of_it(records):
    without = dataclasses.replace(
        records, matches=records.matches.with_columns(null_r=pl.lit(float("nan")))
    )
    assert calibration_figure(without) is None


def test_the_closest_pairs_are_homologs_where_those_are_known(records):
    key = (pl.col("comparison") == "main") & (pl.col("side") == "A")
    closest = (
        records.matches.filter(key & pl.col("r").is_finite())
        .sort("r", descending=True)
        .row(0, named=True)
    )
    name = f"{closest['layer']} / {closest['feature']}"
    assert best_shared(records, "A").rows[0][0] == name
    same = key & (pl.col("layer") == closest["layer"]) & (pl.col("feature") == closest["feature"])
    no = records.matches.with_columns(
        homolog=pl.col("homolog") & ~same
    )  # a control finds the closest as closely
    assert name not in [
        row[0] for row in best_shared(dataclasses.replace(records, matches=no), "A").rows
    ]
    none = records.matches.with_columns(homolog=pl.lit(None, pl.Boolean))
    assert best_shared(dataclasses.replace(records, matches=none), "A").rows[0][0] == name


def test_the_closest_pairs_carry_their_marks(records):
    table = best_shared(records, "A")
    assert table.columns == [
        "transformer-s0",
        "mamba-s0",
        "r",
        "Excess",
        "q",
        "Active",
        "Mutual",
        "One-to-one",
        "Stable",
    ]
    for row in table.rows:
        feature = int(row[0].split(" / ")[1])
        null = 0.4 if float(row[5].removesuffix("%")) < 100 * 1000 / 90_000 else 0.2
        assert float(row[3]) == pytest.approx(float(row[2]) - null, abs=0.0011)
        assert row[4] == "<0.001"
        assert row[6:] == [
            "yes" if feature % 2 == 0 else "no",
            "yes" if feature % 3 == 0 else "no",
            "yes" if feature % 5 != 0 else "no",
        ]


def test_spaces_have_a_panel_for_each_measure_there_is(records):
    rows = aggregate.spaces(records)
    assert list(dict.fromkeys(row["measure"] for row in rows)) == ["cka", "svcca", "decoder_rsa"]
    assert len(rows) == 3 * 4 * 8
    cka = {(row["a"], row["b"]): row for row in rows if row["measure"] == "cka"}
    assert (
        cka[0, 1]["value"] == pytest.approx(1.2 * 0.65) and cka[0, 1]["tone"] == 1
    )  # the same relative depth
    assert (
        cka[3, 0]["value"] == pytest.approx(1.2 * (0.65 - 0.5 * 7 / 8)) and cka[3, 0]["tone"] == 0
    )  # the furthest
    assert cka[0, 7]["tone"] == pytest.approx(1 / 7, abs=1e-4)  # 0.75 of 0.875 away
    assert cka[0, 1]["panel"].startswith("Residual streams: CKA, 0.2") and cka[0, 1][
        "panel"
    ].endswith("to 0.78")
    assert cka[0, 1]["n"] is None
    assert next(row["n"] for row in rows if row["measure"] == "decoder_rsa" and row["b"] == 3) == 43
    figure = spaces_figure(records)
    assert figure is not None and figure.read.endswith(
        "Not measured in this run: Decoder directions: SVCCA."
    )


def test_spaces_stand_beside_those_of_the_untrained_model(records):
    own = pl.col("comparison") == "random-model"
    less = records.layers.with_columns(cka=pl.when(own).then(pl.col("mean") / 10).otherwise("cka"))
    found = aggregate.space_means(dataclasses.replace(records, layers=less))
    mean = 0.65 - 0.5 * sum(abs((i + 1) / 4 - (j + 1) / 8) for i in range(4) for j in range(8)) / 32
    assert found[0] == (
        "Residual streams: CKA",
        pytest.approx(1.2 * mean),
        pytest.approx(mean / 10),
    )
    assert found[2] == ("Decoder directions: RSA", pytest.approx(mean - 0.5), None)
    figure = spaces_figure(dataclasses.replace(records, layers=less))
    assert figure is not None
    assert (
        f"CKA {1.2 * mean:.2f}, {mean / 10:.2f} with the untrained model; Residual streams: SVCCA"
        in figure.read
    )


def test_spaces_not_measured_are_left_out(records):
    none = [pl.lit(None, pl.Float64).alias(name) for name in aggregate.SPACES]
    assert (
        spaces_figure(dataclasses.replace(records, layers=records.layers.with_columns(none)))
        is None
    )


def test_the_variance_is_told_by_its_largest_factors(records):
    rows = calibration_rows.variance(records)
    assert [row["factor"] for row in rows[:6]] == [
        "architecture",
        "model seed",
        "SAE seed",
        "depth",
        "feature",
        "residual",
    ]
    assert variance_sentence(records).startswith(
        "Of transformer-s0\u2019s features: 60% with the feature itself, 11% with the depth of "
        "the feature and "
        "5.0% with the seed of the dictionary searched. Of mamba-s0\u2019s features: "
    )


def test_a_run_without_variance_has_no_figure_of_it(make_run, tmp_path):
    path = make_run(tmp_path / "run")
    pl.read_parquet(path / "variance.parquet").head(0).write_parquet(path / "variance.parquet")
    assert variance_figure(read_pair(path)) is None
    (path / "variance.parquet").unlink()
    assert variance_figure(read_pair(path)) is None and variance_figure(read_study(path)) is None
