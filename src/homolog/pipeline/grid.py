"""A grid: the study once per cell (`cells`), and from all of them one table and one page.

    OUT/cells/NAME/     the run of a cell, as `run_study` makes it
    OUT/grid.parquet    its verdicts beside the sparsity and the quality of its dictionaries
    OUT/report/         the verdict over L0

A cell is a stage of the grid, complete or not; one that fails takes only itself.
"""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path
from typing import Any

import polars as pl

from homolog.charts.words import percent
from homolog.pipeline.cells import Cell, cells_of
from homolog.pipeline.finish import by_itself, finish
from homolog.pipeline.plan import pace_heard, say_plan
from homolog.pipeline.run_study import check_study, finished_report, run_study
from homolog.progress import Progress
from homolog.record.atomic import sha256_bytes
from homolog.record.comparisons import MAIN
from homolog.record.places import Places
from homolog.record.recipe import Recipe
from homolog.record.run_folder import RunFolder
from homolog.record.sides import MAIN_LABEL
from homolog.record.tables import GRID, MATCHES, SAES, SHARED

READ = (MATCHES, SAES, SHARED)
"""Tables of a cell that the grid is made of."""
FACTS = ("compared", "models", "corpus")
"""What all cells have in common, of their run.json."""
DIRECTION = ["model", "best_model"]


def run_grid(
    recipe: Recipe,
    out: Path,
    progress: Progress,
    *,
    ray: str | None = None,
    threads: int | None = None,
) -> Path:
    """Run every cell of a recipe with a [grid] below `out`, or go on there; the page's index.html.

    ray, threads, errors: as for `run_study`, whose errors of a single cell are kept in run.json.
    RuntimeError where all cells failed.
    """
    cells = cells_of(recipe)
    if not (out / "run.json").exists():  # what is wrong is then said before a folder is made
        check_study(cells[0].recipe, progress)
        say_plan(recipe, out, progress, pace_heard(recipe, progress, threads))
    run = RunFolder.open(out, recipe.values())
    try:
        run.note(name=recipe.name, device=recipe.run.device)
        made = []
        for number, cell in enumerate(cells):
            stage, folder = f"cell {cell.name}", run.cell_folder(cell.name)
            if not run.is_done(stage) or finished_report(cell.recipe, folder) is None:
                progress.note(f"Cell {number + 1} of {len(cells)}: {cell.name}.")
                outputs = [Places(folder).table(table) for table in READ]
                with by_itself(run, stage, progress), run.stage(stage, outputs):
                    options = {"ray": ray, "threads": threads, "told": True}
                    run_study(cell.recipe, folder, progress, **options)
            if stage not in run.record.get("failed", {}):
                made.append(cell)
        if not made:
            first = next(iter(run.record["failed"].values()))["error"]
            raise RuntimeError(f"no cell of the grid succeeded; the first failed with: {first}")
        _write_table(run, made)
        return finish(run, progress)
    finally:
        run.close()


def _write_table(run: RunFolder, made: list[Cell]) -> None:
    """The table of these cells, and what it says in words; nothing where it is there already."""
    files = [Places(run.cell_folder(cell.name)).table(table) for cell in made for table in READ]
    of = sha256_bytes(*(f"{file.relative_to(run.path)} {run.checksum(file)}" for file in files))
    if run.is_done("grid") and run.facts("grid").get("of") == of:
        return
    with run.stage("grid", [run.table(GRID)]) as facts:
        rows = pl.concat([rows_of(cell.name, run.cell_folder(cell.name)) for cell in made])
        GRID.write(rows, run.table(GRID))
        facts["of"] = of
    first = RunFolder(run.cell_folder(made[0].name)).record
    run.note(verdicts=list(in_words(rows)), **{name: first[name] for name in FACTS})


def rows_of(name: str, folder: Path) -> pl.DataFrame:
    """The rows of `GRID` of the cell `name`, whose run is in `folder`."""
    matches, saes, shared = (table.read(Places(folder).table(table)) for table in READ)
    quality = (
        saes.filter(label=MAIN_LABEL)
        .group_by("model")
        .agg(
            pl.col("kind", "d_sae", "sparsity").first(),
            pl.col("l0", "explained_variance").mean(),
        )
    )
    seeds = saes.group_by(best_model="model").agg(n_seeds=pl.col("label").n_unique())
    alive = matches.filter(pl.col("n_active") > 0, comparison=MAIN.name)
    measured = pl.col("stable").is_not_null().any()
    back = alive.group_by(DIRECTION).agg(
        share_back=pl.when(measured).then(pl.col("stable").fill_null(False).mean())
    )
    joined = (
        shared.join(quality, on="model", how="left", maintain_order="left")
        .join(seeds, on="best_model", how="left", maintain_order="left")
        .join(back, on=DIRECTION, how="left", maintain_order="left")
        .with_columns(cell=pl.lit(name))
    )
    return GRID.frame(joined.select(list(GRID.columns)))


def in_words(rows: pl.DataFrame) -> Iterable[dict[str, Any]]:
    """For each direction, between what its verdict lies over the cells."""
    for (model, other), own in rows.group_by(DIRECTION, maintain_order=True):
        given = own.filter("given")
        cells = f"{len(own)} cell{'s' if len(own) > 1 else ''}"
        words = f"No verdict on {model} in {other} in any of {cells}."
        if len(given):
            if len(given) < len(own):
                cells = f"{len(given)} of {cells}, the others without a verdict"
            words = f"{_between(given['share'])} of the features of {model} have a homolog in "
            words += f"{other}, over {cells}"
            known = given.filter(pl.col("ceiling") > 0)
            if len(known):
                words += f"; of the ceiling it is {_between(known['share'] / known['ceiling'])}"
            words += "."
        yield {"model": model, "best_model": other, "words": words}


def _between(shares: pl.Series) -> str:
    low, high = percent(shares.min()), percent(shares.max())
    return low if low == high else f"{low} to {high}"
