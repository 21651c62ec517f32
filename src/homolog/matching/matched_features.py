"""The features behind a table of matches, and what only they can say of it.

A table holds the best r of every feature.  What the partner explains beyond the controls, and r on
other documents, need the activations of the feature, its partner and its controls once more.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import polars as pl
from jaxtyping import Int

from homolog.matching.beyond import Grouping, beyond_matches
from homolog.matching.columns import Columns
from homolog.matching.homologs import Criterion
from homolog.matching.intervals import Resamples, replicates_of
from homolog.matching.layers import Layer, LayerFacts
from homolog.matching.together import documents_together


@dataclass(frozen=True)
class MatchedFeatures:
    """All features of all sides of some comparisons, on the same rows.

    document, token: (tokens,), of each row; token None where the current token is not known.
    layers_of: gives the layers of a (model, label) that have features.  columns: gives the
    prepared columns of a layer, of which `by_column` is read; layers are asked for in turn.
    """

    document: Int[np.ndarray, "token"]
    token: Int[np.ndarray, "token"] | None
    layers_of: Callable[[str, str], Sequence[Layer | LayerFacts]]
    columns: Callable[[Any], Columns]

    def beyond(
        self, matches: pl.DataFrame, criterion: Criterion, *, threads: int | None = None
    ) -> pl.DataFrame:
        """What partners explain beyond all controls: `BEYOND`, one row for each of the result's.

        matches: of all comparisons; a baseline that has no rows there is no control.
        """
        rows = matches.filter(comparison=criterion.result)
        run = set(matches["comparison"].unique())
        by_token = any(each.by_token and each.name in run for each in criterion.baselines)
        controls = [b.partners(matches, rows) for b in criterion.baselines if not b.by_token]
        grouping = Grouping.of(self.document, self.token if by_token else None)
        beyond = beyond_matches(
            rows, controls, grouping, self.layers_of, self.columns, threads=threads
        )
        return beyond if by_token else beyond.with_columns(token_r2=pl.lit(None, pl.Float32))

    def together(self, rows: pl.DataFrame, *, threads: int | None = None) -> pl.Series:
        """For every match, in how many documents both fire: see `documents_together`."""
        return documents_together(
            rows, self.document, self.layers_of, self.columns, threads=threads
        )

    def replicates(
        self, result: pl.DataFrame, n_replicates: int, seed: int
    ) -> dict[tuple[str, str], np.ndarray]:
        """For each (model, best_model) of the result, r of its rows on documents resampled."""
        resamples = Resamples.draw(self.document, n_replicates, seed)
        replicates: dict[tuple[str, str], np.ndarray] = {}
        for (model, label, other, other_label), rows in result.group_by(
            "model", "label", "best_model", "best_label", maintain_order=True
        ):
            own, others = self.layers_of(model, label), self.layers_of(other, other_label)
            replicates[model, other] = replicates_of(rows, own, others, resamples, self.columns)
        return replicates
