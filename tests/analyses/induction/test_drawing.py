"""The drawing of a circuit: parts where they are, edges from the tokens to the answer."""

from __future__ import annotations

import math

import pytest
from tests.analyses.circuit_sections import circuits
from tests.analyses.planted_circuits import MAMBA, TRANSFORMER, write_circuits

from homolog.analyses.induction.drawing import COLUMNS, circuit_figure, drawing


@pytest.fixture(scope="module")
def records(tmp_path_factory):
    return circuits(write_circuits(tmp_path_factory.mktemp("circuits") / "run"))


def nodes_of(rows):
    """The parts by role and name."""
    return {(row["role"], row["component"]): row for row in rows if row["kind"] == "node"}


def edges_of(rows):
    """Role, share, start and end of each edge."""
    curves = {}
    for row in rows:
        if row["kind"] == "edge":
            curves.setdefault(row["edge"], []).append(row)
    return [(p[0]["role"], p[0]["share"], p[0]["x"], p[-1]["x"]) for p in curves.values()]


def labels_of(rows, kind):
    return [row["label"] for row in rows if row["kind"] == kind]


def test_the_drawing_leads_from_the_tokens_to_the_answer(records):
    rows = drawing(records, TRANSFORMER, 4)
    nodes = nodes_of(rows)
    assert len(nodes) == 4
    assert labels_of(rows, "label") == ["1.2", "2.1", "3.0"]  # 2.1 once, in two roles
    assert labels_of(rows, "block") == ["block 1", "block 2", "block 3"]
    assert labels_of(rows, "token") == ["A", "B", "A", "B"]
    carrier = nodes["previous-token carrier", "head 1.2"]
    matcher = nodes["matcher", "head 2.1 (its key at A+1)"]
    copier = nodes["copier", "head 2.1"]
    edges = edges_of(rows)
    assert ("previous-token carrier", 0.5, COLUMNS["A"], carrier["x"]) in edges
    assert ("previous-token carrier", 0.5, carrier["x"], matcher["x"]) in edges
    assert ("matcher", 0.6, COLUMNS["end"], matcher["x"]) in edges
    assert ("copier", 0.2, nodes["copier", "head 3.0"]["x"], COLUMNS["end"]) in edges
    assert len(edges) == 2 + 1 + 2 * 2
    same = [(row["x"], row["x2"]) for row in rows if row["kind"] == "same"]
    assert same == [(matcher["x"], copier["x"])]


def test_an_upstream_block_leads_to_the_block_its_patch_went_into(records):
    rows = drawing(records, MAMBA, 4)
    nodes = nodes_of(rows)
    upstream = nodes["previous-token carrier", "the scan of block 1"]
    matcher = nodes["matcher", "the scan of block 5"]
    assert ("previous-token carrier", 0.15, upstream["x"], matcher["x"]) in edges_of(rows)
    assert upstream["y"] < matcher["y"]


def test_parts_keep_lanes_apart(tmp_path):
    records = circuits(write_circuits(tmp_path / "run", size=(12, 12, 24)))
    for model in (TRANSFORMER, MAMBA):
        places = [(n["x"], n["y"]) for n in nodes_of(drawing(records, model, 4)).values()]
        assert min(math.dist(a, b) for i, a in enumerate(places) for b in places[:i]) > 0.3


def test_a_model_without_a_circuit_is_not_drawn(tmp_path):
    some = circuit_figure(circuits(write_circuits(tmp_path / "a", (MAMBA,), cannot=("x",))))
    assert {row["panel"] for row in some.spec["data"]["values"]} == {MAMBA}
    assert circuit_figure(circuits(write_circuits(tmp_path / "b", (), cannot=("x",)))) is None
