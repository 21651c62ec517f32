"""The tables of the circuits' page."""

from __future__ import annotations

from dataclasses import dataclass

import polars as pl

from homolog.charts.shown_table import ShownTable
from homolog.charts.words import MISSING, is_number, number, percent
from homolog.report.circuit_records import CORRUPTIONS, ROLES, CircuitRecords, Row, wide
from homolog.report.circuit_rows import edge_words
from homolog.report.circuit_words import (
    ROLE_WORDS,
    component_words,
    corruption_words,
    interval_words,
    offset_words,
    verdict_words,
)

SHOWN_SENDERS = 3  # of an experiment and corruption
SHOWN_EDGES = 8  # of a model and corruption


@dataclass(frozen=True)
class Part:
    """One part in the table of roles; `others`: what the same patch does by the other metrics."""

    component: str
    name: str
    share: str
    change: str
    others: str
    evidence: str


@dataclass(frozen=True)
class RoleRow:
    """A role in all models; parts: one list a model that has a circuit."""

    role: str
    explanation: str
    parts: list[list[Part]]


def role_rows(records: CircuitRecords) -> list[RoleRow]:
    """The aligned roles: one row a role, one cell a model of `records.able`."""
    return [
        RoleRow(
            role,
            ROLE_WORDS[role],
            [[_part(records, p) for p in records.parts(m, role)] for m in records.able],
        )
        for role in ROLES
    ]


def _part(records: CircuitRecords, part: Row) -> Part:
    patch = records.patch(part) or {}
    others = f"probability {number(patch.get('probability'), 3)}, KL {number(patch.get('kl'), 3)}"
    name = component_words(part["component"])
    return Part(
        part["component"],
        name[:1].upper() + name[1:],
        percent(part["share"]),
        interval_words(part, "change"),
        others,
        part["evidence"],
    )


def ability_table(records: CircuitRecords) -> ShownTable:
    """What every model can do, and how much of it the named parts explain."""
    rows = []
    for model in records.models:
        row = records.about(model)
        faithful = MISSING
        if is_number(row["faithfulness"]):
            low, high = percent(row["faithfulness_lo"]), percent(row["faithfulness_hi"])
            faithful = f"{percent(row['faithfulness'])}\n{low} to {high}"
        rows.append(
            [
                model,
                row["architecture"],
                str(row["n_layers"]),
                percent(row["preferred"]),
                percent(row["accuracy"]),
                number(row["probability"], 3),
                number(row["logit_difference"]),
                (component_words(row["key"]) if row["key"] else MISSING)
                if row["able"]
                else "cannot do the task",
                faithful,
            ]
        )
    columns = [
        "Model",
        "Architecture",
        "Blocks",
        "B above the wrong answer",
        "B on top",
        "Probability of B",
        "Logit difference",
        "Key part",
        "Faithfulness, 95% interval",
    ]
    return ShownTable("What each model can do", columns, rows, frozenset({2, 3, 4, 5, 6, 8}))


def offset_table(records: CircuitRecords) -> ShownTable:
    """The verdicts of the Off-by-One test."""
    rows = []
    for model in records.able:
        row = records.about(model)
        rows.append(
            [
                model,
                verdict_words(row),
                percent(row["certainty"]),
                interval_words(row, "centre"),
                offset_words(row["predicted_offset"]),
            ]
        )
    columns = [
        "Model",
        "Verdict",
        "Certainty",
        "Centre of mass, 95% interval",
        "Predicted by the convolution",
    ]
    return ShownTable("Off by one: the verdicts", columns, rows, frozenset({2, 3, 4}))


def correlation_table(records: CircuitRecords) -> ShownTable:
    """How well scores predict effects."""
    rows = []
    for model in records.able:
        row = records.about(model)
        for corruption in CORRUPTIONS:
            values = [
                f"{number(row[f'{corruption}_pearson_{edges}'])} / "
                f"{number(row[f'{corruption}_spearman_{edges}'])}"
                for edges in ("top", "random", "all")
            ]
            rows.append(
                [model, corruption_words(corruption), *values, percent(row["discovery_recall"])]
            )
    columns = [
        "Model",
        "Prompt with",
        "Largest scores",
        "Random edges",
        "All patched",
        "Parts found again",
    ]
    return ShownTable(
        "Score against real effect: Pearson / Spearman", columns, rows, frozenset({2, 3, 4, 5})
    )


def edge_tables(records: CircuitRecords) -> list[ShownTable]:
    """The edges with the largest scores, one table a model and corruption."""
    tables = []
    for model in records.able:
        for corruption in CORRUPTIONS:
            own = records.edges.filter(
                (pl.col("model") == model) & (pl.col("corruption") == corruption)
            )
            top = own.sort(
                pl.col("score").abs(), descending=True, nulls_last=True, maintain_order=True
            )
            rows = [
                [edge_words(row), number(row["score"]), _effect(row)]
                for row in top.head(SHOWN_EDGES).iter_rows(named=True)
            ]
            title = f"{model}, {corruption_words(corruption)}"
            tables.append(
                ShownTable(
                    title, ["Edge", "Score", "Effect, 95% interval"], rows, frozenset({1, 2})
                )
            )
    return [table for table in tables if table.rows]


def _effect(row: Row) -> str:
    if not is_number(row["effect"]):
        return MISSING
    return f"{number(row['effect'])} ({number(row['effect_low'])} to {number(row['effect_high'])})"


def effect_tables(records: CircuitRecords) -> list[ShownTable]:
    """Of every experiment the patches that cost most, by all metrics, one table a model."""
    tables = []
    for model in records.able:
        own = wide(records.effects.filter(pl.col("model") == model))
        rows = []
        for (experiment, corruption), group in own.group_by(
            "experiment", "corruption", maintain_order=True
        ):
            for row in (
                group.sort("logit_difference", nulls_last=True)
                .head(SHOWN_SENDERS)
                .iter_rows(named=True)
            ):
                several = len(group["sender"].unique()) < len(group)
                at = f" at {row['position']}" if several and row["position"] else ""
                rows.append(
                    [
                        str(experiment),
                        corruption_words(str(corruption)),
                        f"{row['sender']}{at} \u2192 {row['receiver']}",
                        interval_words(row, "logit_difference"),
                        number(row["logit"]),
                        number(row["probability"], 3),
                        number(row["kl"], 3),
                    ]
                )
        columns = [
            "Experiment",
            "Prompt with",
            "Patched \u2192 into",
            "Logit difference, 95% interval",
            "Logit",
            "Probability",
            "KL (nats)",
        ]
        tables.append(
            ShownTable(
                f"{model}: the patches that cost most", columns, rows, frozenset({3, 4, 5, 6})
            )
        )
    return tables
