"""How does each model repeat what it has seen: which parts carry, match and copy?

Four sections of one measure: the result with the drawing of the circuits, on their own page and,
as a summary, on that of the study; every experiment; and the methods.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from homolog.analyses.analysis import Analysis, each_model
from homolog.analyses.induction.attention_figure import attention_figure
from homolog.analyses.induction.drawing import circuit_figure
from homolog.analyses.induction.figures import PATCHED
from homolog.analyses.induction.records import TABLES, CircuitRecords, read_circuits
from homolog.analyses.induction.summary import experiment_values, method_values, summary_values
from homolog.analyses.records import StudyRecords
from homolog.charts.figure import Figure
from homolog.record.tables import HIDDEN_ATTENTION

FOLDER = Path(__file__).parent
PAGE = "circuits.html"


def _study_values(records: StudyRecords) -> Mapping[str, Any] | None:
    circuits = read_circuits(records.path)
    return None if circuits is None else _values(circuits, PAGE)


def _study_figures(records: StudyRecords) -> list[Figure | None]:
    circuits = read_circuits(records.path)
    return [] if circuits is None else [circuit_figure(circuits)]


def _values(circuits: CircuitRecords, elsewhere: str | None = None) -> Mapping[str, Any] | None:
    """None where no model was asked for induction."""
    return summary_values(circuits) | {"elsewhere": elsewhere} if circuits.circuits else None


ANALYSIS = Analysis(
    "induction",
    "trace induction circuits",
    tables=(*TABLES, HIDDEN_ATTENTION),
    wanted=lambda recipe: recipe.circuits is not None and recipe.circuits.traced,
    units=each_model,
    measure="homolog.analyses.induction.measure:measure_model",
    units_may_fail=True,
    page="circuits",
    chapter="Result",
    figures=lambda records: [circuit_figure(records)],
    values=_values,
)
EXPERIMENTS = Analysis(
    "induction experiments",
    page="circuits",
    chapter="Every experiment",
    figures=lambda records: [
        *(experiment.drawn(records) for experiment in PATCHED),
        attention_figure(records),
    ],
    values=experiment_values,
    template=(FOLDER / "experiments.html.j2").read_text("utf-8"),
)
METHODS = Analysis(
    "induction methods",
    page="circuits",
    chapter="Methods",
    values=method_values,
    template=(FOLDER / "methods.html.j2").read_text("utf-8"),
)
SUMMARY = Analysis(
    "induction summary",
    page="study",
    chapter="Circuits",
    figures=_study_figures,
    values=_study_values,
    template=ANALYSIS.section,
)
