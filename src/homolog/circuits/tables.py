"""Parts of the tables of circuits that are handed on within the package (`record.tables`)."""

from __future__ import annotations

from homolog.record.table import Table
from homolog.record.tables import (
    CIRCUITS,
    EDGES,
    EFFECTS,
    OFFSETS,
    ROLES,
    TASK_CIRCUITS,
    TASK_EDGES,
    TASK_GAPS,
    TASK_NODES,
)

STUDY_TABLES = (CIRCUITS, EFFECTS, ROLES, OFFSETS, EDGES)
TASK_TABLES = (TASK_CIRCUITS, TASK_NODES, TASK_GAPS, TASK_EDGES)
CHOSEN_AS = ("top", "random")
"""Of the edges that are patched for real."""
SCORED_EDGES = Table(
    "scored_edges",
    "edge",
    {
        n: EDGES.columns[n]
        for n in (
            "sender",
            "receiver",
            "sender_layer",
            "receiver_layer",
            "tap",
            "position",
            "score",
        )
    },
)
PATCHED_EDGES = Table(
    "patched_edges",
    "edge that was patched for real",
    {n: c for n, c in EDGES.columns.items() if n not in ("model", "architecture", "corruption")},
)
CORRELATIONS = Table(
    "correlations",
    "set of edges",
    {
        "edges": EDGES.columns["chosen_as"],
        "n": CIRCUITS.columns["n_prompts"],
        "pearson": TASK_CIRCUITS.columns["pearson"],
        "spearman": TASK_CIRCUITS.columns["spearman"],
    },
)
COMPONENTS = Table(
    "components",
    "node",
    {n: TASK_NODES.columns[n] for n in ("node", "layer", "score", "n_edges")},
)
