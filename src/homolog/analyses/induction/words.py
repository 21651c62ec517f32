"""Names of what circuits are made of, in words: metrics, prompts, components, positions."""

from __future__ import annotations

from collections.abc import Iterable, Mapping

from homolog.analyses.records import Row
from homolog.charts.words import MISSING, is_number, number
from homolog.record import circuits
from homolog.record.circuits import COPIED, UNSHIFTED

METRIC_WORDS: Mapping[str, str] = {
    circuits.LOGIT_DIFFERENCE: "logit difference",
    circuits.PROBABILITY: "probability of B",
    circuits.KL: "KL divergence (nats)",
    circuits.LOGIT: "logit of B",
}
SHOWN_METRICS = tuple(METRIC_WORDS)
CORRUPTION_WORDS: Mapping[str, str] = {
    circuits.REPLACE_B: "another B",
    circuits.REPLACE_A: "another A",
    circuits.UNREPEATED: "nothing repeated",
    circuits.UNREPEATED_REPLACE_AB: "nothing repeated, other A and B",
    circuits.UNRELATED: "another prompt",
}
"""What a corrupt prompt changes; the more telling ones first."""


def corruption_words(name: str) -> str:
    """What a corruption changes; its name where it is from elsewhere."""
    return CORRUPTION_WORDS.get(name, name)


def place_of(component: str) -> tuple[int, ...]:
    """Layer, and head where there is one: (2, 3) of "z.2.3@A+1", (5,) of "state.5"."""
    return tuple(int(part) for part in component.split(" ")[0].split("@")[0].split(".")[1:])


def component_words(component: str) -> str:
    """A component in words: "head 2.3", "the convolution of block 5 (its tap at A)"."""
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


def short_label(component: str) -> str:
    """A component where its row says the block: "2.3", "conv", "state", "y"."""
    kind = component.split(".")[0]
    if kind == "z":
        return ".".join(map(str, place_of(component)))
    return "conv" if kind == "conv_taps" else kind


def part_in_short(component: str) -> str:
    """A part in a narrow cell: "head 2.3", "state of 5", "scan of 5"."""
    label, (layer, *head) = short_label(component), place_of(component)
    return f"head {label}" if head else f"{'scan' if label == 'y' else label} of {layer}"


def edge_words(edge: Row) -> str:
    """An edge of discovery: "conv_in.5 → conv_taps.5 (tap 3) at B"."""
    tap = f" (tap {edge['tap']})" if edge["tap"] is not None else ""
    return f"{edge['sender']} \u2192 {edge['receiver']}{tap} at {edge['position']}"


def interval_words(row: Row, name: str, ends: tuple[str, str] = ("_lo", "_hi")) -> str:
    """From NAME, NAME_lo and NAME_hi: "0.73 (0.71 to 0.74)"."""
    low, high = (number(row[name + end]) for end in ends)
    return f"{number(row[name])} ({low} to {high})" if is_number(row[name]) else MISSING


def offset_words(offset: int | None, token: str = COPIED) -> str:
    """The position `offset` after a token: "B", "A+1"; an en dash for None."""
    if offset is None:
        return MISSING
    return f"{token}{offset:+d}" if offset else token


def verdict_words(shift: Row) -> str:
    """The Off-by-One verdict on a token, with the position that carries it.

    shift: token, verdict and offset (`CircuitRecords.shifts`).
    """
    token, verdict = shift["token"], shift["verdict"]
    if verdict in (None, "undecided"):
        return verdict or MISSING
    late = shift["offset"] - UNSHIFTED[token]
    side = "after" if late > 0 else "before"
    away = f"{abs(late)} position{'s' if abs(late) > 1 else ''} {side} it"
    own = "by its own position" if token == COPIED else "by B\u2019s position"
    near = {0: own, 1: "by the position after it"}
    if token != COPIED:
        away, near[1] = (words.replace(" it", " B") for words in (away, near[1]))
    return f"{token} is carried {near.get(late, away)}: {verdict}"


def in_sequence(positions: Iterable[str]) -> list[str]:
    """Labels in the order of the prompt, "all" last; A stands right before B."""
    return sorted(set(positions), key=_place)


def _place(label: str) -> tuple[int, str]:
    name, shift = label[:1], label[1:] or "0"
    if name not in "AB" or not shift.lstrip("+-").isdigit():
        return 1000, label
    return int(shift) - (name == "A"), label
