"""Every table of a run once: columns, types, units, meaning.

Undefined correlations are NaN, their partners -1, and counted.  What was not measured is null, or
NaN where a column cannot be null.  `lo` and `hi` bound 95 % intervals, from documents resampled
where nothing else is said.  docs/tables.md is made of these modules:

    matching   matches, layers, verdicts; of grids and trees of models too
    features   dictionaries, features, examples, what they mean
    causal     effects of features, transplants, alignment search
    crosscoder one dictionary over two models
    circuits   circuits of induction and of other tasks
"""

from __future__ import annotations

from homolog.record.table import Table
from homolog.record.tables.causal import (
    ALIGNMENT_SEARCH,
    CAUSAL,
    CAUSAL_AUC,
    LOSS_RECOVERED,
    SUBSTITUTIONS,
    TRANSPLANT,
)
from homolog.record.tables.circuits import (
    CIRCUITS,
    DISCOVERIES,
    EDGES,
    EFFECTS,
    HIDDEN_ATTENTION,
    OFFSETS,
    ROLES,
    TASK_CIRCUITS,
    TASK_CURVES,
    TASK_EDGES,
    TASK_GAPS,
    TASK_NODES,
    TASK_TRANSFERS,
)
from homolog.record.tables.crosscoder import (
    CROSSCODER_FEATURES,
    CROSSCODER_LATENTS,
    CROSSCODERS,
)
from homolog.record.tables.features import (
    CONTEXTS,
    CURVES,
    FEATURES,
    FLOW,
    LEFT_CONTEXT,
    LISTS,
    MAP,
    OVERLAY,
    RATINGS,
    RELATION,
    SAES,
    SCATTER,
)
from homolog.record.tables.matching import (
    BY_WEIGHTS,
    GRID,
    LAYERS,
    MATCHES,
    RESAMPLED,
    SHARED,
    SPACE_MODELS,
    SPACE_TESTS,
    SUMMARY,
    TREE,
    VARIANCE,
    WITNESS_AGREEMENT,
    WITNESSES,
)

TASK_TABLES = (
    TASK_CIRCUITS,
    TASK_NODES,
    TASK_GAPS,
    TASK_CURVES,
    TASK_TRANSFERS,
    TASK_EDGES,
)
"""Of the circuits of tasks."""
TABLES = (
    MATCHES,
    LAYERS,
    SPACE_TESTS,
    SPACE_MODELS,
    SUMMARY,
    SAES,
    SHARED,
    RESAMPLED,
    TREE,
    GRID,
    VARIANCE,
    FEATURES,
    LEFT_CONTEXT,
    CONTEXTS,
    SCATTER,
    OVERLAY,
    MAP,
    FLOW,
    BY_WEIGHTS,
    RELATION,
    CURVES,
    CAUSAL,
    CAUSAL_AUC,
    SUBSTITUTIONS,
    LOSS_RECOVERED,
    LISTS,
    TRANSPLANT,
    ALIGNMENT_SEARCH,
    CROSSCODERS,
    CROSSCODER_LATENTS,
    CROSSCODER_FEATURES,
    RATINGS,
    WITNESSES,
    WITNESS_AGREEMENT,
    CIRCUITS,
    EFFECTS,
    ROLES,
    OFFSETS,
    DISCOVERIES,
    EDGES,
    HIDDEN_ATTENTION,
    *TASK_TABLES,
)
"""All that ship; an analysis from elsewhere brings its own."""


def page(tables: tuple[Table, ...] = TABLES) -> str:
    """The tables in Markdown: docs/tables.md."""
    about = (__doc__ or "").split("\n\n", 1)[1].strip().rsplit("  docs/", 1)[0]
    parts = [f"# Tables\n\n{about}\n"]
    for table in tables:
        lines = ["| column | type | meaning |", "|---|---|---|"]
        for name, column in table.columns.items():
            kind = f"{column.type_name}, not in every run" if column.optional else column.type_name
            lines.append(f"| {name} | {kind} | {column.means} |")
        head = f"## {table.name}\n\n`{table.file}`, {table.rows}.\n"
        parts += [head, "\n".join(lines) + "\n"]
    return "\n".join(parts)
