"""The chart of births over depth, and how weights agree with text, from planted tables."""

from __future__ import annotations

from pathlib import Path

import pytest
from tests.analyses.planted_run import make_run, read_pair
from tests.report.pages import said

from homolog.analyses.flow import ANALYSIS
from homolog.analyses.flow.figures import flow_figure, flow_rows, weights_table
from homolog.analyses.records import PairRecords
from homolog.charts.words import MISSING
from homolog.record.run_folder import RunFolder
from homolog.record.tables import BY_WEIGHTS, FLOW

A, B = "transformer-s0", "mamba-s0"
COMES = {0: ["first"] * 4, 1: ["born", "kept", "kept", "changed"], 3: ["kept"] * 3 + [None]}
GOES = {0: ["dies", "dies", "kept", "changes"], 1: ["kept"] * 4, 3: ["last"] * 3 + [None]}


@pytest.fixture(scope="module")
def empty(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_run(tmp_path_factory.mktemp("flow") / "run")


@pytest.fixture(scope="module")
def records(tmp_path_factory: pytest.TempPathFactory) -> PairRecords:
    path = make_run(tmp_path_factory.mktemp("flow") / "run")
    flow = [
        {"model": model, "layer": layer, "feature": f, "comes": COMES[layer][f], "goes": goes[f]}
        for model in (A, B, "rwkv-s0")
        for layer, goes in GOES.items()
        for f in range(4)
    ]
    weights = [
        {"model": A, "layer": 1, "feature": f, "best_model": other, "best_layer": 3}
        | {"best_feature": f if f < 4 else -1, "cosine": 0.1 + 0.2 * f, "null_cosine": 0.4}
        | {"r": r[f], "agrees": f == 0 if other == A else None}
        for other, r in ((B, [0.8, 0.6, 0.4, 0.2, 0.1]), (A, [0.9, 0.7, 0.5, float("nan"), 0.1]))
        for f in range(5)
    ]
    run = RunFolder(path)
    FLOW.write(FLOW.frame(flow), run.table(FLOW))
    BY_WEIGHTS.write(BY_WEIGHTS.frame(weights), run.table(BY_WEIGHTS))
    return read_pair(path)


def test_shares_are_counts_over_features_with_an_r(records: PairRecords) -> None:
    rows = flow_rows(records)
    own = [row for row in rows if row["panel"] == f"Features of {A}"]
    found = {(row["series"], row["depth"]): (row["share"], row["n"]) for row in own}
    assert found == {  # of 4 blocks; the first has nowhere to come from, the last nowhere to go
        ("kept", 0.5): (0.5, 4),
        ("kept", 1.0): (1.0, 3),
        ("born", 0.5): (0.25, 4),
        ("born", 1.0): (0.0, 3),
        ("dies", 0.25): (0.5, 4),
        ("dies", 0.5): (0.0, 4),
    }
    assert {row["panel"] for row in rows} == {f"Features of {A}", f"Features of {B}"}
    figure = flow_figure(records)
    assert figure is not None and f"Features of {A}, block 1: 25%" in figure.alt


def test_weights_are_said_beside_r(records: PairRecords) -> None:
    table = weights_table(records)
    assert table is not None
    assert table.rows == [  # within first; medians of 0.1, 0.3, 0.5 and of 0.1 to 0.7
        [f"{A}\n→ {A}", "3", "0.30", "33%", "0.70", "33%"],
        [f"{A}\n→ {B}", "4", "0.40", "50%", "0.50", MISSING],
    ]
    text = said(ANALYSIS, records)
    assert "Nearest by weights alone" in text and "5% of the cosines" in text


def test_runs_without_a_flow_have_no_section(empty: Path) -> None:
    records = read_pair(empty)
    assert flow_figure(records) is None and ANALYSIS.values(records) is None
    assert "layers" not in said(ANALYSIS, records)
