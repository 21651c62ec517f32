"""`Study`: a finished run as tables, for notebooks and scripts."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import polars as pl

from homolog.analyses import ANALYSES
from homolog.charts.shown_features import FeatureReader, ShownFeature, ShownFeatures, ShownPair
from homolog.corpus import alone
from homolog.errors import InputError, require_one_of
from homolog.record.comparisons import MAIN
from homolog.record.run_folder import RunFolder
from homolog.record.sides import MAIN_LABEL
from homolog.record.table import Table
from homolog.record.tables import CONTEXTS, TABLES
from homolog.report.export import InlineFigure, figure_specs


class Figures(dict[str, InlineFigure]):
    """Charts by name; one that is not there is an error that names those that are."""

    def __missing__(self, name: str) -> InlineFigure:
        require_one_of("figure", name, self)
        raise KeyError(name)


@dataclass(frozen=True)
class Study:
    """One run folder: `study.matches`, `study.layers` and every other table of docs/tables.md.

    Tables are polars frames, read and checked when first asked for.  A name that is no table raises
    AttributeError, a table that the run does not have InputError.
    """

    folder: RunFolder

    @classmethod
    def load(cls, path: Path | str) -> Study:
        """The run in the folder `path`; InputError when there is none."""
        return cls(RunFolder(Path(path)))

    @property
    def run(self) -> dict[str, Any]:
        """run.json."""
        return self.folder.record

    @cached_property
    def tables(self) -> Mapping[str, Table]:
        """Every table that a run may have, by name: those that ship and those of added analyses."""
        added = [table for analysis in ANALYSES for table in analysis.tables]
        return {table.name: table for table in (*TABLES, *added)}

    @cached_property
    def _read(self) -> dict[Path, pl.DataFrame]:
        return {}

    @cached_property
    def _shown(self) -> FeatureReader:
        return FeatureReader(self.folder, self.contexts)

    def __getattr__(self, name: str) -> pl.DataFrame:
        if name.startswith("_") or name not in self.tables or self.tables[name].per_layer:
            raise AttributeError(f"a study has no table {name!r}: {', '.join(self.tables)}")
        return self._table(self.tables[name], self.folder.table(name))

    def __dir__(self) -> list[str]:
        return sorted([*super().__dir__(), *self.tables])

    def contexts(self, model: str, layer: int) -> pl.DataFrame:
        """Examples of the features of a layer, one row per example."""
        return self._table(CONTEXTS, self.folder.table(CONTEXTS, model, layer))

    @property
    def figures(self) -> Figures:
        """Charts of the report by name; a notebook draws one that is the last value of a cell."""
        specs = figure_specs(self.folder.report_folder)
        return Figures(
            (name, InlineFigure(json.loads(file.read_text("utf-8"))))
            for name, file in specs.items()
        )

    def feature(self, model: str, layer: int, feature: int, *, side: int = 0) -> ShownFeature:
        """A feature with the contexts in which it fires most, for a notebook.

        side: 0 or 1, for its colour.  InputError for a model, layer or feature that is not there.
        """
        self._require(model, layer, feature)
        return self._shown.feature(model, layer, feature, side)

    def pair(
        self, model: str, layer: int, feature: int, best_model: str | None = None
    ) -> ShownPair:
        """A feature beside its best partner, for a notebook.

        best_model: whose partner, where there are more than two models.  Errors as of `feature`,
        and for a feature without a partner.
        """
        self._require(model, layer, feature)
        main = self.matches.filter(comparison=MAIN.name, label=MAIN_LABEL, model=model)
        partners = main["best_model"].unique(maintain_order=True).to_list()
        if best_model is not None:
            require_one_of("best_model", best_model, partners)
        elif len(partners) > 1:
            raise InputError("best_model", None, "there are several", f"Give one of {partners}.")
        row = main.filter(layer=layer, feature=feature, best_model=best_model or partners[0])
        if row.is_empty() or row["best_feature"][0] < 0:
            remedy = "Choose one that fires in the matched text."
            raise InputError("feature", feature, "it has a partner only where it fires", remedy)
        return self._shown.pair(row)

    def search(self, text: str, model: str | None = None, *, shown: int = 10) -> ShownFeatures:
        """Features that fire most on a token with this text in it, for a notebook.

        text: in any case.  model: of these alone.  shown: how many are shown; `table` has all, the
        ones with most contexts there first, among them the strongest.
        """
        found = []
        models = self.features["model"].unique(maintain_order=True)
        if model is not None:
            require_one_of("model", model, models.sort())
        token = pl.col("tokens").list.get(pl.col("position") - pl.col("start"))
        for name in models if model is None else [model]:
            known = enumerate(self._shown.vocabulary(name))
            wanted = [i for i, each in known if text.lower() in alone(each).lower()]
            for layer in self.features.filter(model=name)["layer"].unique(maintain_order=True):
                top = self.contexts(name, layer).filter(pl.col("quantile") == 1)
                hits = top.filter(token.is_in(wanted)).group_by("feature")
                counted = hits.agg(hits=pl.len(), value=pl.col("value").max())
                place = (pl.lit(name).alias("model"), pl.lit(layer, pl.Int32).alias("layer"))
                found.append(counted.select(*place, "feature", "hits", "value"))
        order = ["hits", "value", "model", "layer", "feature"]
        table = pl.concat(found).sort(order, descending=[True, True, False, False, False])
        first = table.head(shown).select("model", "layer", "feature").iter_rows()
        side = {name: place % 2 for place, name in enumerate(self.run["compared"])}
        return ShownFeatures(table, [self.feature(*at, side=side[at[0]]) for at in first])

    def _require(self, model: str, layer: int, feature: int) -> None:
        """InputError for a model, layer or feature that is not there."""
        own = self.features.filter(model=model)
        require_one_of("model", model, self.features["model"].unique().sort().to_list())
        require_one_of("layer", layer, own["layer"].unique().sort().to_list())
        require_one_of("feature", feature, range(own.filter(layer=layer)["feature"].max() + 1))  # type: ignore[operator]

    def _table(self, table: Table, path: Path) -> pl.DataFrame:
        if path not in self._read:
            if not path.is_file():
                requirement = f"it has no {path.name} yet"
                remedy = "Finish the run: start it again with the same recipe and --out."
                raise InputError("run folder", str(self.folder.path), requirement, remedy)
            self.folder.require_whole(path)
            there = pl.read_parquet_schema(path)
            self._read[path] = table.read(path, [name for name in table.columns if name in there])
        return self._read[path]
