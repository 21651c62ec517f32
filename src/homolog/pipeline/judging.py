"""A run judged anew: what other gates, margins or rates change, from what the run has kept.

    gates                dictionaries are held to them whenever tables are written, by the numbers
                         that their stage recorded
    fdr                  another threshold, from the null that calibrated comparisons keep
    resamples            another summary, from the features
    margin, credits,     homologs and verdicts alone, which are made with the tables
    gap, rivals,
    least documents

Where the cache with a comparison's parts of the tables has been removed, they are cut out of the
tables of the run, which have all of their rows in their order.  A stage says in its facts what it
was made `by`; one that says nothing was made by what the run began with.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl

from homolog.dictionaries import Quality
from homolog.dictionaries.quality import hold_to_gates
from homolog.matching.layers import with_threshold
from homolog.matching.tables import MATCHES as OWN
from homolog.record.comparisons import Planned
from homolog.record.parts import read_part, write_part
from homolog.record.recipe import Gates, Recipe
from homolog.record.run_folder import RunFolder
from homolog.record.run_record import judging_settings
from homolog.record.table import Table
from homolog.record.tables import LAYERS, MATCHES, SUMMARY

OF_PARTS = ("matching.fdr", "matching.resamples")
"""Settings that a comparison's own parts of the tables depend on."""
NULL = "null of the maximum"
Frames = dict[Table, pl.DataFrame]
PARTS = {MATCHES: list(OWN), LAYERS: list(LAYERS.schema), SUMMARY: list(SUMMARY.schema)}
"""Tables that every comparison has a part of, with the columns that it makes itself."""


def judged_by(recipe: Recipe, only: Iterable[str] = ()) -> dict[str, Any]:
    """What a recipe judges by, by key; only: some of it."""
    settings = judging_settings(recipe.values())
    return {key: settings[key] for key in only or settings}


def made_by(run: RunFolder, stage: str) -> dict[str, Any]:
    """What a stage that is done was judged by; of all settings where it does not say which."""
    began = judging_settings(run.recipe)
    for entry in reversed(run.record.get("judged", [])):
        began |= {key: value for key, value in entry["was"].items() if key in began}
    return run.facts(stage).get("by", began)


def is_judged(run: RunFolder, stage: str, recipe: Recipe, only: Iterable[str] = ()) -> bool:
    """Whether a stage that is done was judged by this recipe; only: by some of its settings."""
    made = made_by(run, stage)
    return all(made.get(key) == value for key, value in judged_by(recipe, only).items())


def in_words(run: RunFolder) -> str:
    """What was changed when the run was last judged anew; "" while it is as it began."""
    judged = run.record.get("judged")
    if not judged:
        return ""
    now = judging_settings(run.recipe) | {"name": run.recipe.get("name")}
    was = judged[-1]["was"].items()
    changed = [f"{key} ({before!r} before, {now.get(key)!r} now)" for key, before in was]
    return f"Judged anew: {', '.join(changed)}."


def held(row: dict[str, Any], gates: Gates) -> dict[str, Any]:
    """A row of the table `saes` held to these gates."""
    quality = hold_to_gates(Quality.from_row(row), gates, row["d_sae"])
    return row | {"passed": quality.passed, "reason": quality.reason}


def cut_out(run: RunFolder, plan: Planned) -> Frames | None:
    """A comparison's parts of the run's tables; None where they have no rows of it.

    Both directions are chunks of their own, as `tables_of` makes them: chunks decide bytes.
    """
    a, b = ((side.model.name, side.label) for side in (plan.a, plan.b))
    names = ("model", "label", "best_model", "best_label")
    parts: Frames = {}
    for table, columns in PARTS.items():
        rows = table.scan(run.table(table)).select(columns)
        rows = rows.filter(comparison=plan.comparison.name).collect()
        one_way, back = (
            rows.filter(**dict(zip(names, sides, strict=True))).rechunk()
            for sides in ((*a, *b), (*b, *a))
        )
        parts[table] = pl.concat([one_way, back])
    return parts if len(parts[MATCHES]) else None


@dataclass(frozen=True)
class KeptNull:
    """The null of a comparison, which is kept when the cache is removed.

    draws: None where the comparison is not calibrated, and has neither null nor threshold.
    """

    path: Path
    draws: np.ndarray | None = None
    n_tokens: int = 0

    def write(self) -> None:
        """As a part."""
        assert self.draws is not None, self.path
        arrays = {"draws": self.draws, "n_tokens": np.array(self.n_tokens)}
        write_part(self.path, arrays, f"{NULL} {self.path.stem}")

    @classmethod
    def of(cls, run: RunFolder, plan: Planned) -> KeptNull | None:
        """That of a comparison in a run; None where it should be there, and is missing or damaged.

        It is what judging the comparison anew needs beside its tables.
        """
        path = run.null_file(plan.key)
        if not plan.comparison.calibrated:
            return cls(path)
        arrays = read_part(path, f"{NULL} {path.stem}")
        return None if arrays is None else cls(path, arrays["draws"], int(arrays["n_tokens"]))

    def threshold(self, matches: pl.DataFrame, fdr: float) -> pl.DataFrame:
        """The matches with the threshold of this rate."""
        if self.draws is None:
            return matches
        return with_threshold(matches, self.draws, n_tokens=self.n_tokens, fdr=fdr)
