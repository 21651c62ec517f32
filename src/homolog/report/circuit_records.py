"""The circuits of a run, as the report reads them: five parquet tables, checked and typed.

    circuits   one row a model: what it can do, its key component, faithfulness, the Off-by-One verdict
    effects    one row a patch and metric: mean over prompts, with the interval of the change
    roles      one row a part of a circuit
    offsets    one row a place and offset of the Off-by-One test
    edges      one row an edge of discovery; those patched for real have an effect

A model that cannot do the task has a row in `circuits` and none elsewhere.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import polars as pl

from homolog.analyses.records import read_table, run_of
from homolog.errors import InputError
from homolog.record.run_folder import RunFolder

Row = Mapping[str, Any]
Schema = Mapping[str, type[pl.DataType]]

CARRIER, MATCHER, COPIER = "previous-token carrier", "matcher", "copier"
ROLES = (CARRIER, MATCHER, COPIER)
"""In the order of every table and figure: the way of the information."""

METRICS = ("logit_difference", "probability", "kl", "logit")
CORRUPTIONS = ("replace_B", "replace_A")  # of discovery

_TEXT, _NUMBER, _WHOLE = pl.String, pl.Float64, pl.Int64
_OWN: Schema = {"model": _TEXT, "architecture": _TEXT}
REQUIRED: Mapping[str, Schema] = {
    "circuits": {
        **_OWN,
        "n_layers": _WHOLE,
        "task": _TEXT,
        "preferred": _NUMBER,
        "accuracy": _NUMBER,
        "probability": _NUMBER,
        "logit_difference": _NUMBER,
        "able": pl.Boolean,
        "reason": _TEXT,
    },
    "effects": {
        **_OWN,
        "experiment": _TEXT,
        "corruption": _TEXT,
        "sender": _TEXT,
        "receiver": _TEXT,
        "metric": _TEXT,
        "clean": _NUMBER,
        "patched": _NUMBER,
        "change": _NUMBER,
        "change_lo": _NUMBER,
        "change_hi": _NUMBER,
        "n_prompts": _WHOLE,
    },
    "roles": {
        **_OWN,
        "role": _TEXT,
        "component": _TEXT,
        "evidence": _TEXT,
        "change": _NUMBER,
        "change_lo": _NUMBER,
        "change_hi": _NUMBER,
        "share": _NUMBER,
    },
    "offsets": {
        **_OWN,
        "place": _TEXT,
        "offset": _WHOLE,
        "effect": _NUMBER,
        "effect_lo": _NUMBER,
        "effect_hi": _NUMBER,
        "predicted_share": _NUMBER,
        "null": _NUMBER,
        "null_lo": _NUMBER,
        "null_hi": _NUMBER,
    },
    "edges": {
        **_OWN,
        "corruption": _TEXT,
        "sender": _TEXT,
        "receiver": _TEXT,
        "position": _TEXT,
        "score": _NUMBER,
        "effect": _NUMBER,
        "effect_low": _NUMBER,
        "effect_high": _NUMBER,
        "chosen_as": _TEXT,
    },
}
_FOUND: Schema = {
    "key": _TEXT,
    "faithfulness": _NUMBER,
    "faithfulness_lo": _NUMBER,
    "faithfulness_hi": _NUMBER,
    "verdict": _TEXT,
    "offset": _WHOLE,
    "certainty": _NUMBER,
    "centre": _NUMBER,
    "centre_lo": _NUMBER,
    "centre_hi": _NUMBER,
    "predicted_offset": _WHOLE,
    "discovery_recall": _NUMBER,
    **{
        f"{c}_{s}_{e}": _NUMBER
        for c in CORRUPTIONS
        for s in ("pearson", "spearman")
        for e in ("top", "random", "all")
    },
}
OPTIONAL: Mapping[str, Schema] = {
    "circuits": _FOUND,  # what only a model that does the task has
    "effects": {"position": _TEXT, "offset": _WHOLE},
    "edges": {"sender_layer": _WHOLE, "receiver_layer": _WHOLE, "tap": _WHOLE},
}


@dataclass(frozen=True)
class CircuitRecords:
    """What the report says of circuits comes from here.

    run: the contents of run.json; circuits, effects, roles, offsets, edges: the tables of that
    name.  Models stand in the order of `circuits`.
    """

    path: Path
    run: Mapping[str, Any]
    circuits: pl.DataFrame
    effects: pl.DataFrame
    roles: pl.DataFrame
    offsets: pl.DataFrame
    edges: pl.DataFrame

    @property
    def name(self) -> str:
        return str(self.run.get("name") or self.path.name)

    @property
    def models(self) -> list[str]:
        return self.circuits.get_column("model").to_list()

    @property
    def able(self) -> list[str]:
        """Models that do the task, and so have a circuit."""
        return self.circuits.filter("able").get_column("model").to_list()

    @property
    def settings(self) -> Mapping[str, Any]:
        """The table [circuits] of the recipe; empty when run.json has none."""
        recipe = self.run.get("recipe")
        found = recipe.get("circuits") if isinstance(recipe, Mapping) else None
        return found if isinstance(found, Mapping) else {}

    def about(self, model: str) -> Row:
        """The row of `circuits`."""
        return self.circuits.row(by_predicate=pl.col("model") == model, named=True)

    def parts(self, model: str, role: str) -> list[Row]:
        """The rows of `roles` of a model and role, in the table's order: the strongest first."""
        return list(
            self.roles.filter((pl.col("model") == model) & (pl.col("role") == role)).iter_rows(
                named=True
            )
        )

    def experiment(self, name: str, **where: str) -> pl.DataFrame:
        """One row a patch of that experiment: the metrics' changes as columns METRIC, METRIC_lo and
        METRIC_hi.
        """
        return wide(self.effects.filter(pl.col("experiment") == name, **where))

    def effects_like(self, start: str) -> pl.DataFrame:
        """The same for all experiments whose names start so."""
        return wide(self.effects.filter(pl.col("experiment").str.starts_with(start)))

    def patch(self, part: Row) -> Row | None:
        """The patch that shows a part: its row of `effects` with one column a metric; None where
        there is none.

        It is the first one with the same change of a sender of the same place, so that no
        experiment needs a rule.
        """
        return self._patches.get(
            (part["model"], place_of(part["component"]), part["change"], part["change_lo"])
        )

    @cached_property
    def _patches(self) -> dict[tuple[Any, ...], Row]:
        found: dict[tuple[Any, ...], Row] = {}
        for row in wide(self.effects).to_dicts():
            key = (
                row["model"],
                place_of(row["sender"]),
                row["logit_difference"],
                row["logit_difference_lo"],
            )
            found.setdefault(key, row)
        return found


def wide(effects: pl.DataFrame) -> pl.DataFrame:
    """One row a patch, in the table's order: change, and its interval, of each metric of `METRICS`
    as columns.
    """
    keys = [
        "model",
        "architecture",
        "experiment",
        "corruption",
        "sender",
        "receiver",
        "position",
        "offset",
    ]
    parts = []
    for metric in METRICS:
        columns = [pl.col(f"change{end}").alias(f"{metric}{end}") for end in ("", "_lo", "_hi")]
        parts.append(effects.filter(pl.col("metric") == metric).select(*keys, *columns))
    first = effects.unique(keys, keep="first", maintain_order=True).select(*keys, "n_prompts")
    for part in parts:
        first = first.join(part, on=keys, how="left", nulls_equal=True, maintain_order="left")
    return first


def read_circuits(path: Path | str) -> CircuitRecords | None:
    """Read the circuit tables of the run folder at `path`; None when it has none.

    Raises `InputError` when run.json or some of the tables are missing or unreadable, or a table
    lacks a column.
    """
    folder = RunFolder(Path(path))
    files = {name: folder.table(name) for name in REQUIRED}
    missing = [file.name for file in files.values() if not file.is_file()]
    if len(missing) == len(files):
        return None
    if missing:
        raise InputError(
            "run folder",
            str(path),
            "the report of circuits needs all of their tables, and these are missing: "
            f"{', '.join(missing)}",
            "Finish the run first: give the same command the same --out again.",
        )
    tables = {name: _typed(file, name) for name, file in files.items()}
    models = tables["circuits"].get_column("model")
    if models.is_empty() or models.n_unique() < len(models):
        raise _damaged(files["circuits"], "it has one row a model")
    for name, table in tables.items():
        strangers = set(table.get_column("model").to_list()) - set(models.to_list())
        if strangers:
            raise _damaged(
                files[name],
                f"its models are those of circuits.parquet, not {', '.join(sorted(strangers))}",
            )
    return CircuitRecords(Path(path), run_of(folder), **tables)


def _typed(file: Path, name: str) -> pl.DataFrame:
    """The table with all its columns in their types; those that may be absent are null then."""
    required, optional = REQUIRED[name], OPTIONAL.get(name, {})
    table = read_table(file, ())
    if not table.width and name != "circuits":  # no model could do the task
        return pl.DataFrame(schema={**required, **optional})
    table = read_table(file, tuple(required))
    try:
        return table.with_columns(
            *(pl.col(column).cast(kind) for column, kind in required.items()),
            *(
                _optional(table, column).cast(kind).alias(column)
                for column, kind in optional.items()
            ),
        )
    except pl.exceptions.PolarsError as error:
        raise _damaged(file, f"its columns have their types ({error})") from error


def _optional(table: pl.DataFrame, column: str) -> pl.Expr:
    return pl.col(column) if column in table.columns else pl.lit(None)


def _damaged(file: Path, requirement: str) -> InputError:
    return InputError(
        "table",
        str(file),
        requirement,
        "It is damaged, or comes from another version: run again into a new --out.",
    )


def place_of(component: str) -> tuple[int, ...]:
    """Layer, and head where there is one, of a component's name: (2, 3) of "z.2.3@A+1", (5,) of
    "state.5".
    """
    return tuple(int(part) for part in component.split(" ")[0].split("@")[0].split(".")[1:])


def in_sequence(labels: Iterable[str]) -> list[str]:
    """Position labels in the order of the prompt, "all" last; A stands right before B."""
    return sorted(dict.fromkeys(labels), key=_place)


def _place(label: str) -> tuple[int, str]:
    name, shift = (label[:1], label[1:] or "0")
    if name not in "AB" or not shift.lstrip("+-").isdigit():
        return 1000, label
    return int(shift) - (name == "A"), label
