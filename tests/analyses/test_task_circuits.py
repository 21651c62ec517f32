"""Circuits of tasks on the page: called faithful or not, curves, transfers, tasks without one."""

from __future__ import annotations

from pathlib import Path

import pytest
from tests.analyses.circuit_sections import circuit_page, circuits, figures, texts
from tests.analyses.planted_circuits import write_circuits

from homolog.analyses.task_circuits.figures import curve_rows
from homolog.analyses.task_circuits.summary import section_values, table_lines
from homolog.record.tables import TASK_CIRCUITS, TASK_CURVES, TASK_NODES, TASK_TRANSFERS

OWN = {"model": "t", "architecture": "gpt_neox"}
FOUND = {
    "able": True,
    "reason": "",
    "dropped": "",
    "solved": 0.9,
    "n_nodes": 2,
    "n_nodes_of_model": 8,
    "n_random": 10,
    "faithfulness": 0.95,
    "faithfulness_lo": 0.9,
    "faithfulness_hi": 1.0,
    "null_mean": 0.3,
    "null_least": 0.1,
    "null_most": 0.5,
    "faithful": True,
    "cpr": 0.8,
    "random_cpr_mean": 0.4,
    "random_cpr_least": 0.3,
    "random_cpr_most": 0.5,
    "cmd": 0.2,
}
MATCHED = FOUND | {"null_most": 0.95, "faithful": False, "dropped": "name: Alice, Amy"}
WHOLE = FOUND | {"n_nodes": 8, "faithfulness": 1.0, "null_most": 1.0, "faithful": False}
WEAK = FOUND | {"faithfulness": 0.6, "faithful": False}
UNABLE = {"able": False, "reason": "it puts the answer above the wrong one in 60%", "dropped": ""}
TASKS = {"induction": FOUND, "ioi": MATCHED, "all": WHOLE, "weak": WEAK, "hard": UNABLE}


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("tasks") / "run"
    write_circuits(folder)
    rows = [OWN | {"task": task} | row for task, row in TASKS.items()]
    TASK_CIRCUITS.write(TASK_CIRCUITS.frame(rows), folder / TASK_CIRCUITS.file)
    nodes = [{"node": "head_out.0.1", "in_circuit": True, "score": 1.0, "alone": -0.5}]
    nodes = [OWN | {"task": "ioi"} | row for row in nodes]
    TASK_NODES.write(TASK_NODES.frame(nodes), folder / TASK_NODES.file)
    curve = [("score", None, 0.0), ("score", None, 1.0), ("random", 0, 0.2)]
    points = [
        OWN
        | {"task": "ioi", "order": order, "draw": draw, "n_nodes": 4, "share": 0.5}
        | {"faithfulness": value}
        for order, draw, value in curve
    ]
    TASK_CURVES.write(TASK_CURVES.frame(points), folder / TASK_CURVES.file)
    cells = [
        OWN | {"task": a, "on": b, "faithfulness": value, "null_least": 0.0, "null_most": 0.3}
        for a, b, value in (
            ("induction", "induction", 0.95),
            ("induction", "ioi", 0.1),
            ("ioi", "induction", 0.2),
            ("ioi", "ioi", 0.9),
        )
    ]
    TASK_TRANSFERS.write(TASK_TRANSFERS.frame(cells), folder / TASK_TRANSFERS.file)
    return folder


def test_a_circuit_that_random_ones_equal_is_not_called_faithful(run: Path) -> None:
    shown = section_values(circuits(run))["circuits"]
    assert [row[1] for row in shown.rows] == ["induction", "ioi", "all", "weak"]
    assert [row[-1] for row in shown.rows] == [
        "faithful",
        "not faithful: random ones do as much",
        "not faithful: it is the whole model",
        "not faithful",
    ]
    assert shown.rows[0][4:6] == ["0.95 (0.90 to 1.00)", "0.30 (0.10 to 0.50)"]


def test_the_lines_of_the_command(run: Path) -> None:
    lines = table_lines(circuits(run).table(TASK_CIRCUITS))
    assert lines[0] == (
        "induction in t: 2 of 8 nodes do 0.95 (0.90 to 1.00) of what the model does; "
        "10 random circuits 0.30 (0.10 to 0.50): faithful. CPR 0.80, CMD 0.20"
    )
    assert lines[4] == "hard in t: no circuit, it puts the answer above the wrong one in 60%"
    assert lines[5:] == ["ioi in t is without what is not one token: name: Alice, Amy"]


def test_the_section(run: Path) -> None:
    page = circuit_page(run)
    said = texts(page)["Circuits of tasks"]
    assert "t, hard: it puts the answer above the wrong one in 60%." in said
    assert "t: faithfulness on each task, and of random circuits" in said
    assert "0.10 random 0.00 to 0.30" in said and "ioi in t: name: Alice, Amy." in said
    assert "ioi in t: CPR 0.80 (random orders 0.40), CMD 0.20" in figures(page)["task-curves"].alt


def test_the_curves_and_the_circuits_are_drawn(run: Path) -> None:
    rows = curve_rows(circuits(run))
    drawn = [row for row in rows if row["panel"] == "t: ioi"]
    assert [row["faithfulness"] for row in drawn] == [0.0, 1.0, 0.2, 0.95]
    assert [row.get("circuit") for row in drawn] == [None, None, None, True]
    assert drawn[-1]["share"] == 0.25


def test_a_run_without_other_tasks_has_no_such_section(tmp_path: Path) -> None:
    assert "Circuits of tasks" not in texts(circuit_page(write_circuits(tmp_path / "run")))
