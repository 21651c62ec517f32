"""Does one dictionary over both models find the same features shared, and the same ones alone?"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import polars as pl

from homolog.analyses.analysis import Analysis, Unit, each_direction
from homolog.analyses.material import Material
from homolog.analyses.records import PairRecords
from homolog.analyses.work import Work
from homolog.charts.shown_table import Cells, ShownTable
from homolog.charts.words import number
from homolog.record.tables import (
    CROSSCODER_FEATURES,
    CROSSCODER_LATENTS,
    CROSSCODERS,
    LAYERS,
    MATCHES,
)
from homolog.record.tables.crosscoder import OF_ALL

FOLLOWS = 0.7
"""Correlation from which a feature follows a latent."""
SECONDS = 6e-9  # a row and a latent of a joined stream of 1,024 dimensions, in a step


def each_pair(material: Material) -> list[Unit]:
    """A task for every two models that are compared, by their names."""
    return sorted({(min(pair), max(pair)) for pair in each_direction(material)})


def values(records: PairRecords) -> Mapping[str, Any] | None:
    """What the template is filled with; None where there is no crosscoder."""
    rows = records.table(CROSSCODERS)
    if rows.is_empty():
        return None
    return {
        "crosscoder": rows.row(0, named=True),
        "follows": FOLLOWS,
        "classes": class_table(records),
        "verdicts": agreement_table(records),
    }


def class_table(records: PairRecords) -> ShownTable:
    """How many active latents each model has alone, and both."""
    latents = records.table(CROSSCODER_LATENTS).filter(pl.col("n_active") > 0)
    rows = [
        {"owner": owner, "n": len(latents.filter(owner=owner)), "by_norm": by_norm}
        for owner in (OF_ALL, *records.pair)
        for by_norm in [len(latents.filter(by_norm=owner))]
    ]
    cells: Cells = {
        "Latents": lambda row: row["owner"] if row["owner"] == OF_ALL else f"{row['owner']} alone",
        "By decoder norms": lambda row: f"{row['by_norm']:,}",
        "After latent scaling": lambda row: f"{row['n']:,}",
    }
    return ShownTable.of("Active latents by the models that have them", cells, rows, numeric=(1, 2))


def agreement(features: pl.DataFrame, models: tuple[str, ...]) -> list[dict[str, Any]]:
    """For each model, and its features with and without a homolog: how many there are with a
    verdict, how many of them follow a latent, and the share of these whose latent is shared.
    """
    known = features.filter(pl.col("homolog").is_not_null() & pl.col("r").is_not_nan())
    rows = []
    for model in models:
        for homolog in (True, False):
            own = known.filter(model=model, homolog=homolog)
            follows = own.filter(pl.col("r") >= FOLLOWS)
            shared = len(follows.filter(owner=OF_ALL)) / len(follows) if len(follows) else None
            counts = {"n": len(own), "n_follows": len(follows), "shared": shared}
            rows.append({"model": model, "homolog": homolog} | counts)
    return rows


def agreement_table(records: PairRecords) -> ShownTable:
    """What the latents say of features with a homolog and of others."""
    rows = agreement(records.table(CROSSCODER_FEATURES), records.pair)
    cells: Cells = {
        "Features": lambda row: (
            f"{row['model']}, {'with' if row['homolog'] else 'without'} a homolog"
        ),
        "Judged": lambda row: f"{row['n']:,}",
        "Follow a latent": lambda row: f"{row['n_follows']:,}",
        "Of these, a shared one": lambda row: number(row["shared"]) if row["n_follows"] else "",
    }
    caption = "The study's verdict, and the latents that its features follow"
    return ShownTable.of(caption, cells, rows, numeric=(1, 2, 3))


def _seconds(work: Work) -> float:
    asked = work.recipe.crosscoder
    assert asked is not None
    steps = asked.tokens * asked.epochs * asked.d_sae * SECONDS * work.shared
    return work.n_directions / 2 * steps + work.read(asked.tokens + work.recipe.corpus.match_tokens)


ANALYSIS = Analysis(
    name="crosscoder",
    title="train crosscoders",
    tables=(CROSSCODERS, CROSSCODER_LATENTS, CROSSCODER_FEATURES),
    reads=(LAYERS,),
    joins=(MATCHES,),
    wanted=lambda recipe: getattr(recipe, "crosscoder", None) is not None,
    units=each_pair,
    measure="homolog.analyses.crosscoder.measure:measure_pair",
    finish="homolog.analyses.crosscoder.measure:with_verdicts",
    seconds=_seconds,
    chapter="Crosscoder",
    asks="Does one dictionary over both models find the same features shared?",
    values=values,
)
