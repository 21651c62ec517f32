"""The records of a run, as the report reads them: run.json and four parquet tables, checked and typed.

Two things are added to the tables.  `side` says whose features a row is about: "A" or "B" for the two models
of the pair, null for rows about another model's features (a control read backwards); figures show sides A
and B, the tables show everything.  Layers become relative depth, (layer + 1) / n_layers: the share of the
blocks passed.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol, runtime_checkable

import polars as pl

from homolog.errors import InputError
from homolog.report.wording import in_order
from homolog.storage.run_folder import RunFolder

REQUIRED_COLUMNS: Mapping[str, tuple[str, ...]] = {
    "matches": (
        "comparison",
        "kind",
        "model",
        "layer",
        "feature",
        "n_active",
        "freq",
        "r",
        "best_model",
        "best_layer",
        "best_feature",
    ),
    "layers": (
        "comparison",
        "kind",
        "model",
        "layer",
        "best_model",
        "best_layer",
        "n_features",
        "n_defined",
        "mean",
    ),
    "summary": (
        "comparison",
        "kind",
        "model",
        "best_model",
        "stratum",
        "n_features",
        "n_undefined",
        "mean",
        "mean_lo",
        "mean_hi",
        "median",
        "median_lo",
        "median_hi",
        "share_above_07",
    ),
    "saes": (
        "model",
        "label",
        "layer",
        "kind",
        "d_sae",
        "explained_variance",
        "l0",
        "dead_share",
        "loss_recovered",
        "passed",
        "reason",
    ),
}


@runtime_checkable
class HasRun(Protocol):
    """Records of any study: they have the contents of run.json."""

    @property
    def run(self) -> Mapping[str, Any]: ...


@dataclass(frozen=True)
class RunRecords:
    """Everything the report says comes from here.

    run: the contents of run.json, with what it keeps under "facts" at the top level too; pair: names of
    models A and B; matches, layers, summary: the tables of that name with a column `side` ("A", "B" or
    null); saes: that table.
    """

    path: Path
    run: Mapping[str, Any]
    pair: tuple[str, str]
    matches: pl.DataFrame
    layers: pl.DataFrame
    summary: pl.DataFrame
    saes: pl.DataFrame

    @property
    def name(self) -> str:
        return str(self.run.get("name") or self.path.name)

    @property
    def models(self) -> list[Mapping[str, Any]]:
        return [model for model in self.run.get("models") or [] if isinstance(model, Mapping)]

    def model_of(self, side: str) -> str:
        """The model whose features side "A" or "B" is about."""
        return self.pair["AB".index(side)]

    def partner_of(self, side: str) -> str:
        """The model in which those features are looked for in the main comparison."""
        return self.pair["BA".index(side)]

    def architecture(self, model: str) -> str:
        """The architecture that run.json records for a model; its name when none is recorded."""
        for entry in self.models:
            if entry.get("name") == base_name(model):
                return str(entry.get("architecture") or model)
        return model

    def n_layers(self, model: str) -> int:
        """Blocks of a model: from run.json, else from the highest layer in the tables."""
        for entry in self.models:
            if entry.get("name") == base_name(model) and entry.get("n_layers"):
                return int(entry["n_layers"])
        seen = pl.concat(
            [
                self.layers.select(pl.col("model"), pl.col("layer").cast(pl.Int64)),
                self.layers.select(
                    pl.col("best_model").alias("model"), pl.col("best_layer").cast(pl.Int64).alias("layer")
                ),
                self.saes.select(pl.col("model"), pl.col("layer").cast(pl.Int64)),
            ]
        ).filter(pl.col("model").is_in([model, base_name(model)]))
        highest = seen.get_column("layer").max()
        return 1 + int(highest) if isinstance(highest, int) else 1

    def comparisons(self, kind: str) -> list[str]:
        """Comparisons of kind "sae" or "neuron" with rows about A or B, in the page's order."""
        rows = self.matches.filter((pl.col("kind") == kind) & pl.col("side").is_not_null())
        return in_order(rows.get_column("comparison").unique().to_list())

    def untrained(self) -> set[str]:
        """Models that stand in the random-model comparison without being of the pair."""
        rows = self.summary.filter(pl.col("comparison") == "random-model")
        names = {base_name(name) for column in ("model", "best_model") for name in rows.get_column(column).to_list()}
        return names - set(self.pair)


def base_name(model: str) -> str:
    """The model's name without the label of its dictionaries: "mamba-s0@seed1" is "mamba-s0"."""
    return str(model).split("@")[0]


def read_run(path: Path | str) -> RunRecords:
    """Read the run folder at `path`.

    Raises `InputError` when the folder, run.json or a table is missing or unreadable, or a table lacks a
    column.
    """
    folder = RunFolder(Path(path))
    run = run_of(folder)
    files = {
        "matches": folder.matches,
        "layers": folder.layers,
        "summary": folder.summary,
        "saes": folder.saes_table,
    }
    missing = [file.name for file in files.values() if not file.is_file()]
    if missing:
        raise InputError(
            "run folder",
            str(path),
            f"the report needs its tables, and {_listed(missing)} missing",
            "Finish the run first: give `homolog run` or `homolog demo` the same --out again.",
        )
    tables = {name: read_table(file, REQUIRED_COLUMNS[name]) for name, file in files.items()}
    pair = _pair(path, run, tables["summary"])
    for name in ("matches", "layers", "summary"):
        tables[name] = _with_side(tables[name], pair)
    return RunRecords(Path(path), run, pair, **tables)


def run_of(folder: RunFolder) -> dict[str, Any]:
    """The contents of run.json, with what it keeps under "facts" at the top level too."""
    run = folder.record
    return _mapping(run.get("facts")) | run


def _mapping(value: Any) -> dict[str, Any]:
    return value if isinstance(value, dict) else {}


def _listed(names: list[str]) -> str:
    return f"{names[0]} is" if len(names) == 1 else f"{', '.join(names[:-1])} and {names[-1]} are"


def read_table(file: Path, columns: tuple[str, ...]) -> pl.DataFrame:
    """A parquet table that has these columns; `InputError` names the file and what is wrong."""
    try:
        table = pl.read_parquet(file)
    except (pl.exceptions.PolarsError, OSError) as error:
        raise InputError(
            "table",
            str(file),
            f"it is not readable as parquet ({error})",
            "Delete it and run again with the same --out: it is rebuilt.",
        ) from error
    absent = [column for column in columns if column not in table.columns]
    if absent:
        raise InputError(
            "table",
            str(file),
            f"the report needs its column(s) {', '.join(absent)}",
            "It comes from another version of homolog: run again into a new --out.",
        )
    return table


def _pair(path: Path | str, run: Mapping[str, Any], summary: pl.DataFrame) -> tuple[str, str]:
    """The pair named by run.json, else by the first row of the main comparison."""
    pair = run.get("pair")
    if isinstance(pair, list | tuple) and len(pair) == 2:
        return str(pair[0]), str(pair[1])
    main = summary.filter(pl.col("comparison") == "main")
    if main.is_empty():
        raise InputError(
            "run folder",
            str(path),
            "the report needs a main comparison of two models",
            "Finish the run first: give `homolog run` the same --out again.",
        )
    return str(main["model"][0]), str(main["best_model"][0])


def _with_side(table: pl.DataFrame, pair: tuple[str, str]) -> pl.DataFrame:
    """Add `side`.

    A row belongs to a model of the pair by its exact name; where a comparison has no such row for that
    model, by the name without the dictionary's label (a control stored under "mamba-s0@seed1").
    """
    keys = table.select("comparison", "model").unique().rows()
    exact = {(comparison, model) for comparison, model in keys if model in pair}
    sides: dict[tuple[str, str], str] = {}
    for comparison, model in keys:
        base = base_name(model)
        if model in pair or (base in pair and (comparison, base) not in exact):
            sides[(comparison, model)] = "AB"[pair.index(base if model not in pair else model)]
    frame = pl.DataFrame(
        [(comparison, model, side) for (comparison, model), side in sorted(sides.items())],
        schema={"comparison": pl.String, "model": pl.String, "side": pl.String},
        orient="row",
    )
    return table.join(frame, on=["comparison", "model"], how="left", maintain_order="left")
