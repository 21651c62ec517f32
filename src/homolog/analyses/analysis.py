"""What an analysis is: one question to a study, from the measure to its part of the report.

A folder (or one file) holds all of it, and one line in `analyses.ANALYSES` brings it into every
study and every report; from elsewhere, `register` does.

    measure   a task for each layer, model or ordered pair, anywhere an engine runs it
    tables    what they write, joined over all tasks
    figures   charts of those tables, without torch
    section   a template that says what was found, filled with `values`

A table says of what it was made: when one that an analysis `reads` or `joins` has changed, the
analysis is made again, and so are those that read its own.
"""

from __future__ import annotations

import pkgutil
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any, Literal

import polars as pl

from homolog.analyses.material import Material
from homolog.analyses.records import Records
from homolog.charts.figure import Figure
from homolog.record.comparisons import MAIN
from homolog.record.recipe import Recipe
from homolog.record.table import Table
from homolog.record.tables import MATCHES

FOLDER = Path(__file__).parent
Unit = tuple[Any, ...]
"""What one task is about, as values for messages and file names: ("mamba-s0", 3)."""
Tables = Mapping[str, pl.DataFrame]
"""Frames by the name of their table."""
Page = Literal["pair", "study", "circuits", "grid"]
Named = str
"""A function as "package.module:function", which is imported when it is called."""


def _nothing(*_: Any) -> tuple[()]:
    return ()


@dataclass(frozen=True)
class Analysis:
    """One question.

    name: of its folder, its stage and, where something fails, of what failed.
    title: in words, what it does; for progress and messages.
    tables: what it writes.
    reads: tables of others that `measure` is made of.  joins: those that only `finish` and `says`
    read; where one of them changes, nothing is measured again.
    wanted: whether a recipe asks for it.  left_out: why it cannot be made here, in words, or None.
    units: what its tasks are about; none: there is nothing to measure.
    measure, finish, says: functions, or their names, which keep torch out of reports.
    measure: one task, (material, *unit) to frames by table.
    units_may_fail: one that fails takes only itself, and the tables are made of the others.
    seconds: that it will take, of a study's `Work`; where units may fail, those of each model.
    finish: the joined frames made into the tables, where that takes more than joining them.
    says: what the command line prints and run.json keeps under the analysis's name: records with
    "words", and "model" and "best_model" where they are about a direction.
    page: among which pages its section stands: of a pair, the whole study, the circuits, or a grid.
    beside: another kind that these pages must be about as well.
    chapter: heading of the page on which it stands; analyses with the same one share it.
    asks: what its chapter answers, for the link to it; by default what its charts ask.
    home: its chapter stands on the first page itself.
    figures: its charts, from the records of that page.
    values: what its template is filled with; None: the section is left out.
    template: the section, in Jinja; by default NAME.html.j2, or NAME/section.html.j2, beside it.
    """

    name: str
    title: str = ""
    tables: tuple[Table, ...] = ()
    reads: tuple[Table, ...] = ()
    joins: tuple[Table, ...] = ()
    wanted: Callable[[Recipe], bool] = lambda recipe: True
    left_out: Callable[[Material], str | None] = lambda material: None
    units: Callable[[Material], Iterable[Unit]] = _nothing
    measure: Callable[..., Tables] | Named | None = None
    units_may_fail: bool = False
    seconds: Callable[..., float] = lambda work, *unit: 0.0
    finish: Callable[[Material, Tables], Tables] | Named | None = None
    says: Callable[[Material], list[dict[str, Any]]] | Named | None = None
    page: Page = "pair"
    beside: Page | None = None
    chapter: str = ""
    asks: str = ""
    home: bool = False
    figures: Callable[[Any], Iterable[Figure | None]] = _nothing
    values: Callable[[Any], Mapping[str, Any] | None] = lambda records: {}
    template: str | None = None

    @cached_property
    def section(self) -> str:
        """The text of its template; empty where it has no section."""
        if self.template is not None:
            return self.template
        files = (FOLDER / f"{self.name}.html.j2", FOLDER / self.name / "section.html.j2")
        return next((file.read_text("utf-8") for file in files if file.is_file()), "")

    def drawn(self, records: Records) -> list[Figure]:
        """Its charts of these records; one that has nothing to show is left out."""
        return [figure for figure in self.figures(records) if figure is not None]


def function_of(given: Callable[..., Any] | Named) -> Callable[..., Any]:
    """A function that is given itself or by its name."""
    return pkgutil.resolve_name(given) if isinstance(given, str) else given  # type: ignore[return-value]


def interpreted(setting: str = "") -> Callable[[Any], bool]:
    """Whether a recipe asks what features mean and this setting of [interpretation] is not 0."""

    def wanted(recipe: Any) -> bool:
        table = getattr(recipe, "interpretation", None)  # which recipes of circuits do not have
        return table is not None and (not setting or bool(getattr(table, setting)))

    return wanted


def one_document(use: str, words: str) -> Callable[[Material], str | None]:
    """What cannot be made, in words, where the text for a use is a single document."""
    return lambda material: words if material.n_documents(use) < 2 else None


def whole(material: Material) -> list[Unit]:
    """One task about everything."""
    return [()]


def each_model(material: Material) -> list[Unit]:
    """A task for each compared model: (its name,)."""
    return [(model.name,) for model in material.compared]


def each_layer(material: Material) -> list[Unit]:
    """A task for each layer of each compared model: (the model's name, layer)."""
    return [
        (model.name, layer) for model in material.compared for layer in material.layers(model.name)
    ]


def each_direction(material: Material) -> list[Unit]:
    """A task for each ordered pair that is compared, in the order of names: (name, name)."""
    return sorted((own.name, other.name) for own, other in material.models.directions)


def each_direction_with_homologs(material: Material) -> list[Unit]:
    """Those of them whose first model has a feature with a homolog in the second."""
    columns = ["comparison", "model", "best_model", "homolog"]
    matches = MATCHES.read(material.run.table(MATCHES), columns).filter("homolog")
    known = set(matches.filter(comparison=MAIN.name).select("model", "best_model").iter_rows())
    return [pair for pair in each_direction(material) if pair in known]
