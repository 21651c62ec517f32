"""The circuits of a run, as figures and sections read them: of induction four tables, checked.

A model that cannot do the task has a row in `circuits` and none elsewhere.  A run of other tasks
has those of discovery alone.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

import polars as pl

from homolog.analyses.induction.words import CORRUPTION_WORDS, SHOWN_METRICS, place_of
from homolog.analyses.records import Records, Row, run_of
from homolog.charts.words import is_number
from homolog.errors import InputError
from homolog.record.circuits import LOGIT_DIFFERENCE, SHIFT_PREFIX
from homolog.record.names import listed
from homolog.record.run_folder import RunFolder
from homolog.record.table import Table
from homolog.record.tables import (
    CIRCUITS,
    DISCOVERIES,
    EFFECTS,
    HIDDEN_ATTENTION,
    OFFSETS,
    ROLES,
    TASK_CIRCUITS,
)
from homolog.record.tables.circuits import SHIFT_COLUMNS

TABLES = (CIRCUITS, EFFECTS, ROLES, OFFSETS)
"""Without these there is no page of circuits."""


@dataclass(frozen=True)
class CircuitRecords(Records):
    """What the page of the circuits says comes from here.  Models stand as in `circuits`."""

    @cached_property
    def circuits(self) -> Sequence[Row]:
        """The rows of the table of that name."""
        return self.table(CIRCUITS).to_dicts()

    @cached_property
    def roles(self) -> Sequence[Row]:
        """The rows of the table of that name."""
        return self.table(ROLES).to_dicts()

    @cached_property
    def attention(self) -> Sequence[Row]:
        """The rows of `hidden_attention`; none of a run from before there was such a table."""
        return self.table(HIDDEN_ATTENTION).to_dicts()

    @cached_property
    def found_again(self) -> dict[str, tuple[int, int]]:
        """By model, parts that discovery found again, and those that path patching named."""
        columns = pl.col("n_found", "n_named").sum()
        rows = self.table(DISCOVERIES).group_by("model", maintain_order=True).agg(columns)
        return {model: (found, named) for model, found, named in rows.iter_rows()}

    @property
    def names(self) -> tuple[str, ...]:
        """The models that the page is about."""
        rows = self.circuits or self.table(TASK_CIRCUITS).iter_rows(named=True)
        return tuple(dict.fromkeys(row["model"] for row in rows))

    @property
    def able(self) -> list[str]:
        """Models that do the task, and so have a circuit."""
        return [row["model"] for row in self.circuits if row["able"]]

    def about(self, model: str) -> Row:
        """The row of `circuits`."""
        return next(row for row in self.circuits if row["model"] == model)

    def shifts(self, model: str) -> list[Row]:
        """What the Off-by-One test says of a model: of B, and of A where it was asked.

        model, token, and the columns of the verdict without a prefix.
        """
        row = self.about(model)
        rows = [
            {"model": model, "token": token}
            | {name: row[f"{prefix}{name}"] for name in SHIFT_COLUMNS}
            for token, prefix in SHIFT_PREFIX.items()
        ]
        return [shift for shift in rows if shift["verdict"] is not None]

    def parts(self, model: str, role: str) -> list[Row]:
        """The rows of `roles` of a model and role: the strongest first."""
        return [part for part in self.roles if (part["model"], part["role"]) == (model, role)]

    @cached_property
    def patches(self) -> Sequence[Row]:
        """The rows of `effects`, one per patch.

        The change of each metric of `SHOWN_METRICS` is in columns METRIC, METRIC_lo and METRIC_hi.
        """
        of_patch = ["model", "experiment", "corruption", "sender", "receiver", "position", "offset"]
        changes = [
            pl.col(f"change{end}").filter(metric=metric).first().alias(f"{metric}{end}")
            for metric in SHOWN_METRICS
            for end in ("", "_lo", "_hi")
        ]
        effects = self.table(EFFECTS).group_by(of_patch, maintain_order=True)
        return effects.agg(changes).to_dicts()

    def experiment(self, *names: str) -> list[Row]:
        """The patches of these experiments in the order of the page: by model, then as named."""
        chosen = [patch for patch in self.patches if patch["experiment"] in names]
        return self.in_order(sorted(chosen, key=lambda patch: names.index(patch["experiment"])))

    def in_order(self, rows: Iterable[Row]) -> list[Row]:
        """Rows by model, those of a model by corruption, telling ones first; else as they are."""
        corruptions, models = list(CORRUPTION_WORDS), self.names

        def place(row: Row) -> tuple[int, int]:
            known = row["corruption"] in corruptions
            at = corruptions.index(row["corruption"]) if known else len(corruptions)
            return models.index(row["model"]), at

        return sorted(rows, key=place)

    def patch(self, part: Row) -> Row | None:
        """The patch that shows a part; None where there is none.

        It is the first one with the same change of a sender of the same place, so that no
        experiment needs a rule.
        """
        place = (part["model"], place_of(part["component"]), part["change"], part["change_lo"])
        return self._patch_of.get(place)

    @cached_property
    def _patch_of(self) -> dict[tuple[object, ...], Row]:
        change = (LOGIT_DIFFERENCE, f"{LOGIT_DIFFERENCE}_lo")
        return {
            (patch["model"], place_of(patch["sender"]), *(patch[end] for end in change)): patch
            for patch in reversed(self.patches)
        }


def by_change(patches: Iterable[Row], metric: str = LOGIT_DIFFERENCE) -> list[Row]:
    """The largest drop first; undefined changes last."""
    return sorted(patches, key=lambda row: row[metric] if is_number(row[metric]) else math.inf)


def grouped(rows: Iterable[Row], *columns: str) -> dict[tuple[str, ...], list[Row]]:
    """Rows by their values in some columns, in the order in which these come."""
    groups: dict[tuple[str, ...], list[Row]] = {}
    for row in rows:
        groups.setdefault(tuple(row[column] for column in columns), []).append(row)
    return groups


def read_circuits(path: Path | str) -> CircuitRecords | None:
    """The circuits of the run folder at `path`; None where it has none.

    InputError where run.json or some of the tables are missing or unreadable, or do not fit
    together.
    """
    folder = RunFolder(Path(path))
    missing = [table.file for table in TABLES if not folder.table(table.name).is_file()]
    records = CircuitRecords(Path(path), run_of(folder))
    if len(missing) == len(TABLES):
        return records if records.has(TASK_CIRCUITS) else None
    if missing:
        lack = f"the report of circuits needs all of their tables, and it lacks {listed(missing)}"
        remedy = "Finish the run first: give the same command the same --out again."
        raise InputError("run folder", str(path), lack, remedy)
    models = [row["model"] for row in records.circuits]
    if not models or len(set(models)) < len(models):
        raise _damaged(folder, CIRCUITS, "it has one row per model")
    for table in TABLES:
        if strangers := set(records.table(table)["model"]) - set(records.names):
            own = f"its models are those of {CIRCUITS.file}, not {listed(sorted(strangers))}"
            raise _damaged(folder, table, own)
    return records


def _damaged(folder: RunFolder, table: Table, requirement: str) -> InputError:
    remedy = "It is damaged, or comes from another version: run again into a new --out."
    return InputError("table", str(folder.table(table.name)), requirement, remedy)
