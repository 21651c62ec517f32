"""Do the rows stand in the expected order?

Expected, from the paper and from later work on its pitfalls: the result lies well above its
baselines and not above its skylines, and neurons stay near their own random baseline.

    well above:  lower end of one interval above the upper end of the other, and means at least
                 `MARGIN` apart
    above:       the means in that order, but one of the two does not hold
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import polars as pl

from homolog.analyses.records import PairRecords, Row
from homolog.charts.words import CLOSE
from homolog.record import comparisons
from homolog.record.sides import NEURON

MARGIN = 0.1


@dataclass(frozen=True)
class Check:
    """What is expected of the result against one comparison.

    outcome: "yes", "weakly", "no" or "not measured".  means: of the result and of the comparison,
    with the model whose features these are.
    """

    comparison: comparisons.Comparison
    outcome: str
    means: list[tuple[float, float, str]]

    @property
    def is_left_out(self) -> bool:
        """Whether nobody asked for it."""
        return self.comparison.extra and self.outcome == "not measured"


def checks(records: PairRecords) -> list[Check]:
    """The expectations of the module's opening, each for both directions."""
    baselines, skylines = comparisons.with_role("baseline"), comparisons.with_role("skyline")
    made = [_check(records, comparisons.MAIN, name, _well_above) for name in baselines]
    made += [_check(records, comparisons.MAIN, name, _not_above) for name in skylines]
    neurons = comparisons.with_role("baseline", NEURON)
    made += [_check(records, comparisons.NEURONS, name, _near) for name in neurons]
    return [check for check in made if check.comparison.ordered and not check.is_left_out]


def _check(
    records: PairRecords,
    result: comparisons.Comparison,
    name: str,
    holds: Callable[[Row, Row], str],
) -> Check:
    outcomes, means = [], []
    for side, model, _ in records.sides:
        own, other = records.summary_row(result.name, side), records.summary_row(name, side)
        if own is not None and other is not None:
            outcomes.append(holds(own, other))
            means.append((own["mean"], other["mean"], model))
    worst = next((word for word in ("no", "weakly", "yes") if word in outcomes), "not measured")
    return Check(comparisons.comparison_of(name), worst, means)


def _well_above(own: Row, baseline: Row) -> str:
    separate = own["mean_lo"] > baseline["mean_hi"]
    if separate and own["mean"] - baseline["mean"] >= MARGIN:
        return "yes"
    return "weakly" if own["mean"] > baseline["mean"] else "no"


def _not_above(own: Row, skyline: Row) -> str:
    if skyline["mean"] >= own["mean"]:
        return "yes"
    return "no" if skyline["mean_hi"] < own["mean_lo"] else "weakly"


def _near(own: Row, baseline: Row) -> str:
    excess = own["mean"] - baseline["mean"]
    return "yes" if excess < MARGIN else "weakly" if excess < 2 * MARGIN else "no"


def follow_a_token(records: PairRecords) -> list[Row]:
    """How far the current token explains what an untrained model shares, for each model.

    A feature that follows one token of the vocabulary (r > `CLOSE` with that token) is in every
    model that embeds tokens, trained or not; so both are compared again over all other features.
    share: of the features that follow one token.  n: the rest; other, untrained: its mean r in the
    other model and in the untrained one.
    """
    explained = []
    key = ["layer", "feature"]
    for side, model, _ in records.sides:
        rows = records.matches.filter(pl.col("r").is_not_nan(), side=side)
        asked = {
            "token": comparisons.TOKENS,
            "other": comparisons.MAIN,
            "untrained": comparisons.RANDOM_MODEL,
        }
        tokens, other, untrained = (
            rows.filter(comparison=comparison.name).select(*key, pl.col("r").alias(name))
            for name, comparison in asked.items()
        )
        joined = tokens.join(other, on=key).join(untrained, on=key)
        if joined.is_empty():
            continue
        others = joined.filter(pl.col("token") <= CLOSE)
        means = {name: others[name].mean() for name in ("other", "untrained")}
        share = 1 - others.height / joined.height
        explained.append({"model": model, "share": share, "n": others.height, **means})
    return explained


def neurons_by_token(records: PairRecords) -> list[tuple[str, float]]:
    """(model, share of its neurons' variance that the current token explains), if measured."""
    shares = records.run.get("neurons_by_token") or {}
    if not all(model in shares for model in records.pair):
        return []
    return [(model, float(shares[model])) for model in records.pair]
