"""Which nodes of each model do each task, and is that more than nodes drawn at random do?

One measure for each model, of all its tasks: the circuit of each by discovery, beside random ones,
by size, and on the prompts of the others.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from homolog.analyses.analysis import Analysis, each_model
from homolog.analyses.material import Material
from homolog.analyses.records import Records
from homolog.analyses.task_circuits.figures import curve_figure
from homolog.analyses.task_circuits.summary import section_values, table_lines
from homolog.analyses.work import Work
from homolog.record.tables import TASK_CIRCUITS, TASK_TABLES

PASSES = 150  # over the prompts of a task, beside those for each node of its circuit


def _seconds(work: Work, model: str) -> float:
    asked = work.circuits
    of_nodes = asked.n_edges * (asked.n_subsets + 2)  # an edge brings a node, at most
    n_prompts = min(asked.n_prompts, asked.discovery_prompts)
    return len(asked.discovered) * work.over_prompts(model, n_prompts, PASSES + of_nodes)


def _says(material: Material) -> list[dict[str, Any]]:
    """What was found, a line for each model and task, and what was left out."""
    return [{"words": line} for line in table_lines(material.table(TASK_CIRCUITS))]


def _values(records: Records) -> Mapping[str, Any] | None:
    return section_values(records) if records.has(TASK_CIRCUITS) else None


ANALYSIS = Analysis(
    "task_circuits",
    "find circuits of tasks",
    tables=TASK_TABLES,
    wanted=lambda recipe: recipe.circuits is not None and bool(recipe.circuits.discovered),
    units=each_model,
    measure="homolog.analyses.task_circuits.measure:measure_model",
    units_may_fail=True,
    seconds=_seconds,
    says=_says,
    page="circuits",
    chapter="Circuits of tasks",
    figures=lambda records: [curve_figure(records)],
    values=_values,
)
