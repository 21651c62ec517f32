"""The records of a run, as the report reads them: run.json and the parquet tables, checked and
typed.

A page is about one pair of the compared models, so the tables are read for one pair: rows about
another compared model, its untrained twin or its second seed are left out.  Of matches, by far the
largest table, only the rows and columns that a page needs are read.

Two things are added to the tables.  `side` says whose features a row is about: "A" or "B" for the
two models of the pair, null for rows about another model's features (a control read backwards);
figures show sides A and B, the tables show everything.  Layers become relative depth, (layer + 1) /
n_layers: the share of the blocks passed.
"""

from __future__ import annotations

import contextlib
import itertools
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol, runtime_checkable

import polars as pl

from homolog.charts.words import is_number, listed
from homolog.errors import InputError
from homolog.record.comparisons import shown
from homolog.record.names import folder_name
from homolog.record.run_folder import RunFolder

REQUIRED_COLUMNS: Mapping[str, tuple[str, ...]] = {
    name: tuple(columns.split())
    for name, columns in {
        "matches": "comparison kind model layer feature n_active freq r best_model best_layer "
        "best_feature "
        "null_r threshold q excess mutual partner_layer partner_feature stable homolog",
        "layers": "comparison kind model layer best_model best_layer n_features n_defined mean "
        "cka svcca decoder_rsa decoder_svcca n_pairs",
        "summary": "comparison kind model best_model stratum n_features n_undefined mean mean_lo "
        "mean_hi "
        "median median_lo median_hi share_above_07",
        "saes": "model label layer kind d_sae explained_variance l0 dead_share loss_recovered "
        "passed reason",
        "shared": "model best_model n_features n_alive share lo hi ceiling mean_r mean_excess "
        "share_significant "
        "share_mutual share_one_to_one share_stable given reason words",
    }.items()
}
VARIANCE_COLUMNS = ("model", "factor", "share", "n")
STRATUM = "all"  # the paper filters no features; the other strata stand in the table


@runtime_checkable
class RunRecord(Protocol):
    """Records of any study: they have the contents of run.json."""

    @property
    def run(self) -> Mapping[str, Any]: ...


@dataclass(frozen=True)
class Verdict:
    """The verdict of one direction, in the words of run.json; `reason` says why where it is not
    given.
    """

    source: str
    target: str
    given: bool
    reason: str
    words: str


@dataclass(frozen=True)
class StudyRecords:
    """What a run says as a whole.

    run: the contents of run.json, with what it keeps under "facts" at the top level too; compared:
    names of the models compared; shared: one row an ordered pair of them, all pairs here, two in
    `PairRecords`;
    variance: that table, empty when it was not measured.
    """

    path: Path
    run: Mapping[str, Any]
    compared: tuple[str, ...]
    shared: pl.DataFrame
    variance: pl.DataFrame

    @property
    def name(self) -> str:
        return str(self.run.get("name") or self.path.name)

    @property
    def models(self) -> list[Mapping[str, Any]]:
        return [model for model in self.run.get("models") or [] if isinstance(model, Mapping)]

    @property
    def pairs(self) -> list[tuple[str, str]]:
        """Every two of the compared models once."""
        return list(itertools.combinations(self.compared, 2))

    @property
    def explored(self) -> bool:
        """Whether the run has examples of its features, so that the report has an explorer."""
        folder = RunFolder(self.path)
        return folder.table("features").is_file() and folder.vocabulary.is_file()

    def setting(self, name: str) -> float | None:
        """A number that the recipe sets for matching, such as "fdr"; None where it does not say."""
        value = _mapping(_mapping(self.run.get("recipe")).get("matching")).get(name)
        return float(value) if isinstance(value, int | float) and is_number(value) else None

    def verdict(self, source: str, target: str) -> Verdict:
        """What run.json says of the features of `source` in `target`; withheld where it says
        nothing.
        """
        for entry in self.run.get("verdicts") or []:
            if isinstance(entry, Mapping) and (entry.get("model"), entry.get("best_model")) == (
                source,
                target,
            ):
                words, reason = (str(entry.get(key) or "") for key in ("words", "reason"))
                return Verdict(source, target, entry.get("given") is True, reason, words)
        return Verdict(source, target, False, "run.json has none for this direction", "")

    def shared_row(self, source: str, target: str) -> Mapping[str, Any] | None:
        """The row of `shared` for the features of `source` in `target`."""
        rows = self.shared.filter((pl.col("model") == source) & (pl.col("best_model") == target))
        return rows.row(0, named=True) if rows.height else None


@dataclass(frozen=True)
class PairRecords(StudyRecords):
    """What the page of a pair says comes from here.

    pair: names of models A and B; matches, layers, summary: the tables of that name with a column
    `side` ("A", "B" or null; matches only has rows of A and B); saes: that table; all with the rows
    of this pair.
    """

    pair: tuple[str, str]
    matches: pl.DataFrame
    layers: pl.DataFrame
    summary: pl.DataFrame
    saes: pl.DataFrame

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
                    pl.col("best_model").alias("model"),
                    pl.col("best_layer").cast(pl.Int64).alias("layer"),
                ),
                self.saes.select(pl.col("model"), pl.col("layer").cast(pl.Int64)),
            ]
        ).filter(pl.col("model").is_in([model, base_name(model)]))
        highest = seen.get_column("layer").max()
        return 1 + int(highest) if isinstance(highest, int) else 1

    def comparisons(self, kind: str) -> list[str]:
        """Comparisons of kind "sae" or "neuron" with rows about A or B that figures show, in the
        page's order.
        """
        names = (
            self.matches.filter(pl.col("kind") == kind).get_column("comparison").unique().to_list()
        )
        return shown(names)

    def summary_row(
        self, comparison: str, side: str, stratum: str = STRATUM
    ) -> Mapping[str, Any] | None:
        """The summary of a comparison for the features of side "A" or "B"; None when it was not
        measured.
        """
        rows = self.summary.filter(
            (pl.col("comparison") == comparison)
            & (pl.col("side") == side)
            & (pl.col("stratum") == stratum)
        )
        return rows.row(0, named=True) if rows.height else None

    def untrained(self) -> set[str]:
        """Models that stand in the random-model comparison without being of the pair."""
        rows = self.summary.filter(pl.col("comparison") == "random-model")
        names = {
            base_name(name)
            for column in ("model", "best_model")
            for name in rows.get_column(column).to_list()
        }
        return names - set(self.pair)


def base_name(model: str) -> str:
    """The model's name without the label of its dictionaries: "mamba-s0@seed1" is "mamba-s0"."""
    return str(model).split("@")[0]


def read_study(path: Path | str) -> StudyRecords:
    """What the run folder at `path` says as a whole; errors as for `read_pair_records`."""
    folder, run, compared = _opened(path)
    shared = read_table(folder.table("shared"), REQUIRED_COLUMNS["shared"])
    variance = folder.table("variance")
    found = read_table(variance, VARIANCE_COLUMNS) if variance.is_file() else pl.DataFrame()
    return StudyRecords(Path(path), run, compared, shared, found)


def read_pair_records(path: Path | str, pair: tuple[str, str] | None = None) -> PairRecords:
    """Read what the run folder at `path` says of two of its compared models, by default the first
    two.

    Raises `InputError` when the folder, run.json or a table is missing or unreadable, or a table
    lacks a column.
    """
    whole = read_study(path)
    folder = RunFolder(Path(path))
    pair = pair or (whole.compared[0], whole.compared[1])
    matches = _of_pair(folder.matches, whole, pair).filter(pl.col("side").is_not_null())
    with _readable(folder.matches):
        chosen = matches.select(*REQUIRED_COLUMNS["matches"], "side").collect()
    tables = {"matches": chosen}
    for name in ("layers", "summary"):
        with _readable(folder.table(name)):
            tables[name] = _of_pair(folder.table(name), whole, pair).collect()
    saes = read_table(folder.saes_table, REQUIRED_COLUMNS["saes"])
    both = pl.col("model").is_in(pair) & pl.col("best_model").is_in(pair)
    return PairRecords(
        whole.path,
        whole.run,
        whole.compared,
        whole.shared.filter(both),
        whole.variance
        if whole.variance.is_empty()
        else whole.variance.filter(pl.col("model").is_in(pair)),
        pair,
        saes=saes.filter(~pl.col("model").is_in(_foreign(saes["model"].to_list(), whole, pair))),
        **tables,
    )


def run_of(folder: RunFolder) -> dict[str, Any]:
    """The contents of run.json, with what it keeps under "facts" at the top level too."""
    run = folder.record
    return _mapping(run.get("facts")) | run


def read_table(file: Path, columns: tuple[str, ...]) -> pl.DataFrame:
    """A parquet table that has these columns; `InputError` names the file and what is wrong."""
    with _readable(file):
        table = pl.read_parquet(file)
    _check_columns(file, table.columns, columns)
    return table


def _opened(path: Path | str) -> tuple[RunFolder, dict[str, Any], tuple[str, ...]]:
    """The folder, run.json and the names of the compared models; every table is there and has its
    columns.
    """
    folder = RunFolder(Path(path))
    run = run_of(folder)
    missing = []
    for name, columns in REQUIRED_COLUMNS.items():
        file = folder.table(name)
        if not file.is_file():
            missing.append(file.name)
            continue
        with _readable(file):
            found = pl.read_parquet_schema(file)
        _check_columns(file, list(found), columns)
    if missing:
        raise InputError(
            "run folder",
            str(path),
            f"the report needs its tables, and {listed(missing)} "
            f"{'is' if len(missing) == 1 else 'are'} missing",
            "Finish the run first: give `homolog run` or `homolog demo` the same --out again.",
        )
    compared = run.get("compared")
    if not isinstance(compared, list) or len(compared) < 2:
        raise InputError(
            "run.json: compared",
            compared,
            "the report needs the names of two compared models or more",
            "It comes from another version of homolog: run again into a new --out.",
        )
    return folder, run, tuple(map(str, compared))


def _check_columns(file: Path, found: list[str], columns: tuple[str, ...]) -> None:
    if absent := [column for column in columns if column not in found]:
        raise InputError(
            "table",
            str(file),
            f"the report needs its column(s) {', '.join(absent)}",
            "It comes from another version of homolog: run again into a new --out.",
        )


@contextlib.contextmanager
def _readable(file: Path) -> Iterator[None]:
    try:
        yield
    except (pl.exceptions.PolarsError, OSError) as error:
        raise InputError(
            "table",
            str(file),
            f"it is not readable as parquet ({error})",
            "Delete it and run again with the same --out: it is rebuilt.",
        ) from error


def _mapping(value: Any) -> dict[str, Any]:
    return value if isinstance(value, dict) else {}


def _of_pair(file: Path, whole: StudyRecords, pair: tuple[str, str]) -> pl.LazyFrame:
    """The rows of a table that this pair's page shows, with `side`."""
    with _readable(file):
        keys = pl.scan_parquet(file).select("comparison", "model", "best_model").unique().collect()
    names = [*keys["model"].to_list(), *keys["best_model"].to_list()]
    foreign = pl.col("model", "best_model").is_in(_foreign(names, whole, pair))
    own = keys.filter(~pl.any_horizontal(foreign)).select("comparison", "model").unique()
    table = pl.scan_parquet(file).filter(~pl.any_horizontal(foreign))
    return table.join(
        _sides(own, pair).lazy(), on=["comparison", "model"], how="left", maintain_order="left"
    )


def _foreign(names: list[str], whole: StudyRecords, pair: tuple[str, str]) -> list[str]:
    """Those of `names` that stand for other compared models than the pair's: themselves, or as
    their controls.

    A control that belongs to no compared model, as the recipe has it, is everybody's.
    """
    owners: dict[str, set[str]] = {name: {name} for name in whole.compared}
    for entry in _mapping(whole.run.get("recipe")).get("models") or []:
        if (
            isinstance(entry, Mapping)
            and (own := folder_name(str(entry.get("ref")))) in whole.compared
        ):
            for control in (entry.get("untrained"), entry.get("other_seed")):
                if control:
                    owners.setdefault(folder_name(str(control)), set()).add(own)
    return sorted(
        {name for name in names if not owners.get(base_name(name), set(pair)) & set(pair)}
    )


def _sides(keys: pl.DataFrame, pair: tuple[str, str]) -> pl.DataFrame:
    """The side of each (comparison, model) that has one.

    A row belongs to a model of the pair by its exact name; where a comparison has no such row for
    that model, by the name without the dictionary's label (a control stored under
    "mamba-s0@seed1").
    """
    rows = keys.rows()
    exact = {(comparison, model) for comparison, model in rows if model in pair}
    sides: dict[tuple[str, str], str] = {}
    for comparison, model in rows:
        base = base_name(model)
        if model in pair or (base in pair and (comparison, base) not in exact):
            sides[(comparison, model)] = "AB"[pair.index(base if model not in pair else model)]
    return pl.DataFrame(
        [(comparison, model, side) for (comparison, model), side in sorted(sides.items())],
        schema={"comparison": pl.String, "model": pl.String, "side": pl.String},
        orient="row",
    )
