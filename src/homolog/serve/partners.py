"""Which feature of the other model each one is matched with, from the table of matches."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import NamedTuple

import polars as pl

from homolog.record.comparisons import MAIN
from homolog.record.run_folder import RunFolder
from homolog.record.sides import MAIN_LABEL
from homolog.record.tables import MATCHES

Place = tuple[int, int]
"""Layer and feature."""


class Partner(NamedTuple):
    """The best partner of a feature."""

    place: Place
    r: float
    homolog: bool
    """The run's verdict."""


class Link(NamedTuple):
    """Two features that fire together and of which one is the other's homolog."""

    a: Place
    b: Place
    r: float


@dataclass(frozen=True)
class Partners:
    """The partners of the features of both models of a pair, by their place."""

    sides: tuple[Mapping[Place, Partner], Mapping[Place, Partner]]

    @classmethod
    def read(cls, run: RunFolder, a: str, b: str) -> "Partners":
        """From the comparison main of a run; features without a partner are left out."""
        names = ("layer", "feature", "best_layer", "best_feature", "r", "homolog")
        main = MATCHES.scan(run.table(MATCHES)).filter(comparison=MAIN.name, label=MAIN_LABEL)
        main = main.filter(pl.col("best_feature") >= 0, pl.col("r").is_finite())

        def side(model: str, other: str) -> dict[Place, Partner]:
            own = main.filter(model=model, best_model=other).select(names).collect()
            return {
                (layer, feature): Partner((best_layer, best), r, bool(homolog))
                for layer, feature, best_layer, best, r, homolog in own.iter_rows()
            }

        return cls((side(a, b), side(b, a)))

    def links(self, a: Mapping[Place, float], b: Mapping[Place, float]) -> list[Link]:
        """The homologs among the features that fire in both; a, b: their activations by place."""
        found: dict[tuple[Place, Place], float] = {}
        for place in a:
            own = self.sides[0].get(place)
            if own is not None and own.homolog and own.place in b:
                found[place, own.place] = own.r
        for place in b:
            own = self.sides[1].get(place)
            if own is not None and own.homolog and own.place in a:
                found[own.place, place] = own.r
        return [Link(*places, r) for places, r in found.items()]
