"""How much of one model's residual stream can another model's supply?"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from homolog.analyses.alignment_search.figures import PANELS, curve_figure, name_of
from homolog.analyses.analysis import Analysis, Unit, each_direction
from homolog.analyses.material import Material
from homolog.analyses.records import PairRecords
from homolog.analyses.work import Work
from homolog.charts.shown_table import Cells, ShownTable
from homolog.charts.words import integer, number
from homolog.record.tables import ALIGNMENT_SEARCH, LAYERS

CAPTION = "All directions of each map"
CELLS: Cells = {
    "Stream of block": lambda row: f"{row['model']} {row['layer']}",
    "Residuals of block": lambda row: f"{row['source_model']} {row['source_layer']}",
    "Map": name_of,
    "Directions": lambda row: integer(row["k"]),
    "Kept": lambda row: number(row["kept"]),
    "Of the loss": lambda row: number(row["loss_kept"]),
    "Carried by them": lambda row: number(row["carried"]),
    "Supplied alone": lambda row: number(row["alone"]),
}
PASSES = 200
"""Over the test tokens and, three for each of a pass with gradients, those of the steps."""


def units(material: Material) -> list[Unit]:
    """A task for each ordered pair that reads the same tokens: (target, source)."""
    return [pair for pair in each_direction(material) if material.texts_of(*pair) is None]


def left_out(material: Material) -> str | None:
    """Why nothing is swapped, where no pair has one tokenizer."""
    if units(material):
        return None
    return (
        "streams are not swapped: at each token that one model reads the other must have one, and "
        "their tokenizers differ"
    )


def seconds(work: Work) -> float:
    """Passes of the tests and of the training, which takes gradients."""
    asked = work.recipe.alignment_search
    assert asked is not None
    context = work.recipe.corpus.context
    trained = 5 * 4 * asked.steps * asked.batch * context
    return work.partners * work.read(PASSES * asked.test_tokens + trained)


def values(records: PairRecords) -> Mapping[str, Any] | None:
    """What the template is filled with; None where nothing was swapped."""
    rows = records.table(ALIGNMENT_SEARCH).to_dicts()
    if not rows:
        return None
    ends = {(row["model"], row["source"], row["map"]): row for row in rows}  # of most directions
    swaps = ShownTable.of(CAPTION, CELLS, ends.values(), numeric=range(3, 8))
    return {"swaps": swaps, "row": rows[0]}


ANALYSIS = Analysis(
    name="alignment_search",
    title="swap subspaces of residual streams",
    tables=(ALIGNMENT_SEARCH,),
    reads=(LAYERS,),
    wanted=lambda recipe: getattr(recipe, "alignment_search", None) is not None,
    left_out=left_out,
    units=units,
    measure="homolog.analyses.alignment_search.measure:measure_pair",
    seconds=seconds,
    chapter="Alignment search",
    asks="How many directions of one model keep the other's predictions?",
    figures=lambda records: [curve_figure(records, panel) for panel in PANELS],
    values=values,
)
