"""What the tables say, in words: the verdict of each direction, its numbers, and the order of the
controls.

The verdict is the run's own, as the command line prints it; nothing here judges again.  The order
of the rows explains it.  Expected, from the paper and from later work on its pitfalls: the main
comparison lies well above its baselines (untrained model, rotated dictionary) and not above its
skylines (second dictionary seed, second training seed), and neurons stay near their own random
baseline.

    well above:  lower end of one interval above the upper end of the other, and means at least
    `MARGIN` apart above:  the means in that order, but one of the two does not hold
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import polars as pl

from homolog.analyses.records import PairRecords, Verdict, base_name
from homolog.charts.words import CLOSE, is_number, level, listed, number, percent
from homolog.record.comparisons import comparison_of, in_order

MARGIN = 0.1

Row = Mapping[str, Any]


@dataclass(frozen=True)
class Card:
    """The numbers of one direction.

    shared: its row of shared.parquet; bars: (plain name, role, share of alive features with a
    homolog) of the main comparison and of its ceiling, where that was measured; mean: of the best
    r, in words.
    """

    verdict: Verdict
    shared: Row
    bars: list[tuple[str, str, float]]
    mean: str

    @property
    def interval(self) -> str:
        """The 95 % interval of the share; an en dash for an end that is undefined."""
        return f"{percent(self.shared['lo'])} to {percent(self.shared['hi'])}"


@dataclass(frozen=True)
class Check:
    """One expectation about the order of rows.

    outcome: "yes", "weakly", "no" or "not measured"; details: the two means, one entry a direction.
    """

    expectation: str
    outcome: str
    details: list[str]


@dataclass(frozen=True)
class Findings:
    """verdicts: of both directions; order: how many expectations hold, in a sentence; notes: why
    some do not.
    """

    verdicts: list[Verdict]
    cards: list[Card]
    checks: list[Check]
    order: str
    notes: list[str]


def interval(row: Row, statistic: str, digits: int = 2) -> str:
    """The 95 % interval of a summary statistic as text; "no interval" where it is undefined."""
    ends = [row.get(f"{statistic}_{end}") for end in ("lo", "hi")]
    return (
        " to ".join(number(end, digits) for end in ends)
        if all(map(is_number, ends))
        else "no interval"
    )


def findings(records: PairRecords) -> Findings:
    """Verdicts, numbers, and the checks of the order with what explains them."""
    verdicts = [records.verdict(records.model_of(side), records.partner_of(side)) for side in "AB"]
    cards = [card for side in "AB" if (card := _card(records, side)) is not None]
    checks = order_checks(records)
    notes = _why_untrained_models_match(records) if checks[0].outcome in ("no", "weakly") else []
    if checks[-1].outcome in ("no", "weakly"):
        notes += _why_neurons_match(records)
    return Findings(verdicts, cards, checks, order_sentence(checks), notes)


def homolog_words(records: PairRecords) -> str:
    """What this run calls a homolog."""
    fdr, least, ratio = (records.setting(name) for name in ("fdr", "homolog_r", "rival_ratio"))
    rate = "" if fdr is None else f" (false discovery rate {level(fdr)})"
    parts = [f"lies above what chance reaches at its firing frequency{rate}"]
    parts += [] if least is None else [f"has an r of at least {least:g}"]
    if ratio:
        parts.append(
            f"reaches {ratio:.0%} of the highest r of its partner with any feature of the same "
            "model"
        )
    run = [name for name in records.comparisons("sae") if comparison_of(name).role == "baseline"]
    if run:
        controls = [
            f"{comparison_of(name).plain[0].lower()}{comparison_of(name).plain[1:]}" for name in run
        ]
        parts.append(
            f"has a higher r than the same feature finds in its controls ({listed(controls)})"
        )
    return f"A homolog is a match that {listed(parts)}."


def order_sentence(checks: list[Check]) -> str:
    """How many of the expectations hold, hold weakly, fail, and were not measured."""
    count = {
        outcome: sum(check.outcome == outcome for check in checks)
        for outcome in ("yes", "weakly", "no")
    }
    parts = [f"{count['yes']} of {len(checks)} expectations hold"]
    parts += [f"{count['weakly']} only weakly"] if count["weakly"] else []
    parts += [f"{count['no']} {'does' if count['no'] == 1 else 'do'} not"] if count["no"] else []
    rest = len(checks) - sum(count.values())
    return f"{listed(parts)}." + (
        f" {rest} could not be checked: their controls were not run." if rest else ""
    )


def _card(records: PairRecords, side: str) -> Card | None:
    source, target = records.model_of(side), records.partner_of(side)
    shared, main = records.shared_row(source, target), records.summary_row("main", side)
    if shared is None or main is None:
        return None
    verdict = records.verdict(source, target)
    shares = {"sae-seed": shared["ceiling"], "main": shared["share"]} if verdict.given else {}
    bars = [
        (comparison_of(name).plain, comparison_of(name).role, share)
        for name, share in shares.items()
        if is_number(share)
    ]
    mean = (
        f"The best partner correlates with r = {number(main['mean'])} on average "
        f"({interval(main, 'mean')}), median "
        f"{number(main['median'])} ({interval(main, 'median')}), over all features; in brackets "
        "95% intervals."
    )
    return Card(verdict, shared, bars, mean)


def _why_untrained_models_match(records: PairRecords) -> list[str]:
    """How far the current token explains what an untrained model shares: one sentence a direction.

    A feature that follows one token of the vocabulary (r > `CLOSE` with that token) is in every
    model that embeds tokens, trained or not; so the two rows are compared again over all other
    features.
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
            f"{share} of {records.model_of(side)}'s features follow one current token (r > "
            f"{CLOSE} with it); any model "
            f"that embeds tokens has those, trained or not. Over the other {len(others):,} "
            "features the mean is "
            f"{number(others['main'].mean())} in the other model and "
            f"{number(others['random-model'].mean())} in the untrained model."
        )
    return sentences


def _why_neurons_match(records: PairRecords) -> list[str]:
    """How much of the neurons the current token explains, as the run measured it."""
    shares = records.run.get("neurons_by_token") or {}
    if not all(model in shares for model in records.pair):
        return []
    parts = " and ".join(
        f"{percent(shares[model])} of the variance of {model}'s neurons" for model in records.pair
    )
    return [
        f"The current token alone explains {parts}: two models that read the same tokens share "
        "that much without "
        "sharing anything else."
    ]


def failed_controls(records: PairRecords) -> list[str]:
    """A sentence on each control whose dictionaries miss their gates, untrained models apart."""
    controls = ~(pl.col("model").is_in(records.pair) & (pl.col("label") == "sae"))
    counts: dict[str, int] = {}
    for row in records.saes.filter(controls & ~pl.col("passed")).iter_rows(named=True):
        if base_name(row["model"]) not in records.untrained():
            name = row["model"] if row["label"] == "sae" else f"{row['model']} ({row['label']})"
            counts[name] = counts.get(name, 0) + 1
    return [
        f"{count} dictionaries of the control {name} miss their quality gates."
        for name, count in sorted(counts.items())
    ]


def order_checks(records: PairRecords) -> list[Check]:
    """The expectations of the module's opening, each for both directions."""
    checks = []
    for baseline in ("random-model", "rotated"):
        text = f"The other model is well above {_mid_sentence(baseline)}"
        checks.append(_check(records, text, "main", baseline, MARGIN))
    for skyline in ("model-seed", "sae-seed"):
        text = f"The other model is not above {_mid_sentence(skyline)}"
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


def _check(records: PairRecords, text: str, upper: str, lower: str, margin: float | None) -> Check:
    """Is `upper` above `lower` in both directions?  margin None: it is enough not to be clearly
    below.
    """
    outcomes, details = [], []
    for side in "AB":
        high, low = records.summary_row(upper, side), records.summary_row(lower, side)
        if high is None or low is None:
            continue
        separate = high["mean_lo"] > low["mean_hi"]
        if margin is None:
            clearly_below = high["mean_hi"] < low["mean_lo"]
            outcomes.append(
                "yes" if high["mean"] >= low["mean"] else "no" if clearly_below else "weakly"
            )
        elif separate and high["mean"] - low["mean"] >= margin:
            outcomes.append("yes")
        else:
            outcomes.append("weakly" if high["mean"] > low["mean"] else "no")
        main, other = (high, low) if upper == "main" else (low, high)
        details.append(
            f"{number(main['mean'])} against {number(other['mean'])} for {records.model_of(side)}"
        )
    return Check(text, _worst(outcomes), details)


def _neuron_check(records: PairRecords) -> Check:
    outcomes, details = [], []
    for side in "AB":
        neurons, baseline = (
            records.summary_row("neurons", side),
            records.summary_row("neurons-random", side),
        )
        if neurons is None or baseline is None:
            continue
        excess = neurons["mean"] - baseline["mean"]
        outcomes.append("yes" if excess < MARGIN else "weakly" if excess < 2 * MARGIN else "no")
        details.append(
            f"{number(neurons['mean'])} against {number(baseline['mean'])} for "
            f"{records.model_of(side)}"
        )
    return Check("Neurons are near their own random baseline", _worst(outcomes), details)


def _worst(outcomes: list[str]) -> str:
    for outcome in ("no", "weakly", "yes"):
        if outcome in outcomes:
            return outcome
    return "not measured"


def ordered_summary(records: PairRecords) -> list[Row]:
    """All rows of the summary table, features first, then by stratum, in the page's order of
    comparisons.
    """
    order = {
        name: place
        for place, name in enumerate(in_order(records.summary["comparison"].unique().to_list()))
    }
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
