"""What the engine, its calibration and its verdict say of planted features, beside the truth."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import polars as pl

import homolog
from homolog.matching import MatrixMatches, StandIn
from homolog.matching.homologs import CREDIT, MARGIN, RIVAL_RATIO
from homolog.matching.planted import PlantedMatches

MARGINS = (0.01, 0.02, 0.04, 0.06, 0.09)
RIVALS = (0.5, 0.6, 0.8, 0.9)
CREDITS = (0.0, 0.05, 0.2, 0.3)
NAMES = ("A", "B")


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


def find(planted: PlantedMatches, n_exchanges: int, seed: int) -> tuple[Found, Found]:
    """Match, calibrate and classify both directions.

    A column of A counts as the partner's modulo the number of columns of B.
    """
    matches = {both: _matches(planted, n_exchanges, seed, both) for both in (False, True)}
    tables = {
        how: matches[how.both].under(
            margin=how.margin, control_credit=how.credit, rival_ratio=how.ratio
        )
        for how in WAYS
    }
    truth_a = Truth(planted.partner_a, planted.noise_a, planted.kind_a)
    truth_b = Truth(planted.partner_b, planted.noise_b, planted.kind_b)
    found_a, found_b = (
        _found(
            matches[False].table.filter(model=name),
            matches[False].controls.filter(model=name),
            {how: table.filter(model=name)["homolog"] for how, table in tables.items()},
            truth,
        )
        for name, truth in zip(NAMES, (truth_a, truth_b), strict=True)
    )
    return found_a, found_b


def _matches(planted: PlantedMatches, n_exchanges: int, seed: int, both: bool) -> MatrixMatches:
    """both: an untrained stand-in is a control for either side, not for its partner's alone."""
    stand_ins = {"A": planted.untrained_a, "B": planted.untrained_b}
    return homolog.match(
        planted.a,
        planted.b,
        documents=planted.document,
        tokens=planted.token,
        controls={
            f"untrained {name}": StandIn(x, None if both else name) for name, x in stand_ins.items()
        },
        names=NAMES,
        null_exchanges=n_exchanges,
        seed=seed,
        resamples=2,  # no interval is asked for
        threads=1,
    )


def _found(
    table: pl.DataFrame, controls: pl.DataFrame, homolog: dict[How, pl.Series], truth: Truth
) -> Found:
    r, index = table["r"].to_numpy(), table["best_feature"].to_numpy()
    best = controls["r"].to_numpy().reshape(-1, len(table))  # one row per control
    return Found(
        r=r,
        n_active=table["n_active"].to_numpy(),
        threshold=table["threshold"].to_numpy(),
        mutual=table["mutual"].to_numpy(),
        assigned=(index >= 0) & (table["partner_feature"].to_numpy() == index),
        relative=r / table["rival_r"].to_numpy(),
        control=np.fmax.reduce(best),
        homolog={how: column.fill_null(False).to_numpy() for how, column in homolog.items()},
        partner=truth.partner,
        right=(truth.partner >= 0) & (index % len(truth.noise) == truth.partner),
        noise=truth.noise,
        kind=truth.kind,
    )
