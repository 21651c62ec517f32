"""What every study does with what it found: tables, then the report, and nothing left in the cache."""

from __future__ import annotations

from pathlib import Path

import polars as pl

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
