"""More than two models: the share of homologs of every ordered pair."""

from __future__ import annotations

import pytest
from tests.analyses.planted_run import A, B, C, make_run
from tests.report.pages import said

from homolog.analyses import overview
from homolog.analyses.overview import shared_figure, shared_table, sharedness
from homolog.analyses.records import read_study
from homolog.charts.words import MISSING
from homolog.record.comparisons import SAE_SEED

THREE = (A, B, C)


def test_every_ordered_pair_has_a_cell_and_a_row(tmp_path):
    records = read_study(make_run(tmp_path / "run", compared=THREE, withheld={(C, A)}))
    cells = {(row["source"], row["target"]): row for row in sharedness(records)}
    assert list(cells) == [(A, B), (A, C), (B, A), (B, C), (C, A), (C, B)]
    for row in records.shared.iter_rows(named=True):
        cell = cells[row["model"], row["best_model"]]
        if (row["model"], row["best_model"]) == (C, A):
            assert (cell["share"], cell["text"], cell["ceiling"]) == (None, "no verdict", "")
            continue
        assert cell["share"] == pytest.approx(row["share"], abs=1e-4)
        assert cell["ceiling"] == f"ceiling {100 * row['ceiling']:.0f}%"
    table = shared_table(records)
    assert [row[0] for row in table.rows[:3]] == [f"{A}\n→ {B}", f"{A}\n→ {C}", f"{B}\n→ {A}"]
    withheld = [(row[0], row[2]) for row in table.rows if row[-1] == "withheld"]
    assert withheld == [(f"{C}\n→ {A}", MISSING)]


def test_models_without_a_second_dictionary_have_no_ceiling(tmp_path):
    records = read_study(make_run(tmp_path / "run", compared=THREE, drop={SAE_SEED.name}))
    assert not any(row["ceiling"] for row in sharedness(records))
    figure = shared_figure(records)
    assert figure is not None and "ceiling" not in figure.read


def test_two_models_need_no_overview(tmp_path):
    records = read_study(make_run(tmp_path / "run"))
    assert said(overview.ANALYSIS, records) == said(overview.PAIRS, records) == ""
