"""Are the layers of two models more alike than chance, and most where their depth is the same?"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from homolog.analyses.analysis import Analysis, Unit, one_document
from homolog.analyses.material import Material
from homolog.analyses.records import PairRecords
from homolog.analyses.space_null.figures import MEASURES, nearest_figure, null_figure
from homolog.analyses.work import Work
from homolog.charts.shown_table import Cells, ShownTable
from homolog.charts.words import chance, integer, number
from homolog.record.comparisons import comparison_of, in_order, planned
from homolog.record.tables import SPACE_MODELS, SPACE_TESTS

TOKENS = 16_384
"""Of the `quality` text, from which the rows are taken."""
PAIR = 45e-6  # seconds of a pair of layers on a permutation, on two threads of an AMD EPYC
CAPTION = "Whole layers held against documents in random order"
CELLS: Cells = {
    "Compared with": lambda row: f"{row['best_model']} ({comparison_of(row['comparison']).plain})",
    "Similarity": lambda row: MEASURES[row["measure"]],
    "Most alike": lambda row: f"{row['model']} {row['layer']}, {row['best_layer']}",
    "Value": lambda row: number(row["value"]),
    "p of the search": lambda row: chance(row["p_max"]),
    "Pairs beyond chance": lambda row: f"{integer(row['n_called'])} of {integer(row['n_pairs'])}",
    "Mean excess": lambda row: number(row["mean_excess"]),
    "On the diagonal": lambda row: number(row["diagonal"]),
    "Elsewhere": lambda row: number(row["elsewhere"]),
    "p of the diagonal": lambda row: chance(row["diagonal_p"]),
}


def units(material: Material) -> list[Unit]:
    """A task for each two models whose residual streams are compared: (comparison, A, B)."""
    plans = [plan for plan in planned(material.models) if "residuals" in plan.comparison.spaces]
    return [(plan.comparison.name, plan.a.model.name, plan.b.model.name) for plan in plans]


def wanted(recipe: Any) -> bool:
    """Whether a recipe compares spaces and asks for their null."""
    matching = getattr(recipe, "matching", None)  # which recipes of circuits do not have
    return bool(matching and matching.space_tokens and matching.space_permutations)


def seconds(work: Work) -> float:
    """The models and their controls are read twice or so, and every two of them meet."""
    blocks = sum(work.n_blocks.values())
    pairs = work.n_directions * 3 * (blocks / len(work.n_blocks)) ** 2
    tokens = min(TOKENS, work.recipe.corpus.quality_tokens)
    met = pairs * work.recipe.matching.space_permutations * PAIR * work.shared
    return 5 * work.read(tokens) + met


def values(records: PairRecords) -> Mapping[str, Any] | None:
    """What the template is filled with; `tests` is None where nothing was tested."""
    rows = records.table(SPACE_MODELS).to_dicts()
    if not rows:
        return {"tests": None}
    order = in_order(row["comparison"] for row in rows)
    rows.sort(key=lambda row: order.index(row["comparison"]))
    numbers = {name: rows[0][name] for name in ("n_rows", "n_permutations")}
    return {"tests": ShownTable.of(CAPTION, CELLS, rows, numeric=range(3, 10))} | numbers


ANALYSIS = Analysis(
    name="space_null",
    title="hold similar layers against chance",
    tables=(SPACE_TESTS, SPACE_MODELS),
    wanted=wanted,
    left_out=one_document(
        "quality",
        "similar layers are not held against chance: the null exchanges documents, and "
        "corpus.quality_tokens hold one",
    ),
    units=units,
    measure="homolog.analyses.space_null.measure:measure_space_tests",
    seconds=seconds,
    chapter="Spaces",
    figures=lambda records: [nearest_figure(records), null_figure(records)],
    values=values,
)
