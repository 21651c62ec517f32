"""The notebooks of docs/ run, and show what their words say."""

from __future__ import annotations

import ast
import json
from pathlib import Path
from typing import Any

import polars as pl
import pytest

from homolog.matching import MatrixMatches

NOTEBOOKS = sorted((Path(__file__).parents[1] / "docs").glob("*.ipynb"))


def code_of(notebook: Path) -> list[str]:
    cells = json.loads(notebook.read_text(encoding="utf-8"))["cells"]
    return ["".join(cell["source"]) for cell in cells if cell["cell_type"] == "code"]


def run(cells: list[str]) -> tuple[dict[str, Any], list[Any]]:
    """All cells in one namespace, as a kernel does; it, and the last value of each cell."""
    names: dict[str, Any] = {}
    values = []
    for cell in cells:
        body = ast.parse(cell).body
        last = body.pop() if isinstance(body[-1], ast.Expr) else None
        exec(compile(ast.Module(body, []), "cell", "exec"), names)
        shown = None if last is None else ast.Expression(last.value)
        values.append(None if shown is None else eval(compile(shown, "cell", "eval"), names))
    return names, values


@pytest.mark.parametrize("notebook", NOTEBOOKS, ids=lambda path: path.name)
def test_notebooks_are_stored_without_outputs(notebook: Path) -> None:
    for cell in json.loads(notebook.read_text(encoding="utf-8"))["cells"]:
        assert not cell.get("outputs") and cell.get("execution_count") is None


def test_features_are_brought_in_twenty_lines(capsys: pytest.CaptureFixture[str]) -> None:
    (notebook,) = [path for path in NOTEBOOKS if path.name == "bring-features.ipynb"]
    cells = code_of(notebook)
    assert sum(len(cell.splitlines()) for cell in cells) <= 20
    names, values = run(cells)
    matches, planted = names["matches"], names["planted"]
    assert isinstance(matches, MatrixMatches)
    for share in matches.share.values():
        assert abs(share.value - 0.5) <= 0.03  # as planted
    said = capsys.readouterr().out
    assert "of the features of a have a homolog in b." in said and "untrained a" in said
    shown = values[-1]
    assert isinstance(shown, pl.DataFrame) and len(shown) == 200
    homologs = shown.filter("homolog", model="a")
    right = planted.partner_a[homologs["feature"].to_numpy()] == homologs["best_feature"].to_numpy()
    assert right.mean() >= 0.98
