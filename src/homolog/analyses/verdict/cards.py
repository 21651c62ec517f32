"""The numbers of each direction at a glance."""

from __future__ import annotations

from dataclasses import dataclass

from homolog.analyses.records import DirectionVerdict, PairRecords, Row
from homolog.analyses.rows import directions
from homolog.charts.words import is_number
from homolog.record.comparisons import MAIN, SAE_SEED, Comparison


@dataclass(frozen=True)
class Card:
    """The numbers of one direction.

    shared: its row of that table.  main: its row of summary.  bars: share of the alive features
    with a homolog, in the ceiling, where that was measured, and in the other model.
    """

    verdict: DirectionVerdict
    shared: Row
    main: Row
    bars: list[tuple[Comparison, float]]


def cards(records: PairRecords) -> list[Card]:
    """One per direction; the verdict is the run's own, as the command line prints it."""
    made = []
    for side, model, partner in directions(records):
        verdict, shared = records.verdict(model, partner), records.shared_row(model, partner)
        main = records.summary_row(MAIN.name, side)
        if shared is None or main is None:
            continue
        shares = ((SAE_SEED, shared["ceiling"]), (MAIN, shared["share"]))
        bars = [(comparison, share) for comparison, share in shares if is_number(share)]
        made.append(Card(verdict, shared, main, bars if verdict.given else []))
    return made
