"""Parts of the tables of circuits that are handed on within the package (`record.tables`)."""

from __future__ import annotations

from homolog.record.table import Table
from homolog.record.tables import CIRCUITS, EDGES, TASK_CIRCUITS, TASK_NODES

CHOSEN_AS = ("top", "random")
"""Of the edges that are patched for real."""
_SCORED = ("sender", "receiver", "sender_layer", "receiver_layer", "tap", "position", "score")
_PATCHED = [n for n in EDGES.columns if n not in ("model", "architecture", "corruption")]
_CORRELATED = {n: TASK_CIRCUITS.columns[n] for n in ("pearson", "spearman")}
_COUNTED = {"edges": EDGES.columns["chosen_as"], "n": CIRCUITS.columns["n_prompts"]}
_OF_NODES = ("node", "layer", "score", "n_edges")

SCORED_EDGES = Table("scored_edges", "edge", {n: EDGES.columns[n] for n in _SCORED})
PATCHED_EDGES = Table(
    "patched_edges", "edge that was patched for real", {n: EDGES.columns[n] for n in _PATCHED}
)
CORRELATIONS = Table("correlations", "set of edges", _COUNTED | _CORRELATED)
COMPONENTS = Table("components", "node", {n: TASK_NODES.columns[n] for n in _OF_NODES})
