"""What the sections of the circuits are filled with: their tables, and what counts in words."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from homolog.analyses.induction.figures import TO_LOGITS
from homolog.analyses.induction.records import CircuitRecords, by_change, grouped
from homolog.analyses.induction.words import (
    component_words,
    corruption_words,
    interval_words,
    offset_words,
    part_in_short,
    verdict_words,
)
from homolog.analyses.records import Row
from homolog.charts.shown_table import Cells, ShownTable
from homolog.charts.words import MISSING, is_number, number, percent
from homolog.record import circuits

SHOWN_SENDERS = 3  # of an experiment and corruption
SIDE_BY_SIDE = 3  # models; more stand one below the other
LEAST_SHARE = 0.05
"""A part counts from this share of what the whole corruption costs."""
ON_TOP = 0.5
"""Share of the prompts in which B is on top of all tokens; below, a model hardly does the task."""


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

    @property
    def in_short(self) -> str:
        """In a narrow cell: "head 2.3, 53%"."""
        return f"{part_in_short(self.component)}, {self.share}"


def aligned_roles(records: CircuitRecords) -> dict[str, dict[str, list[Part]]]:
    """The parts by role and model, of the models that have a circuit."""
    return {
        role: {m: [part_of(records, p) for p in records.parts(m, role)] for m in records.able}
        for role in circuits.ROLE_ORDER
    }


def part_of(records: CircuitRecords, part: Row) -> Part:
    """A row of `roles` in words."""
    patch = records.patch(part) or {}
    probability, kl = (
        number(patch.get(metric), 3) for metric in (circuits.PROBABILITY, circuits.KL)
    )
    return Part(
        part["component"],
        component_words(part["component"]),
        percent(part["share"]),
        interval_words(part, "change"),
        f"probability {probability}, KL {kl}",
        part["evidence"],
    )


def roles_table(records: CircuitRecords) -> ShownTable:
    """Every model in a line: the strongest part of each role, and what the tests say of them."""
    again = records.found_again
    shifts = {
        (model, shift["token"]): offset_words(shift["offset"], shift["token"])
        for model in records.able
        for shift in records.shifts(model)
    }

    def strongest(role: str) -> Callable[[Row], str]:
        def said(row: Row) -> str:
            parts = records.parts(row["model"], role)
            if not parts:
                return "none" if row["able"] else MISSING
            return part_of(records, parts[0]).in_short

        return said

    cells: Cells = {
        "Model": lambda row: row["model"],
        "B on top": lambda row: percent(row["accuracy"]),
        **{role[:1].upper() + role[1:]: strongest(role) for role in circuits.ROLE_ORDER},
        "These alone": lambda row: percent(row["faithfulness"]),
        "Random ones": lambda row: percent(row["null_most"]),
        "B carried at": lambda row: shifts.get((row["model"], circuits.COPIED), MISSING),
        "A carried at": lambda row: shifts.get((row["model"], circuits.MATCHED), MISSING),
        "Found again": lambda row: " of ".join(map(str, again.get(row["model"], ()))) or MISSING,
    }
    caption = (
        "The strongest part of each role, and how much of the loss its patch alone causes; then "
        "how much of the task all named parts do alone, and as many drawn at random at most"
    )
    return ShownTable.of(caption, cells, records.circuits, numeric=(1, 5, 6, 7, 8, 9))


def ability_table(records: CircuitRecords) -> ShownTable:
    """What every model can do, and how much of it the named parts explain."""
    cells: Cells = {
        "Model": lambda row: row["model"],
        "Architecture": lambda row: row["architecture"],
        "Blocks": lambda row: str(row["n_layers"]),
        "B above the wrong answer": lambda row: percent(row["preferred"]),
        "B on top": lambda row: percent(row["accuracy"]),
        "Probability of B": lambda row: number(row[circuits.PROBABILITY], 3),
        "Logit difference": lambda row: number(row[circuits.LOGIT_DIFFERENCE]),
        "Key part": _key,
        "Faithfulness, 95% interval": _faithfulness,
    }
    marks = (2, 3, 4, 5, 6, 8)
    return ShownTable.of("What each model can do", cells, records.circuits, numeric=marks)


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
        tables.append(ShownTable.of(caption, EFFECTS, rows, numeric=(3, 4, 5, 6)))
    return tables


EFFECTS: Cells = {
    "Experiment": lambda row: row["experiment"],
    "Prompt with": lambda row: corruption_words(row["corruption"]),
    "Patched \u2192 into": lambda row: f"{row['sender']}{row['at']} \u2192 {row['receiver']}",
    "Logit difference, 95% interval": lambda row: interval_words(row, circuits.LOGIT_DIFFERENCE),
    "Logit": lambda row: number(row[circuits.LOGIT]),
    "Probability": lambda row: number(row[circuits.PROBABILITY], 3),
    "KL (nats)": lambda row: number(row[circuits.KL], 3),
}


def _strongest(patches: list[Row]) -> Iterator[dict[str, Any]]:
    """Those of an experiment and corruption, with where they were patched if not all at once."""
    several = len({patch["sender"] for patch in patches}) < len(patches)
    for patch in by_change(patches)[:SHOWN_SENDERS]:
        at = f" at {patch['position']}" if several and patch["position"] else ""
        yield {**patch, "at": at}


def summary_values(records: CircuitRecords) -> dict[str, Any]:
    """Of the summary: what each model can do, its parts, and how far they explain it."""
    rows, able = records.circuits, records.able
    lacking = {model: roles for model in able if (roles := lacking_roles(records, model))}
    return {
        "prompts": rows[0],
        "carrier": circuits.CARRIER,
        "matcher": circuits.MATCHER,
        "copier": circuits.COPIER,
        "models": rows,
        "able": able,
        "unable": [row["model"] for row in rows if not row["able"]],
        "lacking": lacking,
        "n_whole": len(able) - len(lacking),
        "least_share": LEAST_SHARE,
        "rarely_right": [row for row in rows if row["able"] and row["accuracy"] < ON_TOP],
        "unfaithful": [row for row in rows if row["faithful"] is False],
        "roles": aligned_roles(records),
        "in_lines": roles_table(records) if len(rows) > SIDE_BY_SIDE else None,
        "ability": ability_table(records),
        "faithful": [row for row in rows if is_number(row["faithfulness"])],
        "shifts": [
            (
                shift,
                verdict_words(shift),
                offset_words(shift["offset"], shift["token"]),
                interval_words(shift, "centre"),
            )
            for model in able
            for shift in records.shifts(model)
        ],
        "found_again": records.found_again,
    }


def circuit_lines(records: CircuitRecords) -> list[str]:
    """What was found, a sentence or two for each model."""
    return [_line(records, row) for row in records.circuits]


def _line(records: CircuitRecords, row: Row) -> str:
    model = row["model"]
    if not row["able"]:
        return f"{model} has no circuit of induction: {row['reason']}."
    roles = [
        f"{role} {part_of(records, parts[0]).said}" if parts else f"no {role}"
        for role in circuits.ROLE_ORDER
        for parts in [records.parts(model, role)]
    ]
    line = f"{model} has the answer on top in {percent(row['accuracy'])} of the prompts"
    line += f"; its strongest parts: {', '.join(roles)}."
    if is_number(row["faithfulness"]):
        line += f" The named parts alone do {percent(row['faithfulness'])} of it"
        known = is_number(row["null_most"])
        line += f", random ones at most {percent(row['null_most'])}." if known else "."
    shifts = "; ".join(map(verdict_words, records.shifts(model)))
    return f"{line} Off-by-One test: {shifts}." if shifts else line


def lacking_roles(records: CircuitRecords, model: str) -> list[str]:
    """Roles without a part whose share counts, with an interval below zero."""

    def counts(part: Row) -> bool:
        return part["share"] >= LEAST_SHARE and part["change_hi"] < 0

    return [
        role for role in circuits.ROLE_ORDER if not any(map(counts, records.parts(model, role)))
    ]


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
    for name in (circuits.HEAD_TO_LOGITS, *TO_LOGITS):
        patches = records.experiment(name)
        for (_, corruption), own in grouped(patches, "model", "corruption").items():
            logit, probability = (
                by_change(own, metric)[0] for metric in (circuits.LOGIT, circuits.PROBABILITY)
            )
            known = (
                logit[circuits.LOGIT] is not None and probability[circuits.PROBABILITY] is not None
            )
            if known and logit["sender"] != probability["sender"]:
                differing.append((logit, probability, corruption_words(corruption)))
    return differing


def method_values(records: CircuitRecords) -> Mapping[str, Any] | None:
    """Of the methods: whether the run has experiments on heads, and on states."""
    made = {patch["experiment"] for patch in records.patches}
    return (
        {"heads": circuits.HEAD_TO_LOGITS in made, "states": circuits.STATE_TO_LOGITS in made}
        if made
        else None
    )
