"""How does what two models share change while one of them is trained?"""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

import altair as alt

from homolog.analyses.analysis import Analysis
from homolog.analyses.records import Row, StudyRecords, mapping
from homolog.charts import theme
from homolog.charts.figure import SHARE_AXIS, Figure, Rows, finish, panels, rounded, tips
from homolog.charts.shown_table import Cells, ShownTable
from homolog.charts.words import MISSING, integer, is_number, percent
from homolog.record.circuits import INDUCTION
from homolog.record.comparisons import MAIN, SAE_SEED
from homolog.record.tables import CIRCUITS

FAINT = 0.35
ON_TOP = "on top of all tokens"
ANSWERS = {ON_TOP: "accuracy", "above the distractor": "preferred"}
"""Where the answer of an induction prompt stands, and the column of `CIRCUITS` with the share."""
WITHHELD = "M-1,-1L1,1M1,-1L-1,1"


def step_of(revision: str) -> int | None:
    """The training step that a revision is named after: 1000 of "step1000", "stage1-step1000".

    The number behind "step", or the only one in it; None where there is none such.
    """
    numbers = re.findall(r"step[-_]?(\d+)", revision) or re.findall(r"\d+", revision)
    return int(numbers[0]) if len(numbers) == 1 else None


def over_training(records: StudyRecords) -> Rows:
    """One row per revision and direction; share None where the verdict was withheld."""
    rows: Rows = []
    for entry, revisions in mapping(records.run.get("revisions")).items():
        of = {str(one["name"]): str(one["revision"]) for one in revisions}
        for source, target in records.directions:
            own = source if source in of else target
            row = records.shared_row(source, target)
            if row is None or (source in of) == (target in of):
                continue
            panel = f"{entry} in {target}" if own == source else f"{source} in {entry}"
            rows.append({"panel": panel, **_at(of[own], row)})
    return _in_order(rows)


def _in_order(rows: Rows) -> Rows:
    """Panel by panel, by the step; as the recipe has them where one has none."""
    order = list(dict.fromkeys(row["panel"] for row in rows))
    stepped = all(row["step"] is not None for row in rows)
    return sorted(rows, key=lambda row: (order.index(row["panel"]), row["step"] if stepped else 0))


def _at(revision: str, row: Row) -> dict[str, Any]:
    shares = {"share": "share", "low": "lo", "high": "hi", "ceiling": "ceiling"}
    given = row["given"] and is_number(row["share"])
    return {
        "revision": revision,
        "step": step_of(revision),
        "n_alive": row["n_alive"],
        **{key: rounded(row[column]) if given else None for key, column in shares.items()},
        "reason": row["reason"] or "",
    }


def sentences(rows: Rows) -> list[str]:
    """One for each direction: the first share that is given, the last, and the highest between."""
    said = []
    for panel, own in _by_panel(rows).items():
        given = [row for row in own if row["share"] is not None]
        if len(given) < 2:
            said.append(f"{panel}: fewer than two revisions have a verdict.")
            continue
        highest = max(given, key=lambda row: row["share"])
        ends = [f"{_interval(row)} at {row['revision']}" for row in (given[0], given[-1])]
        inner = highest not in (given[0], given[-1])
        peak = f", with the most, {_interval(highest)}, at {highest['revision']}" if inner else ""
        said.append(f"{panel}: the share with a homolog goes from {ends[0]} to {ends[1]}{peak}.")
    return said


def copying(records: StudyRecords) -> Rows:
    """One row per revision that was asked for induction: how often it gives the answer."""
    found = records.table(CIRCUITS).filter(task=INDUCTION).rows_by_key("model", named=True)
    rows: Rows = []
    for entry, revisions in mapping(records.run.get("revisions")).items():
        for one in revisions:
            for row in found.get(str(one["name"]), []):
                asked = {"panel": entry, "revision": str(one["revision"])}
                asked |= {"step": step_of(asked["revision"])}
                rows += [
                    asked | {"answer": answer, "accuracy": rounded(row[column])}
                    for answer, column in ANSWERS.items()
                ]
    return _in_order(rows)


def which_first(shares: Rows, copies: Rows) -> list[str]:
    """Where what is shared, and where copying, first reach half of their highest value."""
    if not copies:
        return []
    said = [
        f"What they share ({panel}) reaches half of its highest value at {at}."
        for panel, own in _by_panel(shares).items()
        if (at := _half_way(own, "share")) is not None
    ]
    for panel, own in _by_panel([row for row in copies if row["answer"] == ON_TOP]).items():
        if (at := _half_way(own, "accuracy")) is not None:
            said.append(f"Induction in {panel}, with the answer on top, does at {at}.")
    return said


def _half_way(rows: Rows, key: str) -> str | None:
    given = [row for row in rows if row[key] is not None]
    highest = max((row[key] for row in given), default=0)
    if not highest:
        return None
    return next(row["revision"] for row in given if row[key] >= highest / 2)


def _interval(row: Mapping[str, Any]) -> str:
    return f"{percent(row['share'])} (95% interval {percent(row['low'])} to {percent(row['high'])})"


def _by_panel(rows: Rows) -> dict[str, Rows]:
    names = dict.fromkeys(row["panel"] for row in rows)
    return {name: [row for row in rows if row["panel"] == name] for name in names}


CELLS: Cells = {
    "Revision": lambda row: row["revision"],
    "Training step": lambda row: integer(row["step"]),
    "Alive": lambda row: integer(row["n_alive"]),
    "Homologs, 95% interval": lambda row: (
        f"{percent(row['share'])}\n{percent(row['low'])} to {percent(row['high'])}"
        if row["share"] is not None
        else MISSING
    ),
    "Ceiling": lambda row: percent(row["ceiling"]),
    "Verdict": lambda row: "given" if row["share"] is not None else f"withheld: {row['reason']}",
}


def revisions_figure(records: StudyRecords) -> Figure | None:
    """The share with a homolog over training, with its interval and its ceiling."""
    rows = over_training(records)
    if not rows:
        return None
    said = "; ".join(
        f"{row['panel']}, {row['revision']}: "
        f"{percent(row['share']) if row['share'] is not None else 'no verdict'}"
        for row in rows
    )
    return Figure(
        "revisions",
        "How does what they share change in training?",
        "Each point is one revision: the share of features with a homolog, with its 95% interval, "
        "over the training step, on a logarithmic axis that begins at 0. Faint points are the "
        "ceilings, the model looked for in itself through its second dictionaries; crosses below "
        "are revisions without a verdict.",
        f"Lines of the share of homologs over training. {said}.",
        finish(panels(_layers(rows), rows, height=280), rows, axes=64),
    )


def copying_figure(records: StudyRecords) -> Figure | None:
    """How often each revision gives the answer of an induction prompt."""
    rows = copying(records)
    if not rows:
        return None
    x = _across(rows)
    whole = alt.Scale(domain=[0, 1])
    y = alt.Y("accuracy:Q", title="share of prompts", axis=SHARE_AXIS, scale=whole)
    scale = alt.Scale(domain=list(ANSWERS), range=[light for light, _ in theme.MODEL_COLOURS[:2]])
    colour = alt.Color("answer:N", title="the answer is", scale=scale)
    tip = tips(("revision", "revision", ""), ("answer", "", ""), ("accuracy", "share", ".0%"))
    chart = alt.Chart().encode(x, y, colour, tooltip=tip)
    layers = [chart.mark_line(strokeWidth=2), chart.mark_point(size=55, opacity=1)]
    top = "; ".join(
        f"{row['panel']}, {row['revision']}: {percent(row['accuracy'])}"
        for row in rows
        if row["answer"] == ON_TOP
    )
    return Figure(
        "copying",
        "When does it learn to copy?",
        "Each point is one revision: the share of induction prompts with the answer on top of the "
        "whole vocabulary, and above the distractor, where half is chance.",
        f"Lines of the share of induction prompts with the answer on top. {top}.",
        finish(panels(layers, rows, height=200), rows, axes=64),
    )


def _across(rows: Rows) -> alt.X:
    """Steps on a logarithmic axis with 0; revisions side by side where one has no step."""
    if any(row["step"] is None for row in rows):
        order = list(dict.fromkeys(row["revision"] for row in rows))
        return alt.X("revision:N", title="revision", sort=order, axis=alt.Axis(grid=False))
    steps = sorted({row["step"] for row in rows})
    axis = alt.Axis(values=steps, format="~s", grid=False, labelOverlap=True)
    return alt.X("step:Q", title="training step", scale=alt.Scale(type="symlog"), axis=axis)


def _layers(rows: Rows) -> list[Any]:
    high = max([0.01, *(row[key] or 0 for row in rows for key in ("high", "ceiling", "share"))])
    shares = alt.Scale(domain=[0, high], nice=True)
    title = "share with a homolog"
    x, y = _across(rows), alt.Y("share:Q", title=title, axis=SHARE_AXIS, scale=shares)
    above = alt.Y("ceiling:Q", title=title, axis=SHARE_AXIS, scale=shares)
    low, top = alt.Y("low:Q", title=title, scale=shares), alt.Y2("high:Q")
    main, ceiling = (theme.comparison_colour(comparison.name) for comparison in (MAIN, SAE_SEED))
    tip = tips(
        ("revision", "revision", ""),
        ("share", "share", ".1%"),
        ("low", "from", ".1%"),
        ("high", "to", ".1%"),
        ("ceiling", "ceiling", ".1%"),
        ("reason", "withheld", ""),
    )
    given = alt.Chart().transform_filter("datum.share !== null")
    withheld = alt.Chart().transform_filter("datum.share === null")
    ceilings = given.transform_filter("datum.ceiling !== null")
    cross = withheld.mark_point(shape=WITHHELD, size=60, opacity=1, filled=False, color=main)
    return [
        ceilings.mark_line(strokeWidth=1.5, opacity=FAINT, color=ceiling).encode(x, above),
        ceilings.mark_point(size=16, opacity=FAINT, color=ceiling).encode(x, above, tooltip=tip),
        given.mark_rule(strokeWidth=4, opacity=FAINT, color=main).encode(x, low, top, tooltip=tip),
        given.mark_line(strokeWidth=2, color=main).encode(x, y),
        given.mark_point(size=55, opacity=1, color=main).encode(x, y, tooltip=tip),
        cross.encode(x, alt.YDatum(0), tooltip=tip),
    ]


def _values(records: StudyRecords) -> Mapping[str, Any] | None:
    rows = over_training(records)
    if not rows:
        return None
    tables = [
        ShownTable.of(panel, CELLS, own, numeric=range(1, 5))
        for panel, own in _by_panel(rows).items()
    ]
    said = [*sentences(rows), *which_first(rows, copying(records))]
    return {"sentences": said, "steps": tables}


ANALYSIS = Analysis(
    "revisions",
    page="study",
    chapter="Over training",
    figures=lambda records: [revisions_figure(records), copying_figure(records)],
    values=_values,
)
