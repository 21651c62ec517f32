"""What the tables say, in words: the headline of each direction, the order of the rows, the verdict.

Expected order, from the paper and from later work on its pitfalls: the main comparison lies well above its
baselines (untrained model, rotated dictionary) and not above its skylines (second dictionary seed, second
training seed), and neurons stay near their own random baseline.  Everything here is computed from the
tables.

    well above:  lower end of one interval above the upper end of the other, and means at least `MARGIN` apart
    above:       the means in that order, but one of the two does not hold
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import polars as pl

from homolog.report.records import RunRecords, base_name
from homolog.report.wording import CLOSE, comparison_of, in_order, number, percent

STRATUM = "all"  # the paper filters no features; the other strata stand in the table
MARGIN = 0.1
SKYLINE_FLOOR = 0.75  # below it, two dictionary seeds disagree so much that no other row can be read

Row = Mapping[str, Any]


@dataclass(frozen=True)
class Headline:
    """One direction of the main comparison, with its controls.

    share: of the defined features, those whose best partner has r > 0.7; bars: (plain name, role, share) of
    the main row and of each control, in the page's order.
    """

    side: str
    source: str
    target: str
    row: Row
    bars: list[tuple[str, str, float]]

    @property
    def share(self) -> float:
        return float(self.row["share_above_07"])

    @property
    def sentence(self) -> str:
        row = self.row
        return (
            f"The best partner correlates with r = {number(row['mean'])} on average "
            f"(95% interval {interval(row, 'mean')}), "
            f"median {number(row['median'])} ({interval(row, 'median')})."
        )


@dataclass(frozen=True)
class Check:
    """One expectation about the order of rows.

    outcome: "yes", "weakly", "no" or "not measured"; details: the two means, one entry a direction.
    """

    expectation: str
    outcome: str
    details: list[str]

    @property
    def sentence(self) -> str:
        return f"{self.expectation}: {self.outcome}. Means: {'; '.join(self.details)}."


@dataclass(frozen=True)
class Findings:
    """status: "clear" (gates and order hold), "caution" (the order does not) or "none" (no verdict)."""

    status: str
    title: str
    reasons: list[str]
    headlines: list[Headline]
    checks: list[Check]


def interval(row: Row, statistic: str, digits: int = 2) -> str:
    """The 95 % interval of a summary statistic as text; en dashes where it is undefined."""
    return f"{number(row.get(f'{statistic}_lo'), digits)} to {number(row.get(f'{statistic}_hi'), digits)}"


def findings(records: RunRecords) -> Findings:
    """The headlines, the checks of the order, and the verdict they allow."""
    headlines = [line for side in "AB" if (line := _headline(records, side)) is not None]
    checks = order_checks(records)
    gates = failed_gates(records)
    broken = [check for check in checks if check.outcome == "no"]
    weak = [check for check in checks if check.outcome == "weakly"]
    unread = _unreadable(records)
    why = _why_untrained_models_match(records) if checks[0].outcome in ("no", "weakly") else []
    if checks[-1].outcome in ("no", "weakly"):
        why += _why_neurons_match(records)
    if gates or unread or not headlines:
        reasons = [*gates, *unread, *(check.sentence for check in broken), *why]
        return Findings(
            "none",
            "No verdict from this run",
            reasons or ["the main comparison is missing"],
            headlines,
            checks,
        )
    if broken:
        reasons = [*(check.sentence for check in (*broken, *weak)), *why]
        return Findings("caution", "The rows are not in the expected order", reasons, headlines, checks)
    unmeasured = sum(check.outcome == "not measured" for check in checks)
    reasons = [*(check.sentence for check in weak), *why]
    if unmeasured:
        reasons.append(f"{unmeasured} of {len(checks)} expectations could not be checked: their controls were not run.")
    title = (
        "The controls are in the expected order" if not (weak or unmeasured) else "The controls hold, with reservations"
    )
    return Findings("clear" if not (weak or unmeasured) else "caution", title, reasons, headlines, checks)


def _why_untrained_models_match(records: RunRecords) -> list[str]:
    """How far the current token explains what an untrained model shares: one sentence a direction.

    A feature that follows one token of the vocabulary (r > `CLOSE` with that token) is in every model that embeds
    tokens, trained or not; so the two rows are compared again over all other features.
    """
    sentences = []
    key = ["model", "layer", "feature"]
    for side in "AB":
        rows = records.matches.filter((pl.col("side") == side) & pl.col("r").is_not_nan())
        parts = {
            name: rows.filter(pl.col("comparison") == name).select(*key, pl.col("r").alias(name))
            for name in ("tokens", "main", "random-model")
        }
        joined = parts["tokens"].join(parts["main"], on=key).join(parts["random-model"], on=key)
        if joined.is_empty():
            continue
        others = joined.filter(pl.col("tokens") <= CLOSE)
        share = percent(1 - len(others) / len(joined))
        sentences.append(
            f"{share} of {records.model_of(side)}'s features follow one current token (r > {CLOSE} with it); any model "
            f"that embeds tokens has those, trained or not. Over the other {len(others):,} features the mean is "
            f"{number(others['main'].mean())} in the other architecture and "
            f"{number(others['random-model'].mean())} in the untrained model."
        )
    return sentences


def _why_neurons_match(records: RunRecords) -> list[str]:
    """How much of the neurons the current token explains, as the run measured it."""
    shares = records.run.get("neurons_by_token") or {}
    if not all(model in shares for model in records.pair):
        return []
    parts = " and ".join(f"{percent(shares[model])} of the variance of {model}'s neurons" for model in records.pair)
    return [
        f"The current token alone explains {parts}: two models that read the same tokens share that much without "
        "sharing anything else."
    ]


def row_of(records: RunRecords, comparison: str, side: str, stratum: str = STRATUM) -> Row | None:
    """The summary row of a comparison for the features of side "A" or "B"; None when it was not measured."""
    rows = records.summary.filter(
        (pl.col("comparison") == comparison) & (pl.col("side") == side) & (pl.col("stratum") == stratum)
    )
    return rows.row(0, named=True) if rows.height else None


def _headline(records: RunRecords, side: str) -> Headline | None:
    row = row_of(records, "main", side)
    if row is None:
        return None
    bars = []
    for name in records.comparisons("sae"):
        other = row_of(records, name, side)
        if other is not None:
            comparison = comparison_of(name)
            bars.append((comparison.plain, comparison.role, float(other["share_above_07"])))
    return Headline(side, records.model_of(side), str(row["best_model"]), row, bars)


def failed_gates(records: RunRecords) -> list[str]:
    """A sentence on each dictionary of the pair itself that misses its quality gates."""
    own = _own_dictionaries(records)
    failed = own.filter(~pl.col("passed"))
    if failed.is_empty():
        return []
    sentences = [f"{failed.height} of the {own.height} dictionaries compared miss their quality gates."]
    for row in failed.sort("model", "layer").iter_rows(named=True):
        sentences.append(f"{row['model']}, block {row['layer']}: {row['reason'] or 'no reason recorded'}")
    return sentences


def failed_controls(records: RunRecords) -> list[str]:
    """A sentence on each control whose dictionaries miss their gates, untrained models apart."""
    own = {(row["model"], row["label"]) for row in _own_dictionaries(records).iter_rows(named=True)}
    failed = records.saes.filter(~pl.col("passed"))
    counts: dict[str, int] = {}
    for row in failed.iter_rows(named=True):
        if (row["model"], row["label"]) not in own and base_name(row["model"]) not in records.untrained():
            name = row["model"] if row["label"] == "sae" else f"{row['model']} ({row['label']})"
            counts[name] = counts.get(name, 0) + 1
    return [
        f"{count} dictionaries of the control {name} miss their quality gates."
        for name, count in sorted(counts.items())
    ]


def _own_dictionaries(records: RunRecords) -> pl.DataFrame:
    return records.saes.filter(pl.col("model").is_in(records.pair) & (pl.col("label") == "sae"))


def _unreadable(records: RunRecords) -> list[str]:
    sentences = []
    for side in "AB":
        row = row_of(records, "sae-seed", side)
        if row is not None and not row["mean"] >= SKYLINE_FLOOR:
            sentences.append(
                f"Two dictionaries of {records.model_of(side)} from different seeds agree only to a mean of "
                f"{number(row['mean'])}, below {SKYLINE_FLOOR}: every other row is held down by that."
            )
    return sentences


def order_checks(records: RunRecords) -> list[Check]:
    """The expectations of the module's opening, each for both directions."""
    checks = []
    for baseline in ("random-model", "rotated"):
        text = f"The other architecture is well above {_mid_sentence(baseline)}"
        checks.append(_check(records, text, "main", baseline, MARGIN))
    for skyline in ("model-seed", "sae-seed"):
        text = f"The other architecture is not above {_mid_sentence(skyline)}"
        checks.append(_check(records, text, skyline, "main", None))
    checks.append(_neuron_check(records))
    return checks


def _mid_sentence(name: str) -> str:
    return {
        "random-model": "an untrained model",
        "rotated": "a rotated dictionary",
        "model-seed": "a second training seed of the same architecture",
        "sae-seed": "a second dictionary seed of the same model",
    }[name]


def _check(records: RunRecords, text: str, upper: str, lower: str, margin: float | None) -> Check:
    """Is `upper` above `lower` in both directions?  margin None: it is enough not to be clearly below."""
    outcomes, details = [], []
    for side in "AB":
        high, low = row_of(records, upper, side), row_of(records, lower, side)
        if high is None or low is None:
            continue
        separate = high["mean_lo"] > low["mean_hi"]
        if margin is None:
            clearly_below = high["mean_hi"] < low["mean_lo"]
            outcomes.append("yes" if high["mean"] >= low["mean"] else "no" if clearly_below else "weakly")
        elif separate and high["mean"] - low["mean"] >= margin:
            outcomes.append("yes")
        else:
            outcomes.append("weakly" if high["mean"] > low["mean"] else "no")
        main, other = (high, low) if upper == "main" else (low, high)
        details.append(f"{number(main['mean'])} against {number(other['mean'])} for {records.model_of(side)}")
    return Check(text, _worst(outcomes), details)


def _neuron_check(records: RunRecords) -> Check:
    outcomes, details = [], []
    for side in "AB":
        neurons, baseline = row_of(records, "neurons", side), row_of(records, "neurons-random", side)
        if neurons is None or baseline is None:
            continue
        excess = neurons["mean"] - baseline["mean"]
        outcomes.append("yes" if excess < MARGIN else "weakly" if excess < 2 * MARGIN else "no")
        details.append(f"{number(neurons['mean'])} against {number(baseline['mean'])} for {records.model_of(side)}")
    return Check("Neurons are near their own random baseline", _worst(outcomes), details)


def _worst(outcomes: list[str]) -> str:
    for outcome in ("no", "weakly", "yes"):
        if outcome in outcomes:
            return outcome
    return "not measured"


def headline_sentences(lines: list[Headline]) -> list[str]:
    """The headline in plain words, one sentence a direction, each with its untrained or rotated control."""
    sentences = []
    for line in lines:
        baselines = [
            f"{percent(share)} in {name[0].lower()}{name[1:]}" for name, role, share in line.bars if role == "baseline"
        ]
        listed = " and ".join([", ".join(baselines[:-1]), baselines[-1]]) if len(baselines) > 1 else "".join(baselines)
        against = f", against {listed}" if listed else ""
        sentences.append(
            f"{percent(line.share)} of {line.source}\u2019s features have a close partner "
            f"(r > {CLOSE}) in {line.target}{against}."
        )
    return sentences


def ordered_summary(records: RunRecords) -> list[Row]:
    """All rows of the summary table, features first, then by stratum, in the page's order of comparisons."""
    order = {name: place for place, name in enumerate(in_order(records.summary["comparison"].unique().to_list()))}
    strata = {name: place for place, name in enumerate(("all", "alive", "frequent"))}
    rows = records.summary.iter_rows(named=True)
    return sorted(
        rows,
        key=lambda row: (
            row["kind"] != "sae",
            order[row["comparison"]],
            row["side"] or "C",
            str(row["model"]),
            strata.get(row["stratum"], 9),
            row["stratum"],
        ),
    )
