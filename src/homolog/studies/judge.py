"""From the tables of all comparisons to the verdicts: stability, homologs, shares with intervals."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import polars as pl

from homolog.features import StoredFeatures, open_features
from homolog.matching import Columns, Resamples, replicates_of
from homolog.matching.stability import STABILITY_SCHEMA, with_stability
from homolog.matching.verdict import SHARED_SCHEMA, Direction, rows_of, verdict
from homolog.studies.plan import Comparison, Plan
from homolog.studies.recipe import Recipe


def judged(
    recipe: Recipe,
    plan: Plan,
    matches: pl.DataFrame,
    saes: pl.DataFrame,
    folders_of: Callable[[Comparison, str], list[Path]],
    columns: Callable[[StoredFeatures], Columns],
) -> dict[str, pl.DataFrame]:
    """The table `matches` with stability and homologs, and the table `shared`, one row an ordered pair of models.

    folders_of: the features of a side of a comparison.  columns: their prepared columns.
    """
    matches = _with_stability(matches).with_columns(homolog=pl.lit(None, pl.Boolean))
    place = matches.with_row_index("place")
    homolog = np.full(len(matches), None)
    records = []
    for comparison in plan.comparisons:
        if comparison.name != "main":
            continue
        sides = [[open_features(folder) for folder in folders_of(comparison, side)] for side in ("a", "b")]
        resamples = Resamples.draw(sides[0][0].document, recipe.matching.resamples, recipe.run.seed)
        for own, others in (sides, sides[::-1]):
            names = (own[0].name, others[0].name)
            direction, controls = direction_of(plan, *names), controls_of(plan, *names)
            rows = rows_of(place, direction)
            replicates = replicates_of(rows, own, others, resamples, columns)
            highest = np.full_like(replicates, np.nan)
            for control in controls:
                there = [open_features(folder) for folder in folders_of(control, "b")]
                found = rows_of(place, direction, (control.name, control.name_b))
                assert found.select("layer", "feature").equals(rows.select("layer", "feature"))
                np.fmax(highest, replicates_of(found, own, there, resamples, columns), out=highest)
            made, judged_rows = verdict(
                matches, direction, replicates, highest, saes,
                fdr=recipe.matching.fdr, homolog_r=recipe.matching.homolog_r,
            )  # fmt: skip
            homolog[rows["place"].to_numpy()] = judged_rows
            records.append(made.as_record())
    return {
        "matches": matches.with_columns(homolog=pl.Series(homolog.tolist(), dtype=pl.Boolean)),
        "shared": pl.DataFrame(records, schema=SHARED_SCHEMA),
    }


def _with_stability(matches: pl.DataFrame) -> pl.DataFrame:
    """The rows of the main comparisons, which come first, with their stability, then all others, unmeasured."""
    of = {name: matches.filter(pl.col("comparison") == name) for name in ("main", "main-seed", "sae-seed")}
    main = with_stability(of["main"], of["main-seed"], of["sae-seed"])
    rest = matches.filter(pl.col("comparison") != "main")
    unmeasured = {"other_seed_r": float("nan"), "stable": None}
    rest = rest.with_columns(pl.lit(unmeasured[name], kind).alias(name) for name, kind in STABILITY_SCHEMA.items())
    return pl.concat([main, rest])


def direction_of(plan: Plan, model: str, best_model: str) -> Direction:
    """A direction with the controls that the plan runs for it."""
    controls = [(control.name, control.name_b) for control in controls_of(plan, model, best_model)]
    second = [c.name_b for c in plan.comparisons if c.name == "sae-seed" and c.a.name == model]
    return Direction(model, best_model, controls, second[0] if second else None)


def controls_of(plan: Plan, model: str, best_model: str) -> list[Comparison]:
    """The comparisons that show what the features of `model` find where `best_model` has not learned to compute."""

    def holds(c: Comparison) -> bool:
        twin = c.name == "random-model" and c.b == plan.twins.get(best_model)
        return twin or (c.name == "rotated" and c.b.name == best_model) or c.name == "tokens"

    return [c for c in plan.comparisons if c.a.name == model and holds(c)]
