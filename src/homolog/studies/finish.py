"""What every study does with what it found: tables, then the report, and nothing left in the cache."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import polars as pl

from homolog.dictionaries import Quality, SparseAutoencoder
from homolog.progress import Progress
from homolog.report import write_report
from homolog.storage.atomic import atomic_path
from homolog.storage.run_folder import RunFolder


def finish(run: RunFolder, progress: Progress) -> Path:
    """Write the report of a run whose tables are complete, unless it is there; returns its index.html."""
    run.drop_cache()  # first, since nobody asks again when the report is done
    if not run.is_done("report"):
        with run.stage("report", [run.report_folder]), progress.stage("write the report"):
            write_report(run.path)
    return run.report_folder / "index.html"


def write_table(frame: pl.DataFrame, path: Path) -> None:
    """Write a table so that it appears under its name only when complete."""
    with atomic_path(path) as partial:
        frame.write_parquet(partial)


def quality_row(
    name: str, label: str, layer: int, sae: SparseAutoencoder, sparsity: float | None, quality: Quality
) -> dict[str, Any]:
    """A dictionary's row of the table `saes`: what it is, and its quality; undefined numbers are None."""
    row = {"model": name, "label": label, "layer": layer, "kind": sae.kind, "d_sae": sae.d_sae, "sparsity": sparsity,
           "tokens_trained": sae.metadata.get("tokens_trained")}  # fmt: skip
    measured = row | quality.as_table_row()
    return {k: None if isinstance(v, float) and math.isnan(v) else v for k, v in measured.items()}
