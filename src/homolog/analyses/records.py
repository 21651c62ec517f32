"""The records of a run, as figures and sections read them: run.json and the tables, checked.

Each page is about something: the whole study, one pair of its models, or the circuits of single
models (`induction/records.py`).  `Records.table` gives a table as that page shows it.

A page of a pair leaves out rows about another compared model, its untrained twin or its second
seed; a control that belongs to no compared model, as the recipe has it, is everybody's.  Its tables
of comparisons have a column `side` more: whose features a row is about, "A" or "B" for the main
dictionaries of the two models of the pair, null for others (a control read backwards).  Figures
show sides A and B, the tables show everything.  Layers become relative depth, (layer + 1) /
n_layers: the share of the blocks passed.
"""

from __future__ import annotations

import itertools
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl

from homolog.charts.links import address
from homolog.charts.words import is_number
from homolog.errors import InputError
from homolog.record.comparisons import RANDOM_MODEL, shown
from homolog.record.names import folder_name, listed
from homolog.record.run_folder import RunFolder
from homolog.record.sides import MAIN_LABEL, NEURON
from homolog.record.table import Table, readable
from homolog.record.tables import FEATURES, LAYERS, MATCHES, SAES, SHARED, SUMMARY, VARIANCE

NEEDED = (MATCHES, LAYERS, SUMMARY, SAES, SHARED)
"""Without these there is no page of a study."""
STRATUM = "all"  # the paper filters no features; the other strata stand in the table
Row = Mapping[str, Any]


@dataclass(frozen=True)
class DirectionVerdict:
    """The verdict of one direction, in the words of run.json.  reason: why it is not given."""

    source: str
    target: str
    given: bool
    reason: str
    words: str


@dataclass(frozen=True)
class Records:
    """Any run: its folder, and the contents of run.json with its facts at the top level."""

    path: Path
    run: Mapping[str, Any]

    @property
    def name(self) -> str:
        """Of the run."""
        return str(self.run.get("name") or self.path.name)

    @property
    def names(self) -> tuple[str, ...]:
        """The models that the page is about."""
        return ()

    @property
    def folder(self) -> RunFolder:
        """Where the tables are."""
        return RunFolder(self.path)

    def has(self, table: Table) -> bool:
        """Whether the run has the table."""
        return self.folder.table(table.name).is_file()

    def table(self, table: Table) -> pl.DataFrame:
        """The rows of a table that this page is about; none where the run does not have it.

        Optional columns that it lacks are null.  InputError where it cannot be read, or is of
        another version.
        """
        return self._scan(table).collect()

    def _scan(self, table: Table) -> pl.LazyFrame:
        if self.has(table):
            return table.scan(self.folder.table(table.name))
        return table.frame({name: [] for name in table.columns}).lazy()


def kept(table: Table) -> cached_property[pl.DataFrame]:
    """A property of records: their rows of a table, read once."""
    return cached_property(lambda records: records.table(table))


@dataclass(frozen=True)
class StudyRecords(Records):
    """What a study says as a whole.  compared: names of its models."""

    compared: tuple[str, ...]

    @property
    def names(self) -> tuple[str, ...]:
        """The models that the page is about."""
        return self.compared

    shared, variance = kept(SHARED), kept(VARIANCE)

    @property
    def models(self) -> list[Mapping[str, Any]]:
        """What run.json says of each model."""
        return [model for model in self.run.get("models") or [] if isinstance(model, Mapping)]

    @property
    def pairs(self) -> list[tuple[str, str]]:
        """Every two of the compared models once, of those that the study compares."""
        every = list(itertools.combinations(self.compared, 2))
        chosen = [set(pair) for pair in self.run.get("pairs") or every]
        return [pair for pair in every if set(pair) in chosen]

    @property
    def directions(self) -> list[tuple[str, str]]:
        """Every ordered pair of them: whose features, looked for where."""
        pairs = {*self.pairs, *((b, a) for a, b in self.pairs)}
        return [pair for pair in itertools.permutations(self.compared, 2) if pair in pairs]

    def of(self, pair: tuple[str, str]) -> PairRecords:
        """What the run says of two of them."""
        return PairRecords(self.path, self.run, self.compared, pair)

    @property
    def controls(self) -> dict[str, list[str]]:
        """The names of each compared model's untrained twin and second seed."""
        if known := mapping(self.run.get("controls")):
            return {str(own): list(map(str, controls)) for own, controls in known.items()}
        named: dict[str, list[str]] = {}  # by a run from before run.json said so
        for entry in mapping(self.run.get("recipe")).get("models") or []:
            given = [mapping(entry).get(key) for key in ("untrained", "other_seed")]
            own = folder_name(str(mapping(entry).get("ref")))
            if own in self.compared:
                named[own] = [folder_name(str(control)) for control in given if control]
        return named

    @property
    def explored(self) -> bool:
        """Whether the run has examples of its features, so that the report has an explorer."""
        return self.has(FEATURES) and self.folder.vocabulary.is_file()

    def setting(self, name: str) -> float | None:
        """A number that the recipe sets for matching, such as "fdr"; None where it does not say."""
        value = mapping(mapping(self.run.get("recipe")).get("matching")).get(name)
        return float(value) if isinstance(value, int | float) and is_number(value) else None

    def verdict(self, source: str, target: str) -> DirectionVerdict:
        """What run.json says of the features of `source` in `target`; withheld if it is silent."""
        for entry in self.run.get("verdicts") or []:
            direction = isinstance(entry, Mapping) and (entry.get("model"), entry.get("best_model"))
            if direction == (source, target):
                words, reason = (str(entry.get(key) or "") for key in ("words", "reason"))
                return DirectionVerdict(source, target, entry.get("given") is True, reason, words)
        silent = "run.json has none for this direction"
        return DirectionVerdict(source, target, False, silent, "")

    def shared_row(self, source: str, target: str) -> Row | None:
        """The row of `shared` for the features of `source` in `target`."""
        rows = self.shared.filter(model=source, best_model=target)
        return rows.row(0, named=True) if rows.height else None


@dataclass(frozen=True)
class PairRecords(StudyRecords):
    """What the page of a pair says comes from here.  pair: names of models A and B."""

    pair: tuple[str, str]
    layers, summary, saes = kept(LAYERS), kept(SUMMARY), kept(SAES)

    @property
    def names(self) -> tuple[str, ...]:
        """The models that the page is about."""
        return self.pair

    @cached_property
    def matches(self) -> pl.DataFrame:
        """The table of that name: rows of sides A and B alone."""
        return self._scan(MATCHES).filter(pl.col("side").is_not_null()).collect()

    def model_of(self, side: str) -> str:
        """The model whose features side "A" or "B" is about."""
        return self.pair["AB".index(side)]

    def partner_of(self, side: str) -> str:
        """The model in which those features are looked for in the main comparison."""
        return self.pair["BA".index(side)]

    @property
    def sides(self) -> list[tuple[str, str, str]]:
        """Both sides: ("A", model A, model B) and ("B", model B, model A)."""
        return [(side, self.model_of(side), self.partner_of(side)) for side in "AB"]

    def panel(self, side: str, kind: str = "sae") -> str:
        """The heading of one direction."""
        return f"{'Neurons' if kind == NEURON else 'Features'} of {self.model_of(side)}"

    def defined_r(self, comparison: str, side: str) -> np.ndarray:
        """Best correlations of the defined features, float64 (features,)."""
        r = self.matches.filter(comparison=comparison, side=side)["r"].cast(pl.Float64).to_numpy()
        return r[np.isfinite(r)]

    def layer_link(self, side: str, layer: int, to: int | None = None) -> dict[str, str]:
        """`link`, to the features of a layer in the explorer, if the run has one."""
        models = self.model_of(side), self.partner_of(side)
        return {"link": address(*models, layer=layer, to_layer=to)} if self.explored else {}

    def feature_links(self, side: str, rows: pl.DataFrame) -> list[str]:
        """The explorer's address of each feature of the rows; none where there is no explorer."""
        models = self.model_of(side), self.partner_of(side)
        places = rows.select("layer", "feature").iter_rows() if self.explored else ()
        return [address(*models, feature=(int(layer), int(feature))) for layer, feature in places]

    def architecture(self, model: str) -> str:
        """The architecture that run.json records for a model; its name when none is recorded."""
        return str(self._about(model).get("architecture") or model)

    def n_layers(self, model: str) -> int:
        """Blocks of a model: from run.json, else from its dictionaries."""
        if known := self._about(model).get("n_layers"):
            return int(known)
        highest = self.saes.filter(model=model).get_column("layer").max()
        return 1 + int(highest) if isinstance(highest, int) else 1

    def _about(self, model: str) -> Mapping[str, Any]:
        return next((entry for entry in self.models if entry.get("name") == model), {})

    def comparisons(self, kind: str) -> list[str]:
        """Comparisons of a kind with rows about A or B that figures show, in their order."""
        return shown(self.matches.filter(kind=kind).get_column("comparison").unique().to_list())

    def summary_row(self, comparison: str, side: str) -> Row | None:
        """The summary of a comparison for all features of a side; None where not measured."""
        rows = self.summary.filter(comparison=comparison, side=side, stratum=STRATUM)
        return rows.row(0, named=True) if rows.height else None

    def untrained(self) -> set[str]:
        """Models that stand in for an untrained one without being of the pair."""
        rows = self.summary.filter(comparison=RANDOM_MODEL.name)
        return {*rows["model"].to_list(), *rows["best_model"].to_list()} - set(self.pair)

    def _scan(self, table: Table) -> pl.LazyFrame:
        rows = super()._scan(table)
        for column in ("model", "best_model", "source_model"):
            if column in table.columns:
                names = rows.select(pl.col(column).unique()).collect().get_column(column).to_list()
                rows = rows.filter(~pl.col(column).is_in(self._foreign(names)))
        if "comparison" not in table.columns:
            return rows
        own = pl.col("model").replace_strict(dict(zip(self.pair, "AB", strict=True)), default=None)
        if "label" not in table.columns:
            return rows.with_columns(side=own)
        main = pl.col("label").is_in([MAIN_LABEL, NEURON])
        return rows.with_columns(side=pl.when(main).then(own))

    def _foreign(self, names: list[str]) -> list[str]:
        """Those of `names` that stand for other compared models: themselves, or their controls."""
        owners: dict[str, set[str]] = {name: {name} for name in self.compared}
        for own, controls in self.controls.items():
            for control in controls:
                owners.setdefault(control, set()).add(own)
        pair = set(self.pair)
        return sorted(name for name in names if not owners.get(name, pair) & pair)


def read_study(path: Path | str) -> StudyRecords:
    """What the run folder at `path` says as a whole.

    InputError when the folder, run.json or a needed table is missing or unreadable, or a table
    lacks a column.
    """
    folder = RunFolder(Path(path))
    run = run_of(folder)
    files = {table: folder.table(table.name) for table in NEEDED}
    for table, file in files.items():
        if file.is_file():
            with readable(file):
                table.check(file, pl.read_parquet_schema(file))
    if missing := [file.name for file in files.values() if not file.is_file()]:
        are = "is" if len(missing) == 1 else "are"
        lack = f"the report needs its tables, and {listed(missing)} {are} missing"
        remedy = "Finish the run first: give `homolog run` or `homolog demo` the same --out again."
        raise InputError("run folder", str(path), lack, remedy)
    compared = run.get("compared")
    if not isinstance(compared, list) or len(compared) < 2:
        requirement = "the report needs the names of two compared models or more"
        remedy = "It comes from another version of homolog: run again into a new --out."
        raise InputError("run.json: compared", compared, requirement, remedy)
    return StudyRecords(Path(path), run, tuple(map(str, compared)))


def run_of(folder: RunFolder) -> dict[str, Any]:
    """The contents of run.json, with what it keeps under "facts" at the top level too."""
    run = folder.record
    return mapping(run.get("facts")) | run


def mapping(value: Any) -> dict[str, Any]:
    """The value where it is one, as from JSON; else nothing."""
    return value if isinstance(value, dict) else {}
