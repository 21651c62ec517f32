"""Homologs as people see them: the same contexts, shaded by both features."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from functools import lru_cache
from itertools import islice

import polars as pl
from markupsafe import Markup

from homolog.analyses.records import PairRecords
from homolog.charts.shown_features import FeatureReader
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
    folder = records.folder

    @lru_cache(maxsize=4)
    def contexts(model: str, layer: int) -> pl.DataFrame:
        path = folder.table(CONTEXTS, model, layer)
        return CONTEXTS.read(path) if path.is_file() else CONTEXTS.frame()

    reader = FeatureReader(folder, contexts)
    seen: set[str] = set()
    for match, link in zip(own.iter_slices(1), links, strict=True):
        pair = reader.pair(match)
        sides = (pair.feature, pair.partner)
        if not all(side.contexts for side in sides):
            continue
        tokens = {side.contexts[0].text[1].strip().lower() for side in sides}
        if tokens & seen:
            continue
        seen |= tokens
        yield Example(
            number(match["r"].item()),
            link,
            [
                (f"{side.model}, block {side.layer}", [Markup(line) for line in side.lines(LINES)])
                for side in sides
            ],
        )
