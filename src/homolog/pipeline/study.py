"""`Study`: a finished run as tables, for notebooks and scripts."""

from __future__ import annotations

import json
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import polars as pl

from homolog.errors import InputError
from homolog.record.run_folder import RunFolder
from homolog.report.export import InlineFigure, figure_specs


@dataclass(frozen=True)
class Study:
    """One run folder.  Tables are polars frames, read when first asked for; docs/formats.md names
    their columns.
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
    def matches(self) -> pl.DataFrame:
        """One row a feature and direction of every comparison."""
        return self._table(self.folder.matches)

    @cached_property
    def layers(self) -> pl.DataFrame:
        """One row a layer pair and direction of every comparison."""
        return self._table(self.folder.layers)

    @cached_property
    def summary(self) -> pl.DataFrame:
        """One row a comparison, direction and stratum, with intervals."""
        return self._table(self.folder.summary)

    @cached_property
    def shared(self) -> pl.DataFrame:
        """One row an ordered pair of the compared models: the share with a homolog, and its verdict
        in words.
        """
        return self._table(self.folder.table("shared"))

    @cached_property
    def variance(self) -> pl.DataFrame:
        """One row a model and factor: its share of the variance of best correlations."""
        return self._table(self.folder.table("variance"))

    @cached_property
    def saes(self) -> pl.DataFrame:
        """One row a dictionary, with its quality."""
        return self._table(self.folder.saes_table)

    @cached_property
    def circuits(self) -> pl.DataFrame:
        """One row a model: how well it does the task, its key component, faithfulness, Off-by-One
        verdict.
        """
        return self._table(self.folder.table("circuits"))

    @cached_property
    def effects(self) -> pl.DataFrame:
        """One row a patched path and metric, with intervals over prompts."""
        return self._table(self.folder.table("effects"))

    @cached_property
    def roles(self) -> pl.DataFrame:
        """One row a component of a circuit."""
        return self._table(self.folder.table("roles"))

    @cached_property
    def offsets(self) -> pl.DataFrame:
        """One row a place and offset of the Off-by-One test."""
        return self._table(self.folder.table("offsets"))

    @cached_property
    def edges(self) -> pl.DataFrame:
        """One row an edge of discovery: its score and, where it was patched for real, its effect."""
        return self._table(self.folder.table("edges"))

    @cached_property
    def features(self) -> pl.DataFrame:
        """One row a feature of the compared models: frequency, measures of complexity, promoted and
        nearest.
        """
        return self._table(self.folder.table("features"))

    @cached_property
    def relation(self) -> pl.DataFrame:
        """One row a comparison, direction and measure: rank correlation with r and excess."""
        return self._table(self.folder.table("relation"))

    @cached_property
    def causal(self) -> pl.DataFrame:
        """One row a pair of features that were ablated and steered in their models, controls among
        them.
        """
        return self._table(self.folder.table("causal"))

    @cached_property
    def causal_shares(self) -> pl.DataFrame:
        """One row an ordered pair of models, kind of intervention and range of r: the share
        causally alike.
        """
        return self._table(self.folder.table("causal_shares"))

    @cached_property
    def lists(self) -> pl.DataFrame:
        """The best shared and the exclusive features of every ordered pair of models."""
        return self._table(self.folder.table("lists"))

    @cached_property
    def transplant(self) -> pl.DataFrame:
        """One row a layer and map: how well its dictionary reads mapped residuals of another model."""
        return self._table(self.folder.table("transplant"))

    @cached_property
    def judged(self) -> pl.DataFrame:
        """One row a feature that a language model explained and rated."""
        return self._table(self.folder.table("judged"))

    def contexts(self, model: str, layer: int) -> pl.DataFrame:
        """Examples of the features of a layer, one row an example."""
        return self._table(self.folder.contexts(model, layer))

    @property
    def figures(self) -> dict[str, InlineFigure]:
        """The charts of the report by name; a notebook draws one that is the last value of a cell."""
        specs = figure_specs(self.folder.report_folder)
        return {
            name: InlineFigure(json.loads(file.read_text("utf-8"))) for name, file in specs.items()
        }

    def _table(self, path: Path) -> pl.DataFrame:
        if not path.is_file():
            raise InputError(
                "run folder",
                str(self.folder.path),
                f"it has no {path.name} yet",
                "Finish the run: start it again with the same recipe and --out.",
            )
        self.folder.require_whole(path)
        return pl.read_parquet(path)
