"""A grid of two cells, from recipe to page: its table, what is done already, and one that fails."""

from __future__ import annotations

import re
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import polars as pl
import pytest
import tomli_w
from tests.pipeline.outcome import drawing, told
from typer.testing import CliRunner

import homolog
from homolog.cli.commands import app
from homolog.errors import InputError
from homolog.pipeline import grid as grids
from homolog.pipeline.grid import in_words, run_grid
from homolog.pipeline.recipes import parse_recipe
from homolog.progress import SilentProgress
from homolog.record.recipe import Recipe
from homolog.record.run_folder import RunFolder
from homolog.record.tables import GRID
from homolog.report import write_report

VALUES: dict[str, Any] = {
    "name": "small",
    "models": [{"ref": "zoo:transformer-s0"}, {"ref": "zoo:transformer-s1"}],
    "corpus": {
        "source": "zoo:demo",
        "context": 32,
        "train_tokens": 2048,
        "match_tokens": 2048,
        "quality_tokens": 256,
    },
    "sae": {"d_sae": 16, "l1": 1.0, "batch": 256},
    "gates": {"explained_variance": -9.0, "loss_recovered": -9.0, "l0_share_most": 1.0}
    | {"dense_share": 1.0, "dead_share": 1.0, "l0_least": 0.0},
    "controls": {"rotated": False, "current_token": False},
    "matching": {"resamples": 5},
    "grid": {"dictionaries": [{"l1": 1.0}, {"kind": "topk", "k": 4}], "seeds": 3},
}
NAMES = ["relu-1-16", "topk-4-16"]


@pytest.fixture(scope="module")
def recipe() -> Recipe:
    return parse_recipe(VALUES, "small")


@pytest.fixture(scope="module")
def done(recipe: Recipe, tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("runs") / "grid"
    run_grid(recipe, out, SilentProgress())
    return out


@pytest.mark.slow
def test_a_row_for_each_cell_and_direction(done: Path) -> None:
    rows = homolog.Study.load(done).grid
    assert rows["cell"].to_list() == [name for name in NAMES for _ in range(2)]
    assert set(rows["n_seeds"]) == {3} and set(rows["d_sae"]) == {16}
    assert rows["kind"].to_list() == ["relu", "relu", "topk", "topk"]
    for row in rows.iter_rows(named=True):
        cell = homolog.Study.load(done / "cells" / row["cell"])
        way = {"model": row["model"], "best_model": row["best_model"]}
        verdict = cell.shared.filter(**way).row(0, named=True)
        same = ("share", "lo", "hi", "ceiling", "share_stable", "given", "reason")
        assert {key: row[key] for key in same} == {key: verdict[key] for key in same}
        main = cell.saes.filter(model=row["model"], label="sae")
        assert row["l0"] == pytest.approx(sum(main["l0"]) / 4)
        assert row["explained_variance"] == pytest.approx(sum(main["explained_variance"]) / 4)
        alive = cell.matches.filter(pl.col("n_active") > 0, comparison="main", **way)
        both = sum(n == 2 for n in alive["back_in"])  # seeds 1 and 2
        assert row["share_back"] == pytest.approx(both / len(alive))


@pytest.mark.slow
def test_the_page_shows_every_cell_and_is_made_again_as_it_was(done: Path) -> None:
    page = done / "report" / "index.html"
    text = page.read_text("utf-8")
    for name in NAMES:
        assert f'href="../cells/{name}/report/index.html"' in text
        assert (done / "cells" / name / "report" / "index.html").is_file()
    assert drawing(done / "report", "grid").startswith("<svg")
    plain = re.sub(r"<[^>]+>", "", text)
    assert all(entry["words"] in plain for entry in RunFolder(done).record["verdicts"])
    write_report(done)
    assert page.read_text("utf-8") == text
    assert RunFolder(done).verify() == []


@pytest.mark.slow
def test_what_is_complete_is_not_done_again(
    done: Path, recipe: Recipe, monkeypatch: pytest.MonkeyPatch
) -> None:
    before = RunFolder(done).record["stages"]
    ran = _counted(monkeypatch)
    run_grid(recipe, done, SilentProgress())
    assert ran == [] and RunFolder(done).record["stages"] == before
    # a cell that lost a table is run again, by itself, and comes to the same bytes
    table = done / "cells" / NAMES[1] / "shared.parquet"
    whole, together = table.read_bytes(), (done / "grid.parquet").read_bytes()
    table.write_bytes(b"damaged")
    run_grid(recipe, done, SilentProgress())
    assert ran == [NAMES[1]]
    assert table.read_bytes() == whole and (done / "grid.parquet").read_bytes() == together


@pytest.mark.slow
def test_a_cell_that_fails_takes_only_itself(
    recipe: Recipe, done: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fails(one: Recipe) -> None:
        raise RuntimeError("no room")

    out = tmp_path / "grid"
    shutil.copytree(done, out)
    (out / "cells" / NAMES[0] / "shared.parquet").unlink()
    with monkeypatch.context() as patch:
        assert _counted(patch, fails) == []
        run_grid(recipe, out, SilentProgress())
    assert homolog.Study.load(out).grid["cell"].unique().to_list() == [NAMES[1]]
    failed = RunFolder(out).record["failed"]
    assert failed[f"cell {NAMES[0]}"]["error"] == "RuntimeError: no room"
    assert "no room" in told(out / "report")
    ran = _counted(monkeypatch)
    run_grid(recipe, out, SilentProgress())
    assert ran == [NAMES[0]] and not RunFolder(out).record["failed"]
    for name in ("grid.parquet", f"cells/{NAMES[0]}/shared.parquet"):
        assert (out / name).read_bytes() == (done / name).read_bytes()


@pytest.mark.slow
def test_without_any_cell_there_is_no_grid(
    recipe: Recipe, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fails(one: Recipe) -> None:
        raise RuntimeError("no room")

    _counted(monkeypatch, fails)
    with pytest.raises(RuntimeError, match=r"no cell of the grid succeeded.*no room"):
        run_grid(recipe, tmp_path / "grid", SilentProgress())


def _counted(
    monkeypatch: pytest.MonkeyPatch, first: Callable[[Recipe], None] = lambda recipe: None
) -> list[str]:
    """Names of the cells that are run from now on, each after `first`."""
    ran: list[str] = []
    run_study = grids.run_study

    def counted(recipe: Recipe, *given: Any, **more: Any) -> Path:
        ran.append(recipe.name)
        first(recipe)
        return run_study(recipe, *given, **more)

    monkeypatch.setattr(grids, "run_study", counted)
    return ran


def test_what_cannot_be_read_is_said_before_a_folder_is_made(tmp_path: Path) -> None:
    values = VALUES | {"corpus": VALUES["corpus"] | {"source": "/nowhere/text.txt"}}
    with pytest.raises(InputError, match=r"/nowhere/text\.txt"):
        run_grid(parse_recipe(values, "small"), tmp_path / "out", SilentProgress())
    assert not (tmp_path / "out").exists()


def test_the_verdicts_lie_between_their_ends() -> None:
    def row(model: str, share: float | None, ceiling: float | None) -> dict[str, Any]:
        given = share is not None
        return {"model": model, "best_model": "c", "share": share, "ceiling": ceiling} | {
            "given": given
        }

    rows = [row("a", 0.2, 0.4), row("a", 0.3, 0.5), row("a", None, None), row("b", None, None)]
    words = [entry["words"] for entry in in_words(GRID.frame(rows))]
    # 0.2 / 0.4 and 0.3 / 0.5
    assert words == [
        "20% to 30% of the features of a have a homolog in c, over 2 of 3 cells, the others without"
        " a verdict; of the ceiling it is 50% to 60%.",
        "No verdict on b in c in any of 1 cell.",
    ]


@pytest.mark.slow
def test_the_command_runs_a_grid_where_the_recipe_has_one(done: Path, tmp_path: Path) -> None:
    file = tmp_path / "small.toml"
    file.write_text(tomli_w.dumps(VALUES))
    told = CliRunner().invoke(app, ["run", str(file), "--out", str(done), "--quiet"])
    assert told.exit_code == 0, told.output
    words = [entry["words"] for entry in RunFolder(done).record["verdicts"]]
    assert told.output.splitlines() == [*words, f"Report: {done / 'report' / 'index.html'}"]
