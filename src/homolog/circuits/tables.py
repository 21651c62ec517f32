"""Columns and dtypes of the tables of circuits: each is said here, and every frame is made here.

    circuits   one row per model: what it can do, its key component, faithfulness, Off-by-One
    effects    one row per patch and metric: mean over prompts, with the interval of the change
    roles      one row per part of a circuit
    offsets    one row per place and offset of the Off-by-One test
    edges      one row per edge of discovery; those patched for real have an effect

    task_circuits  one row per model: the circuit of a task from its strongest edges, with scores
    task_nodes     one row per node of that circuit, with its minimality
    task_gaps      one row per set of nodes that was removed to see whether the circuit is complete
    task_edges     one row per edge of the model on that task

A column is null where a row has no such thing: a model that cannot do the task has nothing in
`circuits` after `reason`.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

import polars as pl

Schema = Mapping[str, Any]  # polars dtypes by name; beartype cannot check their type

_TEXT, _NUMBER, _WHOLE = pl.String, pl.Float64, pl.Int64
DISCOVERY_CORRUPTIONS = ("replace_B", "replace_A")  # what is copied, and what is matched
CHOSEN_AS = ("top", "random")  # of the edges that are patched for real


def _interval(name: str) -> Schema:
    return {name: _NUMBER, f"{name}_lo": _NUMBER, f"{name}_hi": _NUMBER}


# Parts of tables, and frames that are handed on within the package.
EDGES: Schema = {
    "sender": _TEXT,
    "receiver": _TEXT,
    "sender_layer": _WHOLE,
    "receiver_layer": _WHOLE,
    "tap": _WHOLE,
    "position": _TEXT,
    "score": _NUMBER,
}
PATCHED_EDGES: Schema = {
    **EDGES,
    "effect": _NUMBER,
    "effect_low": _NUMBER,
    "effect_high": _NUMBER,
    "chosen_as": _TEXT,
}
CORRELATIONS: Schema = {"edges": _TEXT, "n": _WHOLE, "pearson": _NUMBER, "spearman": _NUMBER}
COMPONENTS: Schema = {"node": _TEXT, "layer": _WHOLE, "score": _NUMBER, "n_edges": _WHOLE}

_MODEL: Schema = {"model": _TEXT, "architecture": _TEXT}
_TASK: Schema = {**_MODEL, "task": _TEXT}
TABLES: Mapping[str, Schema] = {
    "circuits": {
        **_MODEL,
        "n_layers": _WHOLE,
        "task": _TEXT,
        "n_prompts": _WHOLE,
        "length": _WHOLE,
        "repeat": _WHOLE,
        "preferred": _NUMBER,
        "accuracy": _NUMBER,
        "probability": _NUMBER,
        "logit_difference": _NUMBER,
        "able": pl.Boolean,
        "reason": _TEXT,
        "key": _TEXT,
        **_interval("faithfulness"),
        "verdict": _TEXT,
        "offset": _WHOLE,
        "certainty": _NUMBER,
        **_interval("centre"),
        "predicted_offset": _WHOLE,
        "discovery_recall": _NUMBER,
        **{
            f"{corruption}_{correlation}_{edges}": _NUMBER
            for corruption in DISCOVERY_CORRUPTIONS
            for edges in (*CHOSEN_AS, "all")
            for correlation in ("pearson", "spearman")
        },
    },
    "effects": {
        **_TASK,
        "experiment": _TEXT,
        "corruption": _TEXT,
        "sender": _TEXT,
        "receiver": _TEXT,
        "metric": _TEXT,
        "clean": _NUMBER,
        "patched": _NUMBER,
        **_interval("change"),
        "n_prompts": _WHOLE,
        "position": _TEXT,
        "offset": _WHOLE,
    },
    "roles": {
        **_MODEL,
        "role": _TEXT,
        "component": _TEXT,
        "evidence": _TEXT,
        **_interval("change"),
        "share": _NUMBER,
    },
    "offsets": {
        **_MODEL,
        "place": _TEXT,
        "offset": _WHOLE,
        **_interval("effect"),
        "share": _NUMBER,
        "predicted_share": _NUMBER,
        **_interval("null"),
    },
    "edges": {**_MODEL, "corruption": _TEXT, **PATCHED_EDGES},
    "task_circuits": {
        **_TASK,
        "n_prompts": _WHOLE,
        "length": _WHOLE,
        "accuracy": _NUMBER,
        "metric": _TEXT,
        "ablation": _TEXT,
        "n_edges": _WHOLE,
        "n_nodes": _WHOLE,
        "n_nodes_of_model": _WHOLE,
        **_interval("faithfulness"),
        **_interval("circuit"),
        **_interval("whole_model"),
        **_interval("nothing"),
        **_interval("largest_gap"),
        "n_needed": _WHOLE,
        "pearson": _NUMBER,
        "spearman": _NUMBER,
    },
    "task_nodes": {**_TASK, **COMPONENTS, **_interval("effect"), "removed": _TEXT},
    "task_gaps": {
        **_TASK,
        "removed": _TEXT,
        **_interval("circuit"),
        **_interval("whole_model"),
        **_interval("difference"),
    },
    "task_edges": {**_TASK, **PATCHED_EDGES, "in_circuit": pl.Boolean},
}
STUDY_TABLES = ("circuits", "effects", "roles", "offsets", "edges")
TASK_TABLES = ("task_circuits", "task_nodes", "task_gaps", "task_edges")


def table(name: str, rows: Iterable[Mapping[str, Any]] | pl.DataFrame) -> pl.DataFrame:
    """The table of that name from rows, or from a frame, of which not all have all columns."""
    return frame(TABLES[name], rows)


def frame(schema: Schema, rows: Iterable[Mapping[str, Any]] | pl.DataFrame) -> pl.DataFrame:
    """A frame with the columns of the schema in their order; null where there is nothing."""
    given = rows if isinstance(rows, pl.DataFrame) else list(rows)
    columns = given.columns if isinstance(given, pl.DataFrame) else {c for r in given for c in r}
    assert schema.keys() >= set(columns), f"no such columns: {set(columns) - schema.keys()}"
    if not isinstance(given, pl.DataFrame):
        return pl.DataFrame(given, dict(schema))
    empty = pl.DataFrame(schema=dict(schema))
    return pl.concat([empty, given], how="diagonal_relaxed").cast(pl.Schema(schema))
