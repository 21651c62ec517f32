"""Names that the tables of circuits have in common: written by `circuits/`, read by the pages."""

from __future__ import annotations

CARRIER, MATCHER, COPIER = ROLE_ORDER = ("previous-token carrier", "matcher", "copier")
"""What a part does, in the way of the information: the order of every table and figure."""

REPLACE_B, REPLACE_A = DISCOVERED = ("replace_B", "replace_A")
"""What the corrupt prompt changes: of discovery, what is copied and what is matched."""
UNREPEATED, UNREPEATED_REPLACE_AB, UNRELATED = "unrepeated", "unrepeated_replace_AB", "unrelated"
"""The same, of experiments that change more; `corpus.tasks.random_tokens` says what each does."""

LOGIT, PROBABILITY, LOGIT_DIFFERENCE, KL, RANK = ALWAYS_MEASURED = (
    "logit",
    "probability",
    "logit_difference",
    "kl",
    "rank",
)
"""What a patch changes, of prompts with one answer; `circuits.metrics` has the formulas."""
PROBABILITY_DIFFERENCE = "probability_difference"
METRICS = (*ALWAYS_MEASURED, PROBABILITY_DIFFERENCE)

HEAD_TO_LOGITS, HEAD_TO_KEY_HEAD = "head to logits", "head to the key head"
STATE_TO_LOGITS, Y_TO_LOGITS = "state to logits", "y to logits"
LAYER_TO_KEY_LAYER, STATE_WRITES = "layer to the key layer", "state write by position"


def by_position(read: str) -> str:
    """The experiment on the key head's "key" or "value" at one position after the other."""
    return f"{read} by position"


def into_write(position: str) -> str:
    """The experiment on what the convolution brings into the write at a position."""
    return f"convolution into the write at {position}"


def correlation_column(corruption: str, kind: str, edges: str) -> str:
    """Where `circuits` has how scores and effects of some edges correlate: "pearson", "top"."""
    return f"{corruption}_{kind}_{edges}"
