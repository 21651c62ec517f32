"""How much of one model does the other compute too, and do the controls bear that out?"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from homolog.analyses.analysis import Analysis
from homolog.analyses.records import STRATUM, DirectionVerdict, PairRecords, Row
from homolog.analyses.verdict.doubts import doubts
from homolog.analyses.verdict.figures import criteria_figure, summary_figure
from homolog.analyses.verdict.order import checks, follow_a_token, neurons_by_token
from homolog.charts.shown_table import Cells, ShownTable
from homolog.charts.words import CLOSE, integer, interval, is_number, number, percent
from homolog.record import comparisons
from homolog.record.sides import NEURON, side_words

STRATA = {
    STRATUM: "All features",
    "alive": "Alive features only",
    "frequent": "Frequent features only",
}


def summary_tables(records: PairRecords) -> list[ShownTable]:
    """The table of each stratum, that of all features first."""
    rows = ordered(records)
    known = list(dict.fromkeys([*STRATA, *(str(row["stratum"]) for row in rows)]))
    by_stratum = {name: [row for row in rows if row["stratum"] == name] for name in known}
    return [
        ShownTable.of(
            STRATA.get(name, name),
            CELLS,
            own,
            numeric=range(2, 7),
            strong=[i for i, row in enumerate(own) if row["comparison"] == comparisons.MAIN.name],
        )
        for name, own in by_stratum.items()
        if own
    ]


def ordered(records: PairRecords) -> list[Row]:
    """The rows of summary in the page's order: by comparison, side A first, controls' own last."""
    order = comparisons.in_order(records.summary["comparison"])
    rows = records.summary.iter_rows(named=True)
    return sorted(
        rows,
        key=lambda row: (order.index(row["comparison"]), row["side"] or "C", _source(row)),
    )


def _source(row: Row) -> str:
    return side_words(row["model"], row["label"])


def _with_interval(row: Row, statistic: str) -> str:
    return f"{number(row[statistic], 3)}\n{interval(row, statistic, 3)}"


CELLS: Cells = {
    "Comparison": lambda row: comparisons.comparison_of(row["comparison"]).plain,
    "Features of → looked for in": lambda row: (
        f"{_source(row)}\n→ {side_words(row['best_model'], row['best_label'])}"
    ),
    "Features": lambda row: integer(row["n_features"]),
    "Undefined": lambda row: integer(row["n_undefined"]),
    "Mean, 95% interval": lambda row: _with_interval(row, "mean"),
    "Median, 95% interval": lambda row: _with_interval(row, "median"),
    f"r > {CLOSE}": lambda row: percent(row["share_above_07"]),
}


@dataclass(frozen=True)
class Card:
    """The numbers of one direction.

    shared: its row of that table.  main: its row of summary.  bars: share of the alive features
    with a homolog, in the ceiling, where that was measured, and in the other model.
    """

    verdict: DirectionVerdict
    shared: Row
    main: Row
    bars: list[tuple[comparisons.Comparison, float]]


def cards(records: PairRecords) -> list[Card]:
    """One per direction; the verdict is the run's own, as the command line prints it."""
    made = []
    for side, model, partner in records.sides:
        verdict, shared = records.verdict(model, partner), records.shared_row(model, partner)
        main = records.summary_row(comparisons.MAIN.name, side)
        if shared is None or main is None:
            continue
        shares = ((comparisons.SAE_SEED, shared["ceiling"]), (comparisons.MAIN, shared["share"]))
        bars = [(comparison, share) for comparison, share in shares if is_number(share)]
        made.append(Card(verdict, shared, main, bars if verdict.given else []))
    return made


def units_words(records: PairRecords) -> str | None:
    """What the rows are, where the two models have different tokenizers."""
    for entry in records.run.get("units") or []:
        if (entry["model"], entry["best_model"]) == tuple(records.pair):
            own, other = entry["tokens_per_unit"]
            value = {"last": "that at its last token", "max": "the largest in it"}[entry["align"]]
            return (
                f"The two models have different tokenizers. They are compared by units, the "
                f"shortest stretches of text at whose ends both have a token boundary: "
                f"{integer(entry['units'])} of them, on average of {number(own)} tokens of "
                f"{records.pair[0]} and {number(other)} of {records.pair[1]}. They hold "
                f"{percent(entry['text_share'])} of the matched text, and "
                f"{percent(entry['single_share'])} of it is in units of one token on both sides. "
                f"A feature's value in a unit is {value}. Effects on the next token are not "
                f"compared, for other tokens can come next in the other model."
            )
    return None


def _values(records: PairRecords) -> Mapping[str, Any]:
    run = [comparisons.comparison_of(name) for name in records.comparisons("sae")]
    return {
        "cards": cards(records),
        "doubts": doubts(records),
        "units": units_words(records),
        "baselines": [c.in_sentence() for c in run if c.role == "baseline"],
    }


def _controls(records: PairRecords) -> Mapping[str, Any]:
    order = checks(records)
    weak = [check.comparison for check in order if check.outcome in ("weakly", "no")]
    return {
        "checks": order,
        "close": CLOSE,
        "token_shares": follow_a_token(records) if comparisons.RANDOM_MODEL in weak else [],
        "neuron_shares": neurons_by_token(records) if any(c.kind == NEURON for c in weak) else [],
        "comparisons": [
            comparisons.comparison_of(name)
            for name in comparisons.in_order(records.summary["comparison"])
        ],
        "tables": summary_tables(records),
    }


ANALYSIS = Analysis(
    "verdict",
    chapter="Result",
    figures=lambda records: [criteria_figure(records)],
    values=_values,
)
CONTROLS = Analysis(
    "controls",
    chapter="Controls",
    figures=lambda records: [summary_figure(records)],
    values=_controls,
    template=(Path(__file__).parent / "controls.html.j2").read_text("utf-8"),
)
