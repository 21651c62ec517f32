"""The figure and the tables of a grid, from a table by hand."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Any

import polars as pl
import pytest

from homolog.analyses.grid.figures import COLOURS, grid_figure, verdicts_over_l0
from homolog.analyses.grid.records import GridRecords
from homolog.analyses.grid.tables import cell_table
from homolog.record.tables import GRID

GIVEN = {"share": 0.2, "lo": 0.1, "hi": 0.3, "ceiling": 0.5, "given": True, "reason": ""}
WITHHELD = {"share": 0.2, "lo": 0.1, "hi": 0.3, "given": False, "reason": "misses a gate"}


@dataclasses.dataclass(frozen=True)
class ByHand(GridRecords):
    """Records of rows that are given."""

    frame: pl.DataFrame

    @property
    def cells(self) -> pl.DataFrame:  # type: ignore[override]
        return self.frame


@pytest.fixture
def records() -> ByHand:
    def cell(kind: str, d_sae: int, l0: float, **verdict: Any) -> dict[str, Any]:
        about = {"kind": kind, "d_sae": d_sae, "l0": l0, "sparsity": 4.0, "n_seeds": 2}
        return about | {"cell": f"{kind}-{d_sae}", "explained_variance": 0.8, **verdict}

    cells = [
        cell("relu", 384, 10.0, **GIVEN),
        cell("topk", 384, 20.0, **GIVEN),
        cell("topk", 1536, 40.0, **WITHHELD),
    ]
    ways = [{"model": "a", "best_model": "b"}, {"model": "b", "best_model": "a"}]
    rows = [one | way for one in cells for way in ways]
    return ByHand(Path("run"), {"verdicts": [{"words": "In words."}]}, GRID.frame(rows))


def test_a_line_for_each_kind_and_width_in_a_panel_for_each_direction(records: ByHand) -> None:
    rows = verdicts_over_l0(records)
    assert [row["panel"] for row in rows[:2]] == ["a in b", "b in a"]
    assert [row["line"] for row in rows[::2]] == [
        "relu, 384 features",
        "topk, 384 features",
        "topk, 1,536 features",
    ]
    assert [(row["l0"], row["share"], row["low"], row["ceiling"]) for row in rows[::2]] == [
        (10.0, 0.2, 0.1, 0.5),
        (20.0, 0.2, 0.1, 0.5),
        (40.0, None, None, None),  # withheld: no number of it is drawn
    ]


def test_colours_stand_for_kinds_and_dashes_for_widths(records: ByHand) -> None:
    figure = grid_figure(records)
    assert figure is not None and "topk-1536: no verdict" in figure.alt
    encodings = [layer["encoding"] for layer in figure.spec["spec"]["layer"]]
    assert encodings[0]["color"]["scale"] == {"domain": ["relu", "topk"], "range": COLOURS[:2]}
    dashes = encodings[0]["strokeDash"]["scale"]
    assert dashes["domain"] == ["384 features", "1,536 features"]
    assert dashes["range"][0] != dashes["range"][1]
    assert encodings[0]["y"]["field"] == "ceiling"
    x = encodings[0]["x"]["scale"]
    assert x["type"] == "log" and x["domain"][0] < 10 and x["domain"][1] > 40


def test_without_cells_there_is_no_figure(records: ByHand) -> None:
    assert grid_figure(dataclasses.replace(records, frame=records.cells.clear())) is None


def test_the_table_leads_to_each_cell_and_says_why_a_verdict_is_withheld(records: ByHand) -> None:
    shown = cell_table(records, "b", "a")
    assert [row[0] for row in shown.rows] == ["relu-384", "topk-384", "topk-1536"]
    assert [row[-1] for row in shown.rows] == ["given", "given", "withheld: misses a gate"]
    assert shown.rows[0][6] == "20%\n10% to 30%" and shown.rows[2][6] == "\N{EN DASH}"
    assert shown.links[2] == "../cells/topk-1536/report/index.html"
    assert records.names == ("a", "b") and records.words == ["In words."]
