"""What the sections of the circuits are filled with: which roles count, which metrics disagree."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from homolog.analyses.induction.records import CircuitRecords, by_change, grouped
from homolog.analyses.induction.rows import TO_LOGITS
from homolog.analyses.induction.tables import ability_table, aligned_roles, effect_tables
from homolog.analyses.induction.words import (
    corruption_words,
    interval_words,
    offset_words,
    verdict_words,
)
from homolog.analyses.records import Row
from homolog.charts.words import is_number
from homolog.record.circuits import (
    CARRIER,
    COPIER,
    HEAD_TO_LOGITS,
    LOGIT,
    MATCHER,
    PROBABILITY,
    ROLE_ORDER,
    STATE_TO_LOGITS,
)

LEAST_SHARE = 0.05
"""A part counts from this share of what the whole corruption costs."""


def summary_values(records: CircuitRecords) -> dict[str, Any]:
    """Of the summary: what each model can do, its parts, and how far they explain it."""
    rows, able = records.circuits, records.able
    lacking = {model: roles for model in able if (roles := lacking_roles(records, model))}
    return {
        "prompts": rows[0],
        "carrier": CARRIER,
        "matcher": MATCHER,
        "copier": COPIER,
        "models": rows,
        "able": able,
        "unable": [row["model"] for row in rows if not row["able"]],
        "lacking": lacking,
        "n_whole": len(able) - len(lacking),
        "least_share": LEAST_SHARE,
        "roles": aligned_roles(records),
        "ability": ability_table(records),
        "faithful": [row for row in rows if is_number(row["faithfulness"])],
        "shifts": [
            (row, verdict_words(row), offset_words(row["offset"]), interval_words(row, "centre"))
            for row in rows
            if row["verdict"] is not None
        ],
        "recalled": [row for row in rows if is_number(row["discovery_recall"])],
    }


def lacking_roles(records: CircuitRecords, model: str) -> list[str]:
    """Roles without a part whose share counts, with an interval below zero."""

    def counts(part: Row) -> bool:
        return part["share"] >= LEAST_SHARE and part["change_hi"] < 0

    return [role for role in ROLE_ORDER if not any(map(counts, records.parts(model, role)))]


def experiment_values(records: CircuitRecords) -> Mapping[str, Any] | None:
    """Of the experiments; None where no model does the task."""
    if not records.able:
        return None
    return {"misleading": misleading(records), "effects": effect_tables(records)}


def misleading(records: CircuitRecords) -> list[tuple[Row, Row, str]]:
    """Where the raw logit and the probability name different senders as the strongest.

    The patches that they name, and the prompt.
    """
    differing = []
    for name in (HEAD_TO_LOGITS, *TO_LOGITS):
        patches = records.experiment(name)
        for (_, corruption), own in grouped(patches, "model", "corruption").items():
            logit, probability = (by_change(own, metric)[0] for metric in (LOGIT, PROBABILITY))
            known = logit[LOGIT] is not None and probability[PROBABILITY] is not None
            if known and logit["sender"] != probability["sender"]:
                differing.append((logit, probability, corruption_words(corruption)))
    return differing


def method_values(records: CircuitRecords) -> Mapping[str, Any] | None:
    """Of the methods: whether the run has experiments on heads, and on states."""
    made = {patch["experiment"] for patch in records.patches}
    return {"heads": HEAD_TO_LOGITS in made, "states": STATE_TO_LOGITS in made} if made else None
