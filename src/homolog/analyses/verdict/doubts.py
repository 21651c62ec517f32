"""What bears on a verdict that is given: controls whose dictionaries miss their gates."""

from __future__ import annotations

from homolog.analyses.quality import is_compared
from homolog.analyses.records import PairRecords
from homolog.record.sides import side_words


def doubts(records: PairRecords) -> list[str]:
    """A sentence for each control that misses its gates; a verdict is withheld for the others."""
    rows = [row for row in records.saes.iter_rows(named=True) if not is_compared(records, row)]
    found = []
    for model, label in dict.fromkeys((row["model"], row["label"]) for row in rows):
        own = [row for row in rows if (row["model"], row["label"]) == (model, label)]
        missed = [row for row in own if not row["passed"]]
        if missed:
            found.append(
                f"A control misses its gates: dictionaries of {side_words(model, label)}, "
                f"{len(missed)} of {len(own)} blocks ({missed[0]['reason']})."
            )
    return found
