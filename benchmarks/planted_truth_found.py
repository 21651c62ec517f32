"""What the engine, its calibration and its verdict say of planted features, beside the truth."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
import polars as pl
import scipy.sparse

from homolog.matching import Columns, Partners, max_pearson, prepare
from homolog.matching.assignment import mutual, one_to_one
from homolog.matching.beyond import Grouping, Place, beyond_controls
from homolog.matching.homologs import (
    CREDIT,
    FDR,
    MARGIN,
    RIVAL_RATIO,
    Baseline,
    Criterion,
    classify,
)
from homolog.matching.null import calibrate, document_exchanges
from homolog.matching.pairs import PairMatch, match_pair
from homolog.matching.planted import PlantedMatches
from homolog.record.comparisons import MAIN_LABEL

CANDIDATES = 4  # partners of each feature that the assignment may choose from
MARGINS = (0.01, 0.02, 0.04, 0.06, 0.09)
RIVALS = (0.5, 0.6, 0.8, 0.9)
CREDITS = (0.0, 0.05, 0.2, 0.3)
MAIN, UNTRAINED, TOKENS = "main", "untrained", "tokens"
STAND_INS = {name: (f"untrained {name}", MAIN_LABEL) for name in "AB"}
BASELINES = (
    Baseline(UNTRAINED, "an untrained {}", STAND_INS),
    Baseline(TOKENS, "the current token", by_token=True),
)


@dataclass(frozen=True)
class How:
    """How a verdict is asked for.

    both: the stand-in of the feature's own model is a control as well.
    """

    margin: float = MARGIN
    credit: float = CREDIT
    ratio: float = RIVAL_RATIO
    both: bool = True


WAYS = [How(both=both) for both in (True, False)]
WAYS += [How(margin=margin) for margin in MARGINS] + [How(ratio=ratio) for ratio in RIVALS]
WAYS += [How(credit=credit) for credit in CREDITS]


@dataclass(frozen=True)
class Found:
    """One direction: what was measured of each feature, and the truth.  All (features,).

    r: best correlation; n_active: tokens; threshold: of the null; mutual: the best's best is this
    feature; assigned: the best is also the one-to-one partner; relative: r over the best r of the
    best; control: highest r with one feature of the stand-in or with one token; homolog: what
    `classify` says; partner: the column that is the partner, -1 where there is none; right: the
    best is the partner; noise: of the copy; kind: of `planted.KINDS`.
    """

    r: np.ndarray
    n_active: np.ndarray
    threshold: np.ndarray
    mutual: np.ndarray
    assigned: np.ndarray
    relative: np.ndarray
    control: np.ndarray
    homolog: dict[How, np.ndarray]
    partner: np.ndarray
    right: np.ndarray
    noise: np.ndarray
    kind: np.ndarray

    @property
    def has(self) -> np.ndarray:
        """Whether there is a partner."""
        return self.partner >= 0


@dataclass(frozen=True)
class Truth:
    """Of each feature of one model: its partner, the noise of its copy, its kind."""

    partner: np.ndarray
    noise: np.ndarray
    kind: np.ndarray


@dataclass(frozen=True)
class Direction:
    """The features `of` one model, those of the other, `to`, and of what stands in for that.

    names: of both models.  own_stand_in: what stands in for the first.  pair: their matches.
    one_hot: one column for each token.
    """

    names: tuple[str, str]
    of: Columns
    to: Columns
    stand_in: Columns
    own_stand_in: Columns
    one_hot: Columns
    n_active: np.ndarray
    pair: PairMatch

    @cached_property
    def threshold(self) -> np.ndarray:
        r, null = self.pair.a_to_b.r[:, 0], self.pair.null_a
        return calibrate(r, self.n_active, null, n_tokens=self.of.n_tokens, fdr=FDR).threshold

    @cached_property
    def to_stand_in(self) -> Partners:
        return max_pearson(self.of, self.stand_in, 1, threads=1).a_to_b

    @cached_property
    def to_tokens(self) -> Partners:
        return max_pearson(self.of, self.one_hot, 1, threads=1).a_to_b

    def matches(self) -> pl.DataFrame:
        """Rows of matches, of the partners first."""
        partner = self.names[1]
        main = _rows(MAIN, (self.names[0], partner), self.pair.a_to_b)
        main = main.with_columns(threshold=self.threshold)
        control = _rows(UNTRAINED, (self.names[0], STAND_INS[partner][0]), self.to_stand_in)
        tokens = _rows(TOKENS, (self.names[0], "current token"), self.to_tokens)
        return pl.concat([main, control, tokens], how="diagonal")

    def beyond(self, grouping: Grouping, both: bool) -> pl.DataFrame:
        """What the partner explains beyond the token and the stand-ins together."""
        own = _place(self.of, np.arange(self.of.n_features))
        partner = _place(self.to, self.pair.a_to_b.index[:, 0])
        controls = [_place(self.stand_in, self.to_stand_in.index[:, 0])]
        if both:
            best = max_pearson(self.of, self.own_stand_in, 1, threads=1).a_to_b
            controls.append(_place(self.own_stand_in, best.index[:, 0]))
        return beyond_controls(own, partner, controls, grouping, lambda layer: layer, threads=1)

    def found(self, homolog: dict[How, np.ndarray], assigned: np.ndarray, truth: Truth) -> Found:
        own, back = self.pair.a_to_b, self.pair.b_to_a
        r, index = own.r[:, 0], own.index[:, 0]
        return Found(
            r=r,
            n_active=self.n_active,
            threshold=self.threshold,
            mutual=mutual(index, back.index[:, 0]),
            assigned=(index >= 0) & (assigned == index),
            relative=np.where(index >= 0, r / back.r[index, 0], np.nan),
            control=np.fmax(self.to_stand_in.r[:, 0], self.to_tokens.r[:, 0]),
            homolog=homolog,
            partner=truth.partner,
            right=(truth.partner >= 0) & (index % len(truth.noise) == truth.partner),
            noise=truth.noise,
            kind=truth.kind,
        )


def find(planted: PlantedMatches, n_exchanges: int, seed: int) -> tuple[Found, Found]:
    """Match, calibrate and classify both directions.

    A column of A counts as the partner's modulo the number of columns of B.
    """
    exchanges = document_exchanges(planted.document, n_exchanges, seed)
    a, b, one_hot = prepare(planted.a), prepare(planted.b), prepare(_one_hot(planted.token))
    untrained_a, untrained_b = prepare(planted.untrained_a), prepare(planted.untrained_b)
    active_a, active_b = _n_active(planted.a), _n_active(planted.b)
    pair = match_pair(a, b, CANDIDATES, exchanges=exchanges, threads=1)
    own, back = pair.a_to_b, pair.b_to_a
    assigned = one_to_one(own.index, own.r, back.index, back.r)
    there = Direction(("A", "B"), a, b, untrained_b, untrained_a, one_hot, active_a, pair)
    again = Direction(("B", "A"), b, a, untrained_a, untrained_b, one_hot, active_b, pair.reversed)
    homolog_a, homolog_b = homologs((there, again), Grouping.of(planted.document, planted.token))
    truth_a = Truth(planted.partner_a, planted.noise_a, planted.kind_a)
    truth_b = Truth(planted.partner_b, planted.noise_b, planted.kind_b)
    return (
        there.found(homolog_a, assigned.a, truth_a),
        again.found(homolog_b, assigned.b, truth_b),
    )


def homologs(directions: Sequence[Direction], grouping: Grouping) -> list[dict[How, np.ndarray]]:
    """For each direction, which features have a homolog, in every way to ask."""
    matches = pl.concat([direction.matches() for direction in directions])
    beyond = {
        both: pl.concat([direction.beyond(grouping, both) for direction in directions])
        for both in (False, True)
    }
    made: list[dict[How, np.ndarray]] = [{} for _ in directions]
    for how in WAYS:
        criterion = Criterion(MAIN, BASELINES, how.margin, how.credit, how.ratio, FDR)
        table = classify(matches, criterion, beyond[how.both])
        for direction, homolog in zip(directions, made, strict=True):
            own = table.filter(comparison=MAIN, model=direction.names[0])["homolog"]
            homolog[how] = own.fill_null(False).to_numpy()
    return made


def _rows(comparison: str, names: tuple[str, str], side: Partners) -> pl.DataFrame:
    found = {"feature": np.arange(len(side.r)), "best_feature": side.index[:, 0]}
    told = {"comparison": comparison, "model": names[0], "best_model": names[1]}
    told |= {"label": MAIN_LABEL, "best_label": MAIN_LABEL}
    return pl.DataFrame(found | {"r": side.r[:, 0]}).with_columns(
        *(pl.lit(value).alias(name) for name, value in told.items()),
        layer=pl.lit(0),
        best_layer=pl.lit(0),
    )


def _place(columns: Columns, features: np.ndarray) -> Place:
    return [columns], np.zeros(len(features), np.int64), features.astype(np.int64)


def _n_active(x: Any) -> np.ndarray:
    return np.bincount(x.indices, minlength=x.shape[1])


def _one_hot(token: np.ndarray) -> Any:
    ones = np.ones(len(token), dtype=np.float32)
    return scipy.sparse.csr_array((ones, (np.arange(len(token)), token)))
