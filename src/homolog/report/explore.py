"""The explorer of a run: its tables put together for `report.explorer`."""

from __future__ import annotations

import json
from pathlib import Path

import polars as pl

from homolog.analyses.records import StudyRecords
from homolog.charts.links import FOLDER
from homolog.record.run_folder import RunFolder
from homolog.report.explorer import write_explorer

FEATURE = ["model", "layer", "feature"]


def explore(records: StudyRecords, report: Path) -> None:
    """Write the explorer into the report's folder, if the run has examples of its features."""
    if not records.explored:
        return
    run = RunFolder(records.path)
    features = pl.read_parquet(run.table("features"))
    for extra in (_judged(run), _causal(run), _exclusive(run)):
        if extra is not None:
            features = features.join(
                extra, on=FEATURE, how="left", maintain_order="left", validate="1:1"
            )

    def read(file: Path) -> pl.DataFrame | None:
        return pl.read_parquet(file) if file.is_file() else None

    depth = features.group_by("model").agg(pl.col("layer").max() + 1)
    n_layers = dict(depth.iter_rows())
    write_explorer(
        report / FOLDER,
        features,
        pl.read_parquet(run.matches).filter(pl.col("comparison") == "main"),
        lambda model, layer: read(run.contexts(model, layer)),
        json.loads(run.vocabulary.read_text("utf-8")),
        {model: int(n_layers[model]) for model in records.compared},
        lambda model, layer: read(run.scatter(model, layer)),
        name=records.name,
    )


def _judged(run: RunFolder) -> pl.DataFrame | None:
    """What a language model said of some features."""
    file = run.table("judged")
    columns = ("explanation", "complexity", "consistency_judged", "detection")
    return pl.read_parquet(file).select(*FEATURE, *columns) if file.is_file() else None


def _causal(run: RunFolder) -> pl.DataFrame | None:
    """Agreement of a feature's effect with that of its partner, where it was taken out."""
    file = run.table("causal")
    if not file.is_file():
        return None
    return (
        pl.read_parquet(file)
        .filter("matched")
        .group_by(FEATURE, maintain_order=True)
        .agg(causal_r=pl.col("ablate_r").fill_nan(None).mean().cast(pl.Float32))
    )


def _exclusive(run: RunFolder) -> pl.DataFrame | None:
    """How much of a feature all features of another model predict."""
    file = run.table("lists")
    if not file.is_file():
        return None
    found = pl.read_parquet(file).filter(pl.col("list") == "exclusive")
    return found.group_by(FEATURE, maintain_order=True).agg(pl.col("exclusive_r2").max())
