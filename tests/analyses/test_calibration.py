"""r against the null of the maximum."""

from __future__ import annotations

import numpy as np
import polars as pl
import pytest
from tests.analyses.planted_run import changed, make_run, read_pair
from tests.report.pages import said

from homolog.analyses.calibration import ANALYSIS, calibration, calibration_figure
from homolog.record.comparisons import MAIN
from homolog.record.tables import MATCHES


@pytest.fixture(scope="module")
def records(tmp_path_factory):
    return read_pair(make_run(tmp_path_factory.mktemp("calibration") / "run"))


def test_every_column_of_the_heatmap_is_whole(records):
    columns: dict[float, list[dict]] = {}
    for row in calibration(records):
        if row["panel"] == "Features of mamba-s0" and row["part"] == "cell":
            columns.setdefault(row["freq"], []).append(row)
    # 360 defined, 100 or more a column
    assert [cells[0]["n"] for cells in columns.values()] == [120, 120, 120]
    for cells in columns.values():
        assert sum(cell["share"] for cell in cells) == pytest.approx(1, abs=1e-3)
    main = records.matches.filter(pl.col("r").is_finite(), comparison=MAIN.name, side="B")
    first = main.sort("freq").head(120)["r"].to_numpy()
    for cell in columns[min(columns)]:
        inside = np.mean((first >= cell["r"]) & (first < cell["r_end"]))
        assert cell["share"] == pytest.approx(inside, abs=1e-4)


def test_the_line_is_the_null_at_each_frequency(records):
    rows = calibration(records)
    points = [row for row in rows if row.get("series") == "null"]
    panels = ["Features of transformer-s0", "Features of mamba-s0"]
    order = sorted(points, key=lambda row: (panels.index(row["panel"]), row["freq"]))
    assert len(points) > 40 and points == order
    step = 1000 / 90_000
    assert {row["r"] for row in points if row["freq"] < 0.98 * step} == {0.4}
    assert {row["r"] for row in points if row["freq"] > 1.02 * step} == {0.2}
    significant = [row for row in rows if row.get("series") == "significant"]
    assert [row["r"] for row in significant] == [pytest.approx(row["r"] + 0.1) for row in points]


@pytest.mark.parametrize("frequencies", [[0.01], [0.01, 0.01, 0.01], [1e-6, 1.0]])
def test_few_features_and_equal_frequencies_are_drawn(tmp_path, frequencies):
    path = make_run(tmp_path / "run")
    matches = MATCHES.read(path / MATCHES.file)
    few = matches.filter(pl.col("r").is_finite(), comparison=MAIN.name).head(len(frequencies))
    MATCHES.write(few.with_columns(freq=pl.Series(frequencies)), path / MATCHES.file)
    few_records = read_pair(path)
    cells = [row for row in calibration(few_records) if row["part"] == "cell"]
    assert sum(row["share"] for row in cells) == pytest.approx(1, abs=1e-3)
    assert all(row["freq_end"] > row["freq"] for row in cells)
    assert calibration_figure(few_records) is not None


def test_no_line_of_significance_where_nothing_is_called(records, tmp_path):
    none = pl.lit(float("inf"), pl.Float32).alias("threshold")
    figure = calibration_figure(read_pair(changed(make_run(tmp_path / "run"), MATCHES, none)))
    assert figure is not None and "dashed" not in figure.read
    figure = calibration_figure(records)
    assert figure is not None and "dashed" in figure.read
    assert "false discovery rate 1%" in figure.read


def test_a_run_without_a_null_has_no_figure_of_it(tmp_path):
    unknown = pl.lit(float("nan"), pl.Float32).alias("null_r")
    records = read_pair(changed(make_run(tmp_path / "run"), MATCHES, unknown))
    assert calibration_figure(records) is None
    assert said(ANALYSIS, records).startswith("Not measured in this run")
