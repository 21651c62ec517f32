"""How does each model repeat what it has seen: which parts carry, match and copy?

Five sections of one measure: the result with the drawing of the circuits; the same in short, on
the first page of a study; every experiment, on parts and on positions; and the methods.
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
from homolog.analyses.induction.summary import (
    circuit_lines,
    experiment_values,
    method_values,
    summary_values,
)
from homolog.analyses.material import Material
from homolog.analyses.work import Work
from homolog.record.tables import HIDDEN_ATTENTION

FOLDER = Path(__file__).parent
PASSES = 5  # over all prompts, a block
BOX = (FOLDER / "box.html.j2").read_text("utf-8")


def _seconds(work: Work, model: str) -> float:
    return work.over_prompts(model, work.circuits.n_prompts, PASSES * work.n_blocks[model])


def _says(material: Material) -> list[dict[str, Any]]:
    """What was found, a line for each model."""
    records = read_circuits(material.run.path)
    assert records is not None
    return [{"words": line} for line in circuit_lines(records)]


def _values(circuits: CircuitRecords) -> Mapping[str, Any] | None:
    """None where no model was asked for induction."""
    return summary_values(circuits) if circuits.circuits else None


ANALYSIS = Analysis(
    "induction",
    "trace induction circuits",
    tables=(*TABLES, HIDDEN_ATTENTION),
    wanted=lambda recipe: recipe.circuits is not None and recipe.circuits.traced,
    units=each_model,
    measure="homolog.analyses.induction.measure:measure_model",
    units_may_fail=True,
    seconds=_seconds,
    says=_says,
    page="circuits",
    chapter="Circuits",
    figures=lambda records: [circuit_figure(records)],
    values=_values,
    template=BOX + (FOLDER / "section.html.j2").read_text("utf-8"),
)
EXPERIMENTS = Analysis(
    "induction experiments",
    page="circuits",
    chapter="Every part",
    figures=lambda records: [each.drawn(records) for each in PATCHED if not each.by_position],
    values=experiment_values,
    template=(FOLDER / "experiments.html.j2").read_text("utf-8"),
)
POSITIONS = Analysis(
    "induction positions",
    page="circuits",
    chapter="Every position",
    figures=lambda records: [
        *(each.drawn(records) for each in PATCHED if each.by_position),
        attention_figure(records),
    ],
    values=lambda records: {} if records.able else None,
    template="{% for name in figures %}{{ figure(name) }}{% endfor %}",
)
METHODS = Analysis(
    "induction methods",
    page="circuits",
    chapter="Methods",
    asks="How are circuits measured, and on which prompts?",
    values=method_values,
    template=(FOLDER / "methods.html.j2").read_text("utf-8"),
)
SUMMARY = Analysis(
    "induction summary",
    page="circuits",
    beside="study",
    chapter="How do they repeat what they have seen?",
    home=True,
    values=_values,
    template=BOX + (FOLDER / "summary.html.j2").read_text("utf-8"),
)
