"""Homologs as people see them: the same contexts, shaded by both features."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from functools import lru_cache
from itertools import islice
from typing import Any

import polars as pl
from markupsafe import Markup

from homolog.analyses.records import PairRecords
from homolog.charts.shown_features import ShownFeature
from homolog.charts.words import number
from homolog.record.comparisons import MAIN
from homolog.record.tables import CONTEXTS

SHOWN, LINES = 3, 2
"""Pairs, and contexts of each feature."""
ENOUGH_TOKENS = 100
"""On which a feature fires that stands for others, at least."""


@dataclass(frozen=True)
class Example:
    """A homolog: r, where it leads, and both features with lines of shaded text."""

    r: str
    link: str
    sides: list[tuple[str, list[Markup]]]


def examples(records: PairRecords) -> list[Example]:
    """Mutual homologs of side A of which controls explain least, no two of one token.

    None where the run has no examples of features.
    """
    if not records.explored:
        return []
    likely = pl.col("homolog") & pl.col("mutual") & (pl.col("n_active") >= ENOUGH_TOKENS)
    own = records.matches.filter(likely, comparison=MAIN.name, side="A")
    order = ["beyond", "layer", "feature"]
    own = own.sort(order, descending=[True, False, False], nulls_last=True).head(20 * SHOWN)
    links = records.feature_links("A", own)
    return list(islice(_chosen(records, own, links), SHOWN))


def _chosen(records: PairRecords, own: pl.DataFrame, links: list[str]) -> Iterator[Example]:
    @lru_cache(maxsize=4)
    def contexts(model: str, layer: int) -> pl.DataFrame:
        path = records.folder.table(CONTEXTS, model, layer)
        return CONTEXTS.read(path) if path.is_file() else CONTEXTS.frame()

    @lru_cache(maxsize=2)
    def words(text: str) -> list[Any]:
        return records.folder.token_texts(text)

    seen: set[str] = set()
    for row, link in zip(own.iter_rows(named=True), links, strict=True):
        sides = [
            ShownFeature.of(
                (model, layer, feature),
                contexts(model, layer).filter(feature=feature),
                words(records.folder.text_of(model)),
                side,
            )
            for side, (model, layer, feature) in enumerate(
                (
                    (row["model"], row["layer"], row["feature"]),
                    (row["best_model"], row["best_layer"], row["best_feature"]),
                )
            )
        ]
        if not all(side.contexts for side in sides):
            continue
        tokens = {side.contexts[0].text[1].strip().lower() for side in sides}
        if tokens & seen:
            continue
        seen |= tokens
        yield Example(
            number(row["r"]),
            link,
            [
                (f"{side.model}, block {side.layer}", [Markup(line) for line in side.lines(LINES)])
                for side in sides
            ],
        )
