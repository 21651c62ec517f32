"""The activations of a feature and its best partner on the same text, where either fires most.

    own examples          the top examples of the feature; values of the partner on their tokens
    the partner's         its top examples; values of the feature on their tokens, so that what
                          only the partner fires on is there too

An example of the partner whose place an own example shows already is left out: there both stand
anyway.  With two tokenizers the other of the two is known where units end (`analyses.units`), and
the places of the two texts are not compared.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property

import numpy as np
import polars as pl
from jaxtyping import Float, Int
from scipy.sparse import csr_array, issparse

from homolog.analyses.analysis import Tables
from homolog.analyses.features.measure.example_kernels import flattened
from homolog.analyses.features.measure.examples import list_column
from homolog.analyses.material import Material
from homolog.analyses.units import features_on
from homolog.corpus import TokenWindows
from homolog.record.comparisons import MAIN
from homolog.record.tables import CONTEXTS, MATCHES, OVERLAY

EXAMPLES = 8
"""Of each of the two, at most."""
TOP = 1.0
"""The quantile of the top examples."""


def measure_layer(material: Material, model: str, layer: int) -> Tables:
    """Task: the features of a layer and their best partners of the main comparison."""
    matches = material.table(MATCHES).filter(comparison=MAIN.name, model=model, layer=layer)
    known = matches.filter(pl.col("best_feature") >= 0).sort("best_model", "best_layer", "feature")
    own = _top(material, model, layer)
    parts = [OVERLAY.frame()]
    for (other, there), pairs in known.group_by("best_model", "best_layer", maintain_order=True):
        partner = _top(material, str(other), int(there))  # type: ignore[call-overload]
        theirs = features_on(material, partner.model, partner.layer, model)
        mine = features_on(material, model, layer, partner.model)
        parts.append(overlay(pairs, own, partner, mine=mine, theirs=theirs))
    return {OVERLAY.name: pl.concat(parts).sort("best_model", "feature", maintain_order=True)}


@dataclass(frozen=True, eq=False)
class TopExamples:
    """The top examples of a layer.  table: of `CONTEXTS`; windows: the text of its model."""

    model: str
    layer: int
    table: pl.DataFrame
    windows: TokenWindows

    @cached_property
    def row_of(self) -> Int[np.ndarray, " place"]:
        """The row of the features at each place of the text; -1 where it is masked."""
        return flattened(self.windows).row_of

    def places(self, examples: pl.DataFrame) -> tuple[np.ndarray, np.ndarray]:
        """The first place in the text that each example shows, and the one after the last."""
        window, start = (examples[name].to_numpy().astype(np.int64) for name in ("window", "start"))
        first = window * self.windows.context + start
        return first, first + examples["tokens"].list.len().to_numpy()


def overlay(
    pairs: pl.DataFrame,
    own: TopExamples,
    partner: TopExamples,
    *,
    mine: csr_array,
    theirs: csr_array,
) -> pl.DataFrame:
    """Rows of `OVERLAY` for features of a layer whose best partners are in one layer.

    pairs: columns feature and best_feature.  mine: the features, a row for each token that the
    partner's model reads; theirs: the partners, a row for each token of the own model.
    """
    shown = _of_pairs(pairs, own, "feature")
    further = _of_pairs(pairs, partner, "best_feature")
    if own.windows.hash == partner.windows.hash:
        further = further.filter(~_among(further, shown, own))
    parts = (
        _laid_over(shown, own, theirs, "best_feature", of_partner=False),
        _laid_over(further, partner, mine, "feature", of_partner=True),
    )
    columns = pl.concat(parts).with_columns(best_model=pl.lit(partner.model))
    return OVERLAY.frame(columns.sort("feature", "of_partner", "rank"))


def _top(material: Material, model: str, layer: int) -> TopExamples:
    table = CONTEXTS.read(material.run.table(CONTEXTS, model, layer))
    chosen = table.filter(quantile=TOP).filter(pl.col("rank") < EXAMPLES)
    return TopExamples(model, layer, chosen, material.windows("match", model))


def _of_pairs(pairs: pl.DataFrame, of: TopExamples, whose: str) -> pl.DataFrame:
    """The examples of each pair, with both features."""
    examples = of.table.rename({"feature": whose}, strict=True)
    both = pairs.select("feature", "best_feature")
    return both.join(examples, on=whose, how="inner", maintain_order="left_right")


def _among(further: pl.DataFrame, shown: pl.DataFrame, of: TopExamples) -> pl.Series:
    """Whether an own example of the same pair shows the place of each further one."""
    context = of.windows.context
    place = further["window"].cast(pl.Int64) * context + further["position"].cast(pl.Int64)
    first, end = of.places(shown)
    spans = shown.select("feature", _first=pl.Series(first), _end=pl.Series(end))
    numbered = further.select("feature", _place=place).with_row_index("_at")
    inside = numbered.join(spans, on="feature").filter(
        (pl.col("_first") <= pl.col("_place")) & (pl.col("_place") < pl.col("_end"))
    )
    return numbered["_at"].is_in(inside["_at"].unique().to_list())


def _laid_over(
    examples: pl.DataFrame, of: TopExamples, matrix: csr_array, other: str, *, of_partner: bool
) -> pl.DataFrame:
    """The examples of a model with the activations of the other feature on their tokens."""
    first, end = of.places(examples)
    size = end - first
    offset = np.concatenate([[0], np.cumsum(size)])
    within = np.arange(offset[-1]) - np.repeat(offset[:-1], size)
    rows = of.row_of[np.repeat(first, size) + within]
    features = np.repeat(examples[other].to_numpy().astype(np.int64), size)
    values = list_column(offset, values_at(matrix, rows, features))
    return examples.select("feature", "rank", of_partner=pl.lit(of_partner), values=values)


def values_at(
    matrix: csr_array, rows: Int[np.ndarray, "n"], columns: Int[np.ndarray, "n"]
) -> Float[np.ndarray, "n"]:
    """The entries of a matrix at these places; 0 where a row is -1."""
    found = np.zeros(len(rows), np.float32)
    known = np.flatnonzero(rows >= 0)
    for part in _parts(known):
        entries = matrix[rows[part], columns[part]]
        found[part] = (entries.toarray() if issparse(entries) else np.asarray(entries)).ravel()
    return found


def _parts(places: Int[np.ndarray, "n"], size: int = 1 << 22) -> Iterator[np.ndarray]:
    """So many at a time, since scipy's indices are wide."""
    for start in range(0, len(places), size):
        yield places[start : start + size]
