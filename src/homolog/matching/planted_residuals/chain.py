"""From the features of planted models to the verdict: one layer, by the steps of a study.

Matches both ways, a null of exchanged documents, and for controls the current token, the untrained
model's dictionary in the place of either, and the partner's own dictionary rotated; one untrained
model stands for both, so that its two places in a study are one here.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
import polars as pl

from homolog.matching.beyond import Grouping, beyond_matches
from homolog.matching.columns import Columns, prepare
from homolog.matching.control_fit import fitted
from homolog.matching.homologs import Baseline, Criterion, classify
from homolog.matching.layers import LayerFacts, tables_of
from homolog.matching.null import document_exchanges
from homolog.matching.pairs import match_pair
from homolog.matching.planted_residuals.latents import PlantedText
from homolog.record.sides import MAIN_LABEL

EXCHANGES = 2


@dataclass(frozen=True, eq=False)
class Encoded:
    """The features of one dictionary on a text.

    model, label: names.  features: CSR float32 (tokens, features).  explained_variance: of the
    dictionary on that text.
    """

    model: str
    label: str
    features: Any
    explained_variance: float

    @cached_property
    def columns(self) -> Columns:
        return prepare(self.features)

    @property
    def layer(self) -> int:
        """The only one."""
        return self.facts.layer

    @property
    def facts(self) -> LayerFacts:
        n_tokens, n_features = self.features.shape
        n_active = np.bincount(self.features.indices, minlength=n_features)
        return LayerFacts("sae", self.model, self.label, 0, n_tokens, n_active)


def called(
    pair: tuple[Encoded, Encoded],
    rotated: tuple[Encoded, Encoded],
    untrained: Encoded,
    text: PlantedText,
    *,
    n_exchanges: int = EXCHANGES,
    seed: int = 0,
    threads: int | None = None,
) -> pl.DataFrame:
    """The matches of the pair, both ways, classified: rows of `record.tables.MATCHES`.

    rotated: of the same names, labelled "rotated".  n_exchanges: of the null, which with few
    features needs more than in a study to resolve a false discovery rate of 1 %.
    """
    a, b = pair
    exchanges = document_exchanges(text.document, n_exchanges, seed)
    compared = {
        "main": [(a, b)],
        "untrained": [(a, untrained), (b, untrained)],
        "rotated": [(a, rotated[1]), (b, rotated[0])],
    }
    tables = []
    for comparison, sides in compared.items():
        for own, other in sides:
            orders = exchanges if comparison == "main" else ()
            made = match_pair(own.columns, other.columns, exchanges=orders, threads=threads)
            both = tables_of([own.facts], [other.facts], [[made]], comparison=comparison)
            tables.append(both.matches)
    matches = pl.concat(tables)
    baselines = _baselines(pair, untrained)
    rows = matches.filter(comparison="main")
    side = {(side.model, side.label): side for side in (*pair, *rotated, untrained)}
    beyond = beyond_matches(
        rows,
        [baseline.partners(matches, rows) for baseline in baselines],
        Grouping.of(text.document, text.token),
        lambda model, label: [side[model, label]],
        lambda side: side.columns,
        threads=threads,
    )
    return classify(matches, Criterion("main", baselines), beyond).filter(comparison="main")


def _baselines(pair: tuple[Encoded, Encoded], untrained: Encoded) -> Sequence[Baseline]:
    """The controls that are as well fitted as what they control, as in a study."""
    names = [side.model for side in pair]
    twins = {name: (untrained.model, MAIN_LABEL) for name in names}
    turned = {name: (name, "rotated") for name in names}
    saes = pl.DataFrame(
        {
            "model": [*names, untrained.model],
            "label": [MAIN_LABEL] * 3,
            "explained_variance": [side.explained_variance for side in (*pair, untrained)],
        }
    )
    baselines = [
        Baseline("untrained", "an untrained {}", twins),
        Baseline("rotated", "{} rotated", turned),
    ]
    return fitted(baselines, saes).baselines
