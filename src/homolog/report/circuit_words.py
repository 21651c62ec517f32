"""What the circuit tables say, in words: names of components, the findings, the methods."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from homolog.charts.words import MISSING, is_number, listed, number, percent
from homolog.report.circuit_records import (
    CARRIER,
    COPIER,
    MATCHER,
    ROLES,
    CircuitRecords,
    Row,
    place_of,
)

CORRUPTION_WORDS: Mapping[str, str] = {
    "replace_B": "another B",
    "replace_A": "another A",
    "unrepeated": "nothing repeated",
    "unrepeated_replace_AB": "nothing repeated, other A and B",
    "unrelated": "another prompt",
}
ROLE_WORDS: Mapping[str, str] = {
    CARRIER: "brings A to the position of B",
    MATCHER: "finds that position from the end",
    COPIER: "writes B to the logits",
}
METRIC_WORDS: Mapping[str, str] = {
    "logit_difference": "logit difference",
    "probability": "probability of B",
    "kl": "KL divergence (nats)",
    "logit": "logit of B",
}
HIT_SHARE = 0.05
"""A part counts from this share of what the whole corruption costs."""


@dataclass(frozen=True)
class Finding:
    """A question, how to read the answers, and one answer a model."""

    title: str
    text: str
    models: list[tuple[str, str]]


@dataclass(frozen=True)
class CircuitFindings:
    """status: "clear" (every model has all parts), "caution" (some have not, or cannot do the
    task).
    """

    status: str
    title: str
    reasons: list[str]
    findings: list[Finding]


def corruption_words(name: str) -> str:
    return CORRUPTION_WORDS.get(name, name)


def component_words(component: str) -> str:
    """A component's name in words: "head 2.3", "the convolution of block 5 (its tap at A)"."""
    base, _, position = component.partition("@")
    kind, *place = base.split(".")
    where = ".".join(place)
    words = {
        "z": f"head {where}",
        "state": f"the state of block {where}",
        "y": f"the scan of block {where}",
        "conv_taps": f"the convolution of block {where}",
    }.get(kind, base)
    if not position:
        return words
    return f"{words} ({'its tap' if kind == 'conv_taps' else 'its key'} at {position})"


def interval_words(row: Row, name: str, digits: int = 2) -> str:
    """ "0.73 (0.71 to 0.74)" from NAME, NAME_lo and NAME_hi."""
    if not is_number(row.get(name)):
        return MISSING
    low, high = row.get(f"{name}_lo"), row.get(f"{name}_hi")
    return f"{number(row[name], digits)} ({number(low, digits)} to {number(high, digits)})"


def task_words(records: CircuitRecords) -> str:
    """What the prompts are, with the numbers that the recipe has."""
    settings = records.settings
    repeat = settings.get("repeat")
    if repeat == 1:
        end = "the last one repeats an earlier token A"
    elif repeat is None:
        end = "their end repeats earlier ones, of which the last is A"
    else:
        end = f"the last {repeat} repeat {repeat} earlier ones, of which the last is A"
    size = f"{settings['length']} " if "length" in settings else ""
    count = f"; {settings['n_prompts']} prompts an experiment" if "n_prompts" in settings else ""
    return f"A prompt is {size}random tokens, and {end}. The answer is B, the token that followed A{count}."


def circuit_findings(records: CircuitRecords) -> CircuitFindings:
    """The verdict, its reasons, and the findings."""
    able, unable = records.able, [model for model in records.models if model not in records.able]
    reasons = [f"{model} cannot do the task, so it has no circuit." for model in unable]
    lacking = {
        model: [role for role in ROLES if not _shown(records, model, role)] for model in able
    }
    for model, roles in lacking.items():
        if roles:
            none = listed(roles).replace(" and ", " or ")
            reasons.append(
                f"{model}: no {none} above {HIT_SHARE:.0%} of what the corruption costs."
            )
    whole = [model for model in able if not lacking[model]]
    if not able:
        return CircuitFindings("caution", "No model does the task", reasons, [_ability(records)])
    if len(whole) == len(records.models):
        title = (
            "The circuit has all three parts"
            if len(whole) == 1
            else (
                f"{'Both' if len(whole) == 2 else f'All {len(whole)}'} circuits have the same "
                "three parts"
            )
        )
    else:
        title = f"{len(whole)} of {len(records.models)} models {'has' if len(whole) == 1 else 'have'} all three parts"
    every = [
        _ability(records),
        *(_role(records, role) for role in ROLES),
        _faithfulness(records),
        _shift(records),
        _discovery(records),
    ]
    return CircuitFindings(
        "caution" if reasons else "clear", title, reasons, [item for item in every if item.models]
    )


def _shown(records: CircuitRecords, model: str, role: str) -> bool:
    """Is there a part of that role whose share counts, with an interval below zero?"""
    return any(
        part["share"] >= HIT_SHARE and part["change_hi"] < 0 for part in records.parts(model, role)
    )


def _ability(records: CircuitRecords) -> Finding:
    found = []
    for model in records.models:
        row = records.about(model)
        if row["able"]:
            above = f"in {percent(row['preferred'])} of the prompts, on top of all tokens in {percent(row['accuracy'])}"
            found.append((model, f"B above the wrong answer {above}."))
        else:
            found.append((model, f"cannot do the task: {_sentence(row['reason'])}"))
    several = len(records.models) > 1
    return Finding(
        f"Can {'they' if several else 'it'} do it?", "How often B, the right answer, wins.", found
    )


def _sentence(text: str) -> str:
    text = " ".join(str(text).split()) or "no reason recorded"
    return text if text.endswith((".", "!", "?")) else f"{text}."


_ROLE_TEXTS: Mapping[str, tuple[str, str]] = {
    CARRIER: (
        "Carrying",
        "Which part brings A to the position of B, so that B can be found there? The percentage is "
        "how much of the loss with another A this patch alone causes.",
    ),
    MATCHER: (
        "Matching",
        "Which part finds that position from the end? In a Transformer the key of one position is "
        "patched, with another A; in a Mamba the scan\u2019s output, with nothing repeated.",
    ),
    COPIER: (
        "Copying",
        "Which part writes B to the logits? The percentage is how much of the loss with another B "
        "this "
        "patch alone causes.",
    ),
}


def _role(records: CircuitRecords, role: str) -> Finding:
    found = []
    for model in records.able:
        parts = records.parts(model, role)
        named = [
            f"{component_words(part['component'])} ({percent(part['share'])})" for part in parts[:3]
        ]
        rest = f"; and {len(parts) - 3} more" if len(parts) > 3 else ""
        found.append((model, f"{listed(named)}{rest}." if parts else "none found."))
    return Finding(*_ROLE_TEXTS[role], found)


def _faithfulness(records: CircuitRecords) -> Finding:
    found = []
    for model in records.able:
        row = records.about(model)
        if is_number(row["faithfulness"]):
            between = f"{percent(row['faithfulness_lo'])} to {percent(row['faithfulness_hi'])}"
            others = "scans" if row["architecture"] == "mamba" else "heads"
            found.append(
                (
                    model,
                    f"{percent(row['faithfulness'])} ({between}), all other {others} from another "
                    "prompt.",
                )
            )
    return Finding(
        "Is that all of it?",
        "How much of the logit difference is left when only the named parts are as they were, and "
        "all others come from "
        "prompts with another B: 100% would be a complete circuit.",
        found,
    )


def verdict_words(row: Row) -> str:
    """The verdict of the Off-by-One test as a sentence about the model."""
    offset, verdict = row["offset"], row["verdict"]
    if verdict in (None, "undecided"):
        return verdict or MISSING
    where = {0: "by its own position", 1: "by the position after it"}.get(
        offset,
        f"{abs(offset)} position{'s' if abs(offset) > 1 else ''} "
        f"{'after' if offset > 0 else 'before'} it",
    )
    return f"B is carried {where}: {verdict}"


def _shift(records: CircuitRecords) -> Finding:
    found = []
    for model in records.able:
        row = records.about(model)
        if row["verdict"] is not None:
            at = f"largest at {offset_words(row['offset'])} in {percent(row['certainty'])} of resampled prompts"
            found.append(
                (
                    model,
                    f"{verdict_words(row)}; {at}, centre of mass {interval_words(row, 'centre')}.",
                )
            )
    return Finding(
        "Off by one?",
        "Which position carries what B says: its own, or the one after it, as [Wang 2025] report "
        "of a Mamba? The "
        "centre of mass counts positions after B.",
        found,
    )


def offset_words(offset: int | None) -> str:
    """ "B" for 0, "B+1" for 1; an en dash for None."""
    return MISSING if offset is None else label_of("B", offset)


def label_of(name: str, offset: int) -> str:
    """The position `offset` after a named one."""
    return name if not offset else f"{name}{offset:+d}"


def _discovery(records: CircuitRecords) -> Finding:
    found = []
    for model in records.able:
        row = records.about(model)
        if is_number(row["discovery_recall"]):
            found.append((model, f"{percent(row['discovery_recall'])} of the parts above."))
    return Finding(
        "Found again?",
        "A second method, attribution by gradients over all edges at once, knows nothing of these "
        "experiments. How "
        "many of the parts named here does it rank among as many of its own?",
        found,
    )


@dataclass(frozen=True)
class Method:
    title: str
    patched: str
    held: str
    recomputed: str


_TRANSFORMER_METHODS = (
    Method(
        "Head to logits",
        "the output z of one head at the last position",
        "z of every other head there",
        "the MLPs and the logits of the last position",
    ),
    Method(
        "Head to the key head",
        "z of one head at B\u2019s position, on its way into the key head alone: into its "
        "key, or into all that it reads",
        "z of all other heads, at B\u2019s position and at the last one",
        "the MLPs between, what the key head reads, and from its output on the MLPs of the last "
        "position",
    ),
    Method(
        "Key and value by position",
        "what the key head reads at one position near A or B",
        "the rest of what it reads, and all other heads",
        "the key head\u2019s pattern and output, then the MLPs",
    ),
)
_MAMBA_METHODS = (
    Method(
        "State to logits",
        "the state that one block carries into the last position",
        "the state of every other block, and the last position\u2019s own decay and write",
        "all that the last position computes from its own residual stream: convolution, gate, C, "
        "D-skip",
    ),
    Method(
        "y to logits",
        "the scan\u2019s output y of one block at the last position",
        "y of every other block",
        "gate, D-skip and in-projections",
    ),
    Method(
        "Convolution into a write",
        "what one convolution tap reads, or all of them, for the write at B or B+1",
        "the other taps, every other write, and the states of all other blocks at the last "
        "position",
        "that write, and from the block on the last position",
    ),
    Method(
        "State write by position",
        "the write, with its own decay, at one position",
        "all other writes of the block, and every other block\u2019s state",
        "the state that is carried to the end, and the last position",
    ),
    Method(
        "Block to the key block",
        "y of an earlier block before the last position, as the key block\u2019s state carries it",
        "y of the blocks between",
        "the key block\u2019s convolution and writes, and the last position",
    ),
)
_COMMON_METHODS = (
    Method(
        "Off by one",
        "the write, or the key and value, at B + offset in prompts with another B; as null the "
        "same "
        "around a token that nothing depends on",
        "as for one write, or for key and value, by position",
        "as for one write, or for key and value, by position",
    ),
    Method(
        "Discovery",
        "nothing: every edge gets a score from gradients along the way from the corrupt to the "
        "clean "
        "prompt (EAP-IG); some edges are then patched for real",
        "in a real patch, everything before the receiver",
        "everything after it",
    ),
)


def methods(records: CircuitRecords) -> list[Method]:
    """The experiments of the run, each with what is patched, held and recomputed."""
    asked = set(records.effects.get_column("experiment").to_list())
    heads = _TRANSFORMER_METHODS if "head to logits" in asked else ()
    states = _MAMBA_METHODS if "state to logits" in asked else ()
    return [*heads, *states, *(_COMMON_METHODS if asked else ())]


def misleading(records: CircuitRecords) -> list[str]:
    """Where the raw logit and the probability name different parts as the strongest: a sentence for
    each.
    """
    found = []
    for name in ("head to logits", "state to logits", "y to logits"):
        rows = records.experiment(name)
        for (model, corruption), group in rows.group_by("model", "corruption", maintain_order=True):
            by = {
                metric: group.sort(metric, nulls_last=True).row(0, named=True)
                for metric in ("logit", "probability")
            }
            one, other = by["logit"], by["probability"]
            if (
                one["sender"] != other["sender"]
                and one["logit"] is not None
                and other["probability"] is not None
            ):
                found.append(
                    f"{model}, {name}, {corruption_words(str(corruption))}: the raw logit falls "
                    "most with "
                    f"{one['sender']} ({number(one['logit'])}; probability "
                    f"{number(one['probability'], 3)}), the "
                    f"probability with {other['sender']} ({number(other['logit'])}; "
                    f"{number(other['probability'], 3)})."
                )
    return found


def short_label(component: str) -> str:
    """The label of a node where its row says the block: "2.3", "conv", "state", "y"."""
    kind = component.split(".")[0]
    if kind == "z":
        return ".".join(map(str, place_of(component)))
    return {"conv_taps": "conv", "y": "y", "state": "state"}.get(kind, kind)
