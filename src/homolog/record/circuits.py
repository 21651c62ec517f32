"""Names that the tables of circuits have in common: written by `circuits/`, read by the pages."""

from __future__ import annotations

from pydantic import Field

from homolog.record.settings import Settings

CARRIER, MATCHER, COPIER = ROLE_ORDER = ("previous-token carrier", "matcher", "copier")
"""What a part does, in the way of the information: the order of every table and figure."""

REPLACE_B, REPLACE_A = DISCOVERED = ("replace_B", "replace_A")
"""What the corrupt prompt changes: of discovery, what is copied and what is matched."""
COPIED, MATCHED = "B", "A"
"""The tokens that the Off-by-One test asks about."""
REPLACED = {COPIED: REPLACE_B, MATCHED: REPLACE_A}
"""What the corrupt prompt changes, by the token that is asked about."""
UNSHIFTED = {COPIED: 0, MATCHED: 1}
"""Offset of B's position from each of them."""
SHIFT_PREFIX = {COPIED: "", MATCHED: "matched_"}
"""What names of columns on each of them begin with."""
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

INDUCTION, NATURAL_INDUCTION = "induction", "natural_induction"
"""Tasks that are more than others: traced role by role, and made of a text."""
TASK_NAMES = (
    INDUCTION,
    NATURAL_INDUCTION,
    "ioi",
    "greater_than",
    "associative_recall",
    "agreement",
)
"""All that ship, for help that is given without making any; `corpus.tasks` makes their prompts."""

START, END, ANOTHER = "start", "end", "another"
READ_POSITIONS = (START, "B-2", "A", "B", "B+1", "B+2", "B+3", END, ANOTHER)
"""Positions of a prompt that a key part reads: what windows begin with, those around A and B, the
last one, and any other.
"""

FAITHFUL = 0.8
"""Least faithfulness of a circuit that is called faithful; as far above 1 is the most."""


class CircuitSearch(Settings):
    """How the circuit of a task is found and evaluated."""

    n_edges: int = 40
    """Edges, the strongest of those with a score, whose ends are the circuit's nodes."""

    validated_edges: int = Field(default=20, ge=2)
    """Edges that are patched for real, of the strongest and as many drawn at random."""

    n_subsets: int = Field(default=5, ge=0)
    """Random sets of nodes that are removed for completeness, and for each node for minimality."""

    n_random: int = Field(default=10, ge=1)
    """Random circuits with as many nodes of each kind that a circuit is compared with, and random
    orders of all nodes that the order of discovery is.
    """

    metric: str = LOGIT_DIFFERENCE
    """What an edge or a node changes: one with a gradient that the task has."""

    ablation: str = "mean"
    """What stands for the other nodes: zero, or mean or resample from the corrupt prompts."""

    even_unable: bool = False
    """Look for circuits of tasks that a model does not do as well: they are of something else."""

    batch: int = Field(default=64, ge=1)
    """Prompts in memory at a time; a quarter of them where discovery takes gradients."""

    @property
    def gradient_batch(self) -> int:
        """Prompts in memory at a time where gradients are taken."""
        return max(1, self.batch // 4)


def by_position(read: str) -> str:
    """The experiment on the key head's "key" or "value" at one position after the other."""
    return f"{read} by position"


def into_write(position: str) -> str:
    """The experiment on what the convolution brings into the write at a position."""
    return f"convolution into the write at {position}"


def correlation_column(kind: str, edges: str) -> str:
    """Where `discoveries` has how scores and effects of some edges correlate: "pearson", "top"."""
    return f"{kind}_{edges}"
