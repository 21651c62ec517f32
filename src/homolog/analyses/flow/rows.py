"""Rows of the table `flow`: what the links of all layers of a model say of each feature."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import polars as pl
from jaxtyping import Float, Int

from homolog.analyses.flow.links import Links, Side, lines, needed, states
from homolog.analyses.flow.words import COMES, FIRST, GOES, LAST
from homolog.record.tables import FLOW


@dataclass(frozen=True, eq=False)
class Beside:
    """What weights say of features and their neighbours in an adjacent kept layer.

    cosine: of the decoder directions of each feature and its best by r, NaN for none.  nearest: the
    nearest by weights, -1 for none.
    """

    cosine: Float[np.ndarray, " features"]
    nearest: Int[np.ndarray, " features"]


def flow_of(
    model: str,
    layers: Sequence[int],
    links: Sequence[Links],
    before: Sequence[Beside | None],
    after: Sequence[Beside | None],
    *,
    n_tokens: int,
    least_r: float,
    kept_r: float,
    fdr: float,
) -> pl.DataFrame:
    """Rows of `FLOW` of all features of a model, in the order of its kept `layers`.

    links, before, after: of each layer; None before the first and after the last.  n_tokens: of the
    text behind r.  least_r, kept_r: as `Interpretation.flow_r` and `flow_kept_r`; fdr: as
    `Matching`.
    """
    sizes = [len(link.n_active) for link in links]
    needs_before = _needs([link.before for link in links], links, n_tokens, least_r, fdr)
    needs_after = _needs([link.after for link in links], links, n_tokens, least_r, fdr)
    begins = lines(sizes, [_linked(x.before, n) for x, n in zip(links, needs_before, strict=True)])
    ends = lines(
        sizes[::-1],
        [_linked(x.after, n) for x, n in zip(links, needs_after, strict=True)][::-1],
    )[::-1]
    at = np.array(layers)
    parts = []
    for place, (link, size) in enumerate(zip(links, sizes, strict=True)):
        defined = link.n_active > 0
        columns = {"layer": np.full(size, layers[place]), "feature": np.arange(size)}
        for which, side, needs, beside, step in (
            ("ancestor", link.before, needs_before[place], before[place], -1),
            ("descendant", link.after, needs_after[place], after[place], 1),
        ):
            there = layers[place + step] if side is not None else -1
            columns |= _neighbours(which, there, size, side, needs, beside)
        comes = _words(link.before, needs_before[place], kept_r, COMES, FIRST, defined)
        goes = _words(link.after, needs_after[place], kept_r, GOES, LAST, defined)
        frame = pl.DataFrame(columns).with_columns(
            comes=pl.Series(comes, dtype=pl.String),
            goes=pl.Series(goes, dtype=pl.String),
            born_layer=pl.Series(at[begins[place][0]]),
            born_feature=pl.Series(begins[place][1]),
            last_layer=pl.Series(at[::-1][ends[place][0]]),
            last_feature=pl.Series(ends[place][1]),
        )
        parts.append(FLOW.frame(frame.with_columns(model=pl.lit(model))))
    return pl.concat(parts)


_Needs = Float[np.ndarray, " features"] | None


def _needs(
    sides: Sequence[Side | None], links: Sequence[Links], n_tokens: int, least_r: float, fdr: float
) -> list[_Needs]:
    """`needed` of the layers that have this neighbour, None of the other."""
    having = [(s, link.n_active) for s, link in zip(sides, links, strict=True) if s is not None]
    found = iter(needed(having, n_tokens, least_r=least_r, fdr=fdr))
    return [None if side is None else next(found) for side in sides]


def _linked(side: Side | None, needs: _Needs) -> Int[np.ndarray, " features"] | None:
    """The neighbour of each feature where it counts, else -1."""
    return None if side is None else np.where(side.r >= needs, side.feature, -1)


def _neighbours(
    which: str, there: int, size: int, side: Side | None, needs: _Needs, beside: Beside | None
) -> dict[str, np.ndarray]:
    none, undefined = np.full(size, -1), np.full(size, np.nan)
    values = {
        "layer": np.full(size, there),
        "feature": none if side is None else side.feature,
        "r": undefined if side is None else side.r,
        "needs": undefined if needs is None else needs,
        "cosine": undefined if beside is None else beside.cosine,
        "by_weights": none if beside is None else beside.nearest,
    }
    return {f"{which}_{name}": column for name, column in values.items()}


def _words(
    side: Side | None,
    needs: _Needs,
    kept_r: float,
    words: tuple[str, str, str],
    at_the_end: str,
    active: np.ndarray,
) -> list[str | None]:
    if side is None or needs is None:
        return [at_the_end if fires else None for fires in active]
    return states(side.r, needs, kept_r, words)
