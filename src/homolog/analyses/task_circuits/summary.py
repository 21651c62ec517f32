"""The circuits of tasks in words: lines for the command line, tables for the page."""

from __future__ import annotations

from typing import Any

import polars as pl

from homolog.analyses.induction.words import interval_words
from homolog.analyses.records import Records, Row
from homolog.charts.shown_table import Cells, ShownTable
from homolog.charts.words import number, percent
from homolog.record.circuits import FAITHFUL
from homolog.record.tables import TASK_CIRCUITS, TASK_NODES, TASK_TRANSFERS

SHOWN_NODES = 8  # of a circuit


def table_lines(circuits: pl.DataFrame) -> list[str]:
    """`task_circuits` for people: a line for each model and task, and the words it is without."""
    rows = list(circuits.iter_rows(named=True))
    lines = [f"{row['task']} in {row['model']}: {_line(row)}" for row in rows]
    for task, dropped in dict.fromkeys((row["task"], row["dropped"]) for row in rows):
        if dropped:
            own = [row["model"] for row in rows if (row["task"], row["dropped"]) == (task, dropped)]
            lines.append(f"{task} in {', '.join(own)} is without what is not one token: {dropped}")
    return lines


def _line(row: Row) -> str:
    if row["faithfulness"] is None:
        return f"no circuit, {row['reason']}"
    nodes = f"{row['n_nodes']} of {row['n_nodes_of_model']} nodes"
    doing = f"{interval_words(row, 'faithfulness')} of what the model does"
    random = f"{row['n_random']} random circuits {_beside(row, 'null')}"
    areas = f"CPR {number(row['cpr'])}, CMD {number(row['cmd'])}"
    return f"{nodes} do {doing}; {random}: {called(row)}. {areas}"


def called(row: Row) -> str:
    """Whether the circuit is called faithful, and why not."""
    if row["faithful"]:
        return "faithful"
    if row["n_nodes"] == row["n_nodes_of_model"]:
        return "not faithful: it is the whole model"
    if row["faithfulness_lo"] <= row["null_most"]:
        return "not faithful: random ones do as much"
    return "not faithful"


def _beside(row: Row, name: str) -> str:
    """What was drawn at random: "0.31 (0.28 to 0.34)"."""
    ends = " to ".join(number(row[f"{name}_{end}"]) for end in ("least", "most"))
    return f"{number(row[f'{name}_mean'])} ({ends})"


OF: Cells = {"Model": lambda row: row["model"], "Task": lambda row: row["task"]}
CIRCUITS: Cells = OF | {
    "Solved": lambda row: percent(row["solved"]),
    "Nodes": lambda row: f"{row['n_nodes']} of {row['n_nodes_of_model']}",
    "Faithfulness, 95% interval": lambda row: interval_words(row, "faithfulness"),
    "Random circuits, lowest to highest": lambda row: _beside(row, "null"),
    "Called": called,
}
AREAS: Cells = OF | {
    "CPR": lambda row: number(row["cpr"]),
    "CPR of random orders": lambda row: _beside(row, "random_cpr"),
    "CMD": lambda row: number(row["cmd"]),
    "CMD of random orders": lambda row: _beside(row, "random_cmd"),
}


def section_values(records: Records) -> dict[str, Any]:
    """What the section is filled with."""
    rows = records.table(TASK_CIRCUITS).to_dicts()
    found = [row for row in rows if row["faithfulness"] is not None]
    return {
        "circuits": ShownTable.of("Circuits, and chance", CIRCUITS, found, numeric=(2, 3, 4, 5)),
        "areas": ShownTable.of("By size", AREAS, found, numeric=(2, 3, 4, 5)),
        "unable": [row for row in rows if row["faithfulness"] is None],
        "dropped": [row for row in rows if row["dropped"]],
        "transfers": transfer_tables(records.table(TASK_TRANSFERS)),
        "nodes": node_tables(records.table(TASK_NODES)),
        "least": FAITHFUL,
    }


def transfer_tables(transfers: pl.DataFrame) -> list[ShownTable]:
    """For each model with circuits of several tasks: theirs in rows, the prompts in columns."""
    tables = []
    for (model,), own in transfers.group_by("model", maintain_order=True):
        rows: dict[str, dict[str, Row]] = {}
        for row in own.iter_rows(named=True):
            rows.setdefault(row["task"], {})[row["on"]] = row
        if len(rows) > 1:
            cells: dict[str, Any] = {"Circuit of": lambda of: of}
            cells |= {
                f"on {task}": (lambda of, task=task, rows=rows: _transferred(rows[of][task]))
                for task in rows
            }
            caption = f"{model}: faithfulness on each task, and of random circuits"
            tables.append(ShownTable.of(caption, cells, list(rows), numeric=range(1, len(cells))))
    return tables


def _transferred(row: Row) -> str:
    random = " to ".join(number(row[f"null_{end}"]) for end in ("least", "most"))
    return f"{number(row['faithfulness'])}\nrandom {random}"


def node_tables(nodes: pl.DataFrame) -> list[ShownTable]:
    """The strongest nodes of each circuit."""
    cells: Cells = {
        "Node": lambda row: row["node"],
        "Score": lambda row: number(row["score"]),
        "Ablated alone, 95% interval": lambda row: interval_words(row, "alone"),
        "Taken from the circuit": lambda row: interval_words(row, "effect"),
    }
    found = nodes.filter("in_circuit").group_by("model", "task", maintain_order=True)
    return [
        ShownTable.of(
            f"{model}, {task}", cells, own.head(SHOWN_NODES).to_dicts(), numeric=(1, 2, 3)
        )
        for (model, task), own in found
    ]
