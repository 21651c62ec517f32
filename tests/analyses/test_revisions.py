"""What models share over the training of one: steps, shares and words of a planted run."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from tests.analyses.planted_run import A, B, C, make_run

from homolog.analyses.records import StudyRecords, read_study
from homolog.analyses.revisions import (
    ANALYSIS,
    copying,
    over_training,
    sentences,
    step_of,
    which_first,
)
from homolog.record.circuits import INDUCTION
from homolog.record.table import write_table
from homolog.record.tables import CIRCUITS


def records_of(folder: Path, *names: str, withheld: set[tuple[str, str]]) -> StudyRecords:
    """A and B as two revisions of one model, compared with C."""

    def edit(run: dict[str, Any]) -> None:
        both = zip((A, B), names, strict=True)
        run["revisions"] = {"pythia": [{"name": m, "revision": name} for m, name in both]}
        run["pairs"] = [[A, C], [B, C]]

    return read_study(make_run(folder, compared=(A, B, C), edit=edit, withheld=withheld))


@pytest.mark.parametrize(
    ("revision", "step"),
    [
        ("step0", 0),
        ("step143000", 143_000),
        ("stage1-step140000-tokens294B", 140_000),
        ("iter_0005000", 5000),
        ("main", None),
        ("v1.5", None),
    ],
)
def test_the_step_of_a_revision(revision: str, step: int | None) -> None:
    assert step_of(revision) == step


def test_both_directions_over_training(tmp_path: Path) -> None:
    records = records_of(tmp_path / "run", "step1000", "step0", withheld={(C, B)})
    rows = over_training(records)
    there, back = f"pythia in {C}", f"{C} in pythia"
    assert [(row["panel"], row["step"]) for row in rows] == [
        (there, 0),
        (there, 1000),
        (back, 0),
        (back, 1000),
    ]
    shares = {(row["model"], row["best_model"]): row for row in records.shared.to_dicts()}
    expected = [shares[pair] for pair in ((B, C), (A, C), (C, B), (C, A))]
    for row, shared in zip(rows, expected, strict=True):
        if shared["given"]:
            assert row["share"] == pytest.approx(shared["share"], abs=1e-4)
            assert row["low"] == pytest.approx(shared["lo"], abs=1e-4)
        else:
            assert row["share"] is row["ceiling"] is None and row["reason"]
    assert rows[2]["share"] is None
    first, second = sentences(rows)
    assert first.startswith(f"{there}: the share with a homolog goes from ")
    assert " at step0 to " in first and first.endswith(" at step1000.")
    assert second == f"{back}: fewer than two revisions have a verdict."
    (figure,) = ANALYSIS.drawn(records)
    assert figure.spec["data"]["values"] == rows and "symlog" in str(figure.spec)
    values = ANALYSIS.values(records)
    assert values is not None and len(values["steps"]) == 2


def test_revisions_without_steps_stand_side_by_side(tmp_path: Path) -> None:
    records = records_of(tmp_path / "run", "early", "main", withheld=set())
    (figure,) = ANALYSIS.drawn(records)
    assert "symlog" not in str(figure.spec) and '"early", "main"' in str(figure.spec).replace(
        "'", '"'
    )


def test_a_study_without_revisions_has_no_such_section(tmp_path: Path) -> None:
    records = read_study(make_run(tmp_path / "run", compared=(A, B, C)))
    assert ANALYSIS.drawn(records) == [] and ANALYSIS.values(records) is None


def test_copying_stands_beside_what_is_shared(tmp_path: Path) -> None:
    """Induction at half of its best by step 1000, what is shared by step 0."""
    records = records_of(tmp_path / "run", "step1000", "step0", withheld=set())
    asked = {"task": INDUCTION, "able": False, "reason": "cannot"}
    circuits = [
        {"model": A, "accuracy": 0.8, "preferred": 1.0} | asked,
        {"model": B, "accuracy": 0.3, "preferred": 0.7} | asked,
        {"model": C, "accuracy": 1.0, "preferred": 1.0} | asked,  # is no revision
    ]
    path = records.folder.table(CIRCUITS.name)
    write_table(CIRCUITS.frame(circuits), path)
    rows = copying(records)
    assert [(row["step"], row["accuracy"]) for row in rows] == [
        (0, 0.3),
        (0, 0.7),
        (1000, 0.8),
        (1000, 1.0),
    ]
    shares = [
        {"panel": "there", "revision": "step0", "share": 0.06},
        {"panel": "there", "revision": "step1000", "share": 0.1},
    ]
    assert which_first(shares, rows) == [
        "What they share (there) reaches half of its highest value at step0.",
        "Induction in pythia, with the answer on top, does at step1000.",
    ]
    assert which_first(shares, []) == []
    both = ANALYSIS.drawn(records)
    assert [figure.name for figure in both] == ["revisions", "copying"]
    assert both[1].spec["data"]["values"] == rows
