"""What a report says of the run itself: its models and text, stages, recipe, and files."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

import altair as alt

from homolog.analyses.analysis import Analysis
from homolog.analyses.records import Records, mapping
from homolog.charts import theme
from homolog.charts.figure import PANEL_WIDTH, Figure, Rows, finish, rounded
from homolog.charts.shown_table import Cells, ShownTable
from homolog.charts.words import MISSING, as_toml, integer, is_number, number, seconds, size
from homolog.record.comparisons import MAIN
from homolog.record.layers import STREAM_AFTER
from homolog.record.tables import TABLES


def run_values(records: Records, analyses: Iterable[Analysis]) -> dict[str, Any]:
    """What the templates of the run's own sections are filled with."""
    return {
        "models": model_table(records),
        "corpus": corpus_rows(records),
        "warnings": warnings(records),
        "stages": stage_table(records),
        "recipe": as_toml(mapping(records.run.get("recipe"))),
        "made_with": made_with(records),
        "files": files(records, analyses),
    }


def files(records: Records, analyses: Iterable[Analysis]) -> list[tuple[str, str, str]]:
    """(address from the run folder, file, what it holds) of its tables, and run.json."""
    known = dict.fromkeys([*TABLES, *(table for one in analyses for table in one.tables)])
    places = {table: table.name if table.per_layer else table.file for table in known}
    there = [
        (place, table.file, table.rows)
        for table, place in places.items()
        if (records.path / place).exists()
    ]
    return [*there, ("run.json", "run.json", "recipe, versions, stages, checksums")]


def warnings(records: Records) -> list[str]:
    """What failed, warnings the run recorded, and files it had to build again."""
    failed = [
        f"Not part of this report, for it failed: {work} ({mapping(why).get('error')})"
        for work, why in mapping(records.run.get("failed")).items()
    ]
    rebuilt = [f"Built again: {item}" for item in records.run.get("rebuilt") or []]
    return [*failed, *(str(item) for item in records.run.get("warnings") or []), *rebuilt]


def model_table(records: Records) -> ShownTable:
    """The models of the run."""
    cells: Cells = {
        "Model": lambda model: str(model.get("name") or MISSING),
        "Role": lambda model: str(model.get("role") or MISSING),
        "Architecture": lambda model: str(model.get("architecture") or MISSING),
        "Blocks": _blocks,
        "d_model": lambda model: integer(model.get("d_model")),
        "Parameters": lambda model: integer(model.get("n_parameters")),
        "Held-out loss (nats)": lambda model: number(model.get("heldout_loss"), 3),
    }
    models = [mapping(model) for model in records.run.get("models") or []]
    if any(model.get("site") for model in models):
        cells["Dictionaries of"] = lambda model: str(model.get("site") or STREAM_AFTER)
    if any(model.get("beginning") for model in models):
        cells["Windows begin with, and the loss with / without it"] = _beginning
    return ShownTable.of("The models", cells, models, numeric=range(3, 7))


def _blocks(model: Mapping[str, Any]) -> str:
    """How many blocks a model has, and which have dictionaries where those are not all."""
    n_layers, layers = model.get("n_layers"), model.get("layers") or []
    if not layers or len(layers) == n_layers:
        return integer(n_layers)
    return f"{integer(n_layers)}, dictionaries at {', '.join(map(str, layers))}"


def _beginning(model: Mapping[str, Any]) -> str:
    """What a model reads before every window, and both losses where it was measured."""
    known = mapping(model.get("beginning"))
    if not known:
        return MISSING
    token = str(known["token"]) if known["begins"] else f"not {known['token']}"
    return f"{token}\n{number(known['with_it'], 2)} / {number(known['without'], 2)}"


def corpus_rows(records: Records) -> list[tuple[str, str]]:
    """Facts of the token stream that every model saw."""
    corpus = mapping(records.run.get("corpus"))
    facts = {
        "n_documents": ("Documents", integer),
        "n_documents_empty": ("Empty documents left out", integer),
        "n_windows": ("Windows", integer),
        "context": ("Tokens per window", integer),
        "n_tokens": ("Tokens", integer),
        "masked": ("Masked tokens", lambda masked: _joined(list(mapping(masked).values()))),
        "sources": ("Sources", _joined),
        "tokenizer": ("Tokenizer", _joined),
        "hash": ("Hash of the stream", _joined),
    }
    return [(title, said(corpus[key])) for key, (title, said) in facts.items() if key in corpus]


def _joined(value: Any) -> str:
    return ", ".join(map(str, value if isinstance(value, list) else [value]))


def made_with(records: Records) -> list[tuple[str, str]]:
    """Where and with what the run was made."""
    run = records.run
    titles = {"recipe_hash": "Recipe hash", "git_commit": "Git commit", "device": "Device"}
    rows = [(title, str(run[key])) for key, title in titles.items() if run.get(key)]
    for key, value in mapping(run.get("machine")).items():
        words = size(value) if key.endswith("_bytes") else str(value)
        rows.append((f"Machine: {key.removesuffix('_bytes')}", words))
    return rows + [(f"Version: {key}", str(v)) for key, v in mapping(run.get("versions")).items()]


def made_by(records: Records) -> str:
    """In one line, the run and the version that made a figure."""
    version = mapping(records.run.get("versions")).get("homolog", "")
    recipe = str(records.run.get("recipe_hash") or "")
    return f"homolog {version}, run {records.name}, recipe {recipe}"


def stage_table(records: Records) -> ShownTable:
    """Wall time and peak memory of each stage, and their total and maximum."""
    stages = stage_times(records)
    rows = [
        [row["stage"], row["status"], seconds(row["seconds"]), size(row["peak_bytes"])]
        for row in stages
    ]
    spent, peaks = (
        [row[key] for row in stages if is_number(row[key])] for key in ("seconds", "peak_bytes")
    )
    if spent:
        rows.append(["all stages", "", seconds(sum(spent)), size(max(peaks, default=None))])
    columns = ["Stage", "Status", "Time", "Peak memory"]
    return ShownTable("Stages", columns, rows, (2, 3), strong=(len(rows) - 1,) if spent else ())


def stage_times(records: Records) -> Rows:
    """Seconds and peak memory of each stage, in the order they ran; without the report's own."""
    return [
        {
            "stage": name,
            "status": str(stage.get("status") or "unknown"),
            "seconds": stage.get("seconds"),
            "peak_bytes": stage.get("peak_memory_bytes", stage.get("peak_bytes")),
        }
        for name, stage in mapping(records.run.get("stages")).items()
        if name != "report" and isinstance(stage, Mapping)
    ]


def stage_groups(records: Records) -> Rows:
    """Seconds by kind of stage: "match main" and "match rotated" are one bar, "match (2\u00d7)"."""
    groups: dict[str, list[float]] = {}
    for row in stage_times(records):
        if row["seconds"] is not None:
            groups.setdefault(row["stage"].split(" ")[0], []).append(row["seconds"])
    return [
        {
            "stage": f"{kind} ({len(spent)}\u00d7)" if len(spent) > 1 else kind,
            "seconds": rounded(sum(spent)),
        }
        for kind, spent in groups.items()
    ]


def stage_figure(records: Records) -> Figure | None:
    """Seconds by kind of stage."""
    rows = stage_groups(records)
    if not rows:
        return None
    order = [row["stage"] for row in rows]
    y = alt.Y("stage:N", sort=order, title=None, axis=alt.Axis(ticks=False, grid=False))
    x = alt.X("seconds:Q", title="seconds", axis=alt.Axis(tickCount=6))
    colour = theme.comparison_colour(MAIN.name)
    bars = alt.Chart().mark_bar(color=colour, height={"band": 0.62}, cornerRadiusEnd=2)
    text = alt.Chart().mark_text(align="left", dx=5)
    layers = [bars.encode(x, y), text.encode(x, y, text=alt.Text("seconds:Q", format=".1f"))]
    chart = alt.layer(*layers).properties(width=2 * PANEL_WIDTH, height=30 * len(rows))
    said = "; ".join(f"{row['stage']}: {number(row['seconds'], 1)} s" for row in rows)
    return Figure(
        "stages",
        "Where did the time go?",
        "Each bar is the wall time of one kind of stage, all its stages added up, on the machine "
        "of the run.",
        f"Bars of the seconds of each stage. {said}.",
        finish(chart, rows, axes=120),
    )
