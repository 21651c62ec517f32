"""Which features have a homolog in the other model: matches classified against their controls.

A feature i of A has a *homolog* in B when its best partner's correlation r

    1. is significant: Benjamini-Hochberg q <= fdr against the null of the maximum, that is,
       r >= threshold;
    2. is higher than i's own best r in every baseline that was run, which stands in B's place and
       cannot have learned the same: in a study, an untrained twin of B, B's dictionaries turned at
       random, the current token;
    3. has no rival: it is at least `rival_ratio`, 0.7 by default, of the partner's highest r with
       any feature of A;
    4. is at least `homolog_r`, 0.2 by default;

in one number, r >= bar with bar = max(threshold, next above the baselines' r, rival_ratio *
rival_r, homolog_r).

Why rivals and a floor: at a million tokens r = 0.05 is significant, and superposition leaks that
much and more from anything active on the same tokens.  A leak is a true correlation, but the
feature that leaks resembles its source much more.  The ratio leaves room for what a residual stream
carries through several layers and for a feature of B that A splits in parts of about one size,
which a mutual best match would not.  r^2 is the share of i's variance that the best line through
the partner explains; where B splits i into m equal parts that fire in turn, each has r = 1 /
sqrt(m).  0.2 asks for 4 %, or for one part of at most 25.  docs/methods-planted-truth.md measures
both against known partners.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import polars as pl

from homolog.matching.tables import FEATURE, HOMOLOGS, MATCHES, Schema, completed
from homolog.record.comparisons import MAIN_LABEL

HOMOLOG_R = 0.2
RIVAL_RATIO = 0.7


@dataclass(frozen=True)
class Baseline:
    """A comparison in which something that cannot have learned the same takes a partner's place.

    name: of the comparison.  words: what was compared, for people; {} is the partner's name.
    stand_ins: for each partner by name, the (best_model, best_label) that takes its place; None:
    whatever was compared takes the place of every partner.
    """

    name: str
    words: str
    stand_ins: Mapping[str, tuple[str, str]] | None = None

    def best_r(self, matches: pl.DataFrame) -> pl.DataFrame:
        """Highest r of each feature, and partner, in this comparison, as a column `name`."""
        rows = matches.filter((pl.col("comparison") == self.name) & pl.col("r").is_not_nan())
        if self.stand_ins is not None:
            place = ("best_model", "best_label")
            of = [(partner, *stand_in) for partner, stand_in in self.stand_ins.items()]
            schema: Schema = dict.fromkeys(("partner", *place), pl.String)
            rows = rows.join(pl.DataFrame(of, schema=schema, orient="row"), on=place)
            rows = rows.drop(place).rename({"partner": "best_model"})
        return rows.group_by(self.keys).agg(pl.col("r").max().alias(self.name))

    @property
    def keys(self) -> list[str]:
        """What tells its rows apart: the feature, and the partner where there are stand-ins."""
        return FEATURE if self.stand_ins is None else [*FEATURE, "best_model"]

    def was_run(self, matches: pl.DataFrame, model: str, partner: str) -> bool:
        """Whether `matches` hold `model`'s main features against what takes `partner`'s place."""
        run = matches.filter(comparison=self.name, model=model, label=MAIN_LABEL)
        if self.stand_ins is None:
            return not run.is_empty()
        return self.stand_ins.get(partner) in set(run.select("best_model", "best_label").rows())


@dataclass(frozen=True)
class Criterion:
    """What makes a match a homolog: see the module's opening.

    result: name of the comparison whose matches are classified.  homolog_r: least r.  rival_ratio:
    least share of the partner's highest r.
    """

    result: str
    baselines: Sequence[Baseline] = ()
    homolog_r: float = HOMOLOG_R
    rival_ratio: float = RIVAL_RATIO

    def bar(self, rows: pl.DataFrame) -> np.ndarray:
        """Least r of a homolog, float32 (rows,); NaN where there is no threshold.

        rows: with `threshold`, `rival_r` and `control_r`, null where there is none.
        """
        above = _next_above(rows["control_r"].to_numpy().astype(np.float32))  # NaN without
        rival = rows["rival_r"].to_numpy().astype(np.float64)
        floor = np.fmax(self.rival_ratio * rival, self.homolog_r)
        near = floor.astype(np.float32)
        least = np.where(near < floor, _next_above(near), near)
        return np.maximum(rows["threshold"].to_numpy().astype(np.float32), np.fmax(above, least))


def classify(matches: pl.DataFrame, criterion: Criterion) -> pl.DataFrame:
    """`matches` with `rival_r`, and for the result `control_r`, `bar` and `homolog`, of `HOMOLOGS`.

    matches: of all comparisons, both directions, with r and `threshold` (`Calibration.threshold`),
    NaN or left out where no null was run; rows keep their order.  rival_r: highest r of the best
    partner with any feature of the own model, the feature itself among them; null where r is NaN or
    the other direction is missing.  control_r: highest r of the baselines, bar: least r of a
    homolog.  The last three are null in other comparisons; control_r where no baseline was run, bar
    and homolog without a null and where r is NaN.
    """
    plain = matches.drop(HOMOLOGS, strict=False).with_row_index("_row")
    plain = _with_rivals(completed(plain, {"threshold": MATCHES["threshold"]}))
    result = plain.filter(pl.col("comparison") == criterion.result)
    for baseline in criterion.baselines:
        best = baseline.best_r(plain)
        result = result.join(
            best, on=baseline.keys, how="left", maintain_order="left", validate="m:1"
        )
    names = [baseline.name for baseline in criterion.baselines]
    result = result.with_columns(
        control_r=pl.max_horizontal(pl.lit(None, HOMOLOGS["control_r"]), *names)
    )
    bar = criterion.bar(result)
    bar[np.isnan(result["r"].to_numpy())] = np.nan
    classified = result.select("_row", "control_r", bar=pl.Series(bar).fill_nan(None))
    classified = classified.with_columns(homolog=result["r"] >= pl.col("bar"))
    return plain.join(classified, on="_row", how="left", maintain_order="left").drop("_row")


def _with_rivals(matches: pl.DataFrame) -> pl.DataFrame:
    """The rows with `rival_r`: r of the partner's own row in the other direction."""
    partner = {f"best_{name}": name for name in FEATURE}
    partner |= {"model": "best_model", "label": "best_label"}
    back = matches.select(
        "comparison", *(pl.col(own).alias(name) for name, own in partner.items()), rival_r="r"
    )
    rows = matches.join(
        back, on=["comparison", *partner], how="left", maintain_order="left", validate="m:1"
    )
    return rows.with_columns(pl.col("rival_r").fill_nan(None))


def _next_above(x: np.ndarray) -> np.ndarray:
    """The least float32 above each x."""
    return np.nextafter(x, np.float32(np.inf))
