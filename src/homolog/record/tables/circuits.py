"""How models do tasks: circuits of induction, and of any task by discovery."""

from __future__ import annotations

from homolog.record.circuits import (
    ALWAYS_MEASURED,
    CARRIER,
    COPIER,
    FAITHFUL,
    MATCHED,
    MATCHER,
    READ_POSITIONS,
    SHIFT_PREFIX,
    correlation_column,
)
from homolog.record.table import Column, Type
from homolog.record.tables.describing import (
    BOOL,
    F64,
    I64,
    MODEL,
    TEXT,
    drawn,
    interval,
    maybe,
    table,
)

_NULL = drawn("null", "faithfulness of random circuits with as many nodes of each kind")
_SHIFT: dict[str, tuple[Type, str]] = {
    "verdict": (TEXT, "of the Off-by-One test"),
    "offset": (I64, "place, from the token, with the largest effect"),
    "certainty": (F64, "share of resamples with that place"),
    **interval("centre", "mean place, weighted by effect"),
    "predicted_offset": (I64, "the place that the convolution alone predicts"),
}
SHIFT_COLUMNS = tuple(_SHIFT)
"""Of `circuits`, on each token, with its `SHIFT_PREFIX` before them."""
_FAITHFUL = (
    BOOL,
    f"faithfulness within {1 - FAITHFUL:.2g} of 1, its interval above all random circuits",
)
CIRCUITS = table(
    "circuits",
    "model whose circuit was asked for",
    **MODEL,
    n_layers=(I64, "its blocks"),
    task=(TEXT, "the task"),
    n_prompts=(I64, "prompts"),
    length=(I64, "tokens of a prompt"),
    repeat=(I64, "tokens at its end that repeat earlier ones"),
    preferred=(F64, "share of prompts with the answer above the distractor"),
    accuracy=(F64, "share of prompts with the answer first"),
    probability=(F64, "of the answer, mean"),
    logit_difference=(F64, "answer minus distractor, mean"),
    able=(BOOL, "whether it does the task"),
    reason=(TEXT, "why not; what follows is null then"),
    key=(TEXT, "the component that matters most"),
    faithfulness=(F64, "of the circuit of the named parts"),
    faithfulness_lo=(F64, "lower end of its interval"),
    faithfulness_hi=(F64, "upper end of its interval"),
    **{name: (kind, f"{means}, on what is copied (B)") for name, (kind, means) in _SHIFT.items()},
    **{
        f"{SHIFT_PREFIX[MATCHED]}{name}": maybe(kind, f"{means}, on what is matched (A)")
        for name, (kind, means) in _SHIFT.items()
    },
    **{name: Column(*column, optional=True) for name, column in _NULL.items()},
    faithful=Column(*_FAITHFUL, optional=True),
)
EFFECTS = table(
    "effects",
    "patched path and metric",
    **MODEL,
    task=(TEXT, "the task"),
    experiment=(TEXT, "what was patched to find what"),
    corruption=(TEXT, "what the corrupt prompt changes"),
    sender=(TEXT, "component that is patched"),
    receiver=(TEXT, "component that reads it"),
    metric=(TEXT, f"{', '.join(ALWAYS_MEASURED[:-1])} or {ALWAYS_MEASURED[-1]}"),
    clean=(F64, "mean without the patch"),
    patched=(F64, "mean with it"),
    **interval("change", "mean change, interval over prompts"),
    n_prompts=(I64, "prompts"),
    position=(TEXT, "place of the patch"),
    offset=(I64, "place from the token"),
)
ROLES = table(
    "roles",
    "component of a circuit",
    **MODEL,
    role=(TEXT, f"{CARRIER}, {MATCHER} or {COPIER}"),
    component=(TEXT, "the site"),
    evidence=(TEXT, "the experiment that shows it"),
    **interval("change", "of the logit difference when it is patched"),
    share=(F64, "of what the whole corruption costs"),
)
OFFSETS = table(
    "offsets",
    "place and offset of the Off-by-One test",
    **MODEL,
    token=Column(TEXT, "B, what is copied, or A, what is matched; null: B", optional=True),
    place=(TEXT, "the site"),
    offset=(I64, "place from the token"),
    **interval("effect", "drop of the logit difference"),
    share=(F64, "of all drops"),
    predicted_share=(F64, "as the convolution alone predicts"),
    **interval("null", "the same around a token that nothing depends on"),
)
HIDDEN_ATTENTION = table(
    "hidden_attention",
    "labelled position of induction prompts, as the key part of a model reads it from the end",
    **MODEL,
    part=(TEXT, "the key head, or what the key state's mixer reads out"),
    position=(TEXT, f"{', '.join(READ_POSITIONS)}: the first is what windows begin with"),
    **interval("share", "of the weights of all positions; the mean one of several positions"),
    **interval("weight", "mean over channels of the size of the weight; a head's attention"),
    n_prompts=(I64, "prompts that have the position"),
)
_EDGE: dict[str, tuple[Type, str]] = {
    "sender": (TEXT, "component that writes"),
    "receiver": (TEXT, "component that reads"),
    "sender_layer": (I64, "its block; null for the embedding"),
    "receiver_layer": (I64, "its block; null for the logits"),
    "tap": (I64, "tap of the convolution; null elsewhere"),
    "position": (TEXT, "place"),
    "score": (F64, "attribution"),
    "effect": (F64, "real effect, where it was patched"),
    "effect_low": (F64, "lower end of its interval"),
    "effect_high": (F64, "upper end of its interval"),
    "chosen_as": (TEXT, "why it was patched: top or random"),
}
DISCOVERIES = table(
    "discoveries",
    "model that does induction and corruption whose edges were scored",
    **MODEL,
    corruption=(TEXT, "what the corrupt prompt changes"),
    n_prompts=(I64, "prompts, the first of those of path patching"),
    n_edges=(I64, "edges with a score"),
    n_named=(I64, "parts that path patching names where this is replaced"),
    n_found=(I64, "those among as many of the highest-ranked heads and mixers of discovery"),
    **{
        correlation_column(kind, edges): (
            F64,
            f"{kind} correlation of score and real effect, {edges} edges",
        )
        for edges in ("top", "random", "all")
        for kind in ("pearson", "spearman")
    },
)
EDGES = table(
    "edges",
    "edge of discovery",
    **MODEL,
    corruption=(TEXT, "what the corrupt prompt changes"),
    **_EDGE,
)

_TASK = {**MODEL, "task": (TEXT, "name of the task, or of the file of prompts")}
TASK_CIRCUITS = table(
    "task_circuits",
    "model and task whose circuit was looked for (`homolog circuits`)",
    **_TASK,
    n_prompts=(I64, "prompts; null where the tokenizer makes none"),
    length=(I64, "tokens of a prompt"),
    dropped=(TEXT, "words of the task that its tokenizer splits, which are left out, by kind"),
    solved=(F64, "share of prompts that the model solves (`circuits/ability.py`)"),
    chance=(F64, "the same of a model that does not know what was asked"),
    needed=(F64, "least share for a circuit, halfway from chance to all"),
    accuracy=(F64, "share of prompts with the answer on top of all tokens"),
    able=(BOOL, "whether it solves as many as are needed"),
    reason=(TEXT, "why not, or why there are no prompts; what follows is null without a circuit"),
    metric=(TEXT, "what an edge or a node changes"),
    ablation=(TEXT, "what stands for the nodes outside"),
    n_edges=(I64, "strongest edges, whose ends are the circuit"),
    n_nodes=(I64, "nodes of the circuit"),
    n_nodes_of_model=(I64, "nodes of the model"),
    **interval("faithfulness", "of the circuit, 1: as the whole model"),
    n_random=(I64, "random circuits, and random orders of all nodes, that were drawn"),
    **_NULL,
    faithful=_FAITHFUL,
    cpr=(F64, "area under faithfulness by the share of nodes, the strongest first; 1 is best"),
    **drawn("random_cpr", "the same of random orders of the nodes"),
    cmd=(F64, "area between that faithfulness and 1; 0 is best"),
    **drawn("random_cmd", "the same of random orders of the nodes"),
    **interval("circuit", "metric of the circuit alone"),
    **interval("whole_model", "metric of the whole model"),
    **interval("nothing", "metric with all nodes ablated"),
    **interval("largest_gap", "largest difference when the same nodes are removed from both"),
    n_needed=(I64, "nodes whose removal changes the metric"),
    pearson=(F64, "correlation of the edges' scores with their real effects"),
    spearman=(F64, "the same of ranks"),
)
TASK_NODES = table(
    "task_nodes",
    "node of a model on a task",
    **_TASK,
    node=(TEXT, "the site"),
    layer=(I64, "its block"),
    in_circuit=(BOOL, "whether it is of the circuit"),
    score=(F64, "attribution of its edges among the strongest, summed; null outside the circuit"),
    n_edges=(I64, "those edges; null outside"),
    **interval("alone", "change of the metric when it alone is ablated in the whole model"),
    **interval("effect", "largest change when it is removed from the circuit; null outside"),
    removed=(TEXT, "with which other nodes of the circuit"),
)
TASK_GAPS = table(
    "task_gaps",
    "set of nodes that was removed to see whether a discovered circuit is complete",
    **_TASK,
    removed=(TEXT, "those nodes"),
    **interval("circuit", "metric of the circuit without them"),
    **interval("whole_model", "metric of the model without them"),
    **interval("difference", "their difference"),
)
TASK_CURVES = table(
    "task_curves",
    "order of a model's nodes and number of them that is kept",
    **_TASK,
    order=(TEXT, "score: the strongest first, as discovered; random: drawn"),
    draw=(I64, "which of the random orders, from 0"),
    n_nodes=(I64, "nodes that are kept, the first of that order"),
    share=(F64, "their share of all nodes"),
    faithfulness=(F64, "of a circuit of these nodes, 1: as the whole model"),
)
TASK_TRANSFERS = table(
    "task_transfers",
    "circuit of a task and task on whose prompts it is kept alone",
    **_TASK,
    on=(TEXT, "the task whose prompts these are"),
    **interval("faithfulness", "of the circuit on those prompts, 1: as the whole model"),
    **_NULL,
    faithful=_FAITHFUL,
)
TASK_EDGES = table(
    "task_edges",
    "edge of a model on a task",
    **_TASK,
    **_EDGE,
    in_circuit=(BOOL, "whether it is among the strongest"),
)
