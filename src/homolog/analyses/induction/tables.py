"""The tables of the circuits: what each model can do, its parts role by role, its patches."""

from __future__ import annotations

from dataclasses import dataclass

from homolog.analyses.induction.records import CircuitRecords, by_change, grouped
from homolog.analyses.induction.words import component_words, corruption_words, interval_words
from homolog.analyses.records import Row
from homolog.charts.shown_table import ShownTable
from homolog.charts.words import MISSING, is_number, number, percent
from homolog.record.circuits import KL, LOGIT, LOGIT_DIFFERENCE, PROBABILITY, ROLE_ORDER

SHOWN_SENDERS = 3  # of an experiment and corruption


@dataclass(frozen=True)
class Part:
    """One part of a circuit.  others: what the same patch does by the other metrics."""

    component: str
    name: str
    share: str
    change: str
    others: str
    evidence: str

    @property
    def said(self) -> str:
        """In a sentence: "head 2.3 (53%)"."""
        return f"{self.name} ({self.share})"


def aligned_roles(records: CircuitRecords) -> dict[str, dict[str, list[Part]]]:
    """The parts by role and model, of the models that have a circuit."""
    return {
        role: {m: [part_of(records, p) for p in records.parts(m, role)] for m in records.able}
        for role in ROLE_ORDER
    }


def part_of(records: CircuitRecords, part: Row) -> Part:
    """A row of `roles` in words."""
    patch = records.patch(part) or {}
    probability, kl = (number(patch.get(metric), 3) for metric in (PROBABILITY, KL))
    return Part(
        part["component"],
        component_words(part["component"]),
        percent(part["share"]),
        interval_words(part, "change"),
        f"probability {probability}, KL {kl}",
        part["evidence"],
    )


def ability_table(records: CircuitRecords) -> ShownTable:
    """What every model can do, and how much of it the named parts explain."""
    rows = [
        {
            "Model": row["model"],
            "Architecture": row["architecture"],
            "Blocks": str(row["n_layers"]),
            "B above the wrong answer": percent(row["preferred"]),
            "B on top": percent(row["accuracy"]),
            "Probability of B": number(row[PROBABILITY], 3),
            "Logit difference": number(row[LOGIT_DIFFERENCE]),
            "Key part": _key(row),
            "Faithfulness, 95% interval": _faithfulness(row),
        }
        for row in records.circuits
    ]
    return ShownTable.of("What each model can do", rows, numeric=(2, 3, 4, 5, 6, 8))


def _key(row: Row) -> str:
    if not row["able"]:
        return "cannot do the task"
    return component_words(row["key"]) if row["key"] else MISSING


def _faithfulness(row: Row) -> str:
    if not is_number(row["faithfulness"]):
        return MISSING
    low, high = percent(row["faithfulness_lo"]), percent(row["faithfulness_hi"])
    return f"{percent(row['faithfulness'])}\n{low} to {high}"


def effect_tables(records: CircuitRecords) -> list[ShownTable]:
    """Of every experiment the patches that cost most, by all metrics, one table per model."""
    tables, patches_of = [], grouped(records.patches, "model")
    for model in records.able:
        own = patches_of.get((model,), [])
        groups = grouped(own, "experiment", "corruption").values()
        rows = [row for patches in groups for row in _strongest(patches)]
        caption = f"{model}: the patches that cost most"
        tables.append(ShownTable.of(caption, rows, numeric=(3, 4, 5, 6)))
    return tables


def _strongest(patches: list[Row]) -> list[dict[str, str]]:
    """The rows of an experiment and corruption."""
    several = len({patch["sender"] for patch in patches}) < len(patches)
    rows = []
    for patch in by_change(patches)[:SHOWN_SENDERS]:
        at = f" at {patch['position']}" if several and patch["position"] else ""
        rows.append(
            {
                "Experiment": patch["experiment"],
                "Prompt with": corruption_words(patch["corruption"]),
                "Patched \u2192 into": f"{patch['sender']}{at} \u2192 {patch['receiver']}",
                "Logit difference, 95% interval": interval_words(patch, LOGIT_DIFFERENCE),
                "Logit": number(patch[LOGIT]),
                "Probability": number(patch[PROBABILITY], 3),
                "KL (nats)": number(patch[KL], 3),
            }
        )
    return rows
