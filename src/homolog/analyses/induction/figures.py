"""Charts of the experiments: heads, blocks, inputs and positions patched one by one."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import altair as alt

from homolog.analyses.induction import rows as chart_rows
from homolog.analyses.induction.records import CircuitRecords
from homolog.analyses.induction.switch import CHANGE, SHOWN, ZERO, change_tips, switched, whiskers
from homolog.analyses.induction.words import CORRUPTION_WORDS, SHOWN_METRICS, in_sequence
from homolog.charts import theme
from homolog.charts.figure import Figure, Rows
from homolog.record.circuits import (
    CARRIER,
    COPIER,
    HEAD_TO_KEY_HEAD,
    HEAD_TO_LOGITS,
    KL,
    REPLACE_A,
    REPLACE_B,
    UNREPEATED_REPLACE_AB,
)
from homolog.record.comparisons import MAIN

WRITTEN_CELLS = 8  # heads of a block up to which a cell has room for its number
UPRIGHT = alt.Axis(labelAngle=0, labelOverlap=True, grid=False, ticks=False)
BLOCK = alt.X("layer:O", title="block", axis=UPRIGHT)


def experiment_figures(records: CircuitRecords) -> Iterable[Figure | None]:
    """Every experiment, in the order of the page."""
    return (
        head_figure(records),
        key_head_figure(records),
        block_figure(records),
        convolution_figure(records),
        upstream_figure(records),
        position_figure(records),
    )


def head_figure(records: CircuitRecords) -> Figure | None:
    """Every head to the logits."""
    return _cell_figure(
        chart_rows.head_cells(records, HEAD_TO_LOGITS),
        "heads",
        "Which heads write the answer?",
        "Each cell is one head at the last position, patched alone with all other heads held; red "
        "is a loss. Outlined are the heads that play a part.",
    )


def key_head_figure(records: CircuitRecords) -> Figure | None:
    """Every earlier head to the key head."""
    return _cell_figure(
        chart_rows.head_cells(records, HEAD_TO_KEY_HEAD),
        "key-head",
        "Which heads does the key head listen to?",
        "Each cell is one head at B\u2019s position, patched only in what the key head reads of "
        "it: with another A its key, with another prompt all of it.",
    )


def _cell_figure(rows: Rows, name: str, title: str, read: str) -> Figure | None:
    if not rows:
        return None
    n_layers = 1 + max(row["layer"] for row in rows)
    layers, height = _cells(rows), min(400, max(110, 34 * n_layers))
    said = "Heatmaps, block by head, of the change of the logit difference."
    return switched(name, title, read, said, layers=layers, rows=rows, height=height)


def _cells(rows: Rows) -> list[alt.Chart]:
    """Coloured cells, outlines of the parts and, where they fit, the numbers.

    KL grows where the others fall: its colours are turned round, so that red is a loss in all.
    """
    band = alt.Scale(paddingInner=0.06, paddingOuter=0.03)
    upward = alt.Axis(grid=False, ticks=False, labelOverlap=True)
    x = alt.X("head:O", title="head", scale=band, axis=UPRIGHT)
    y = alt.Y("layer:O", title="block", sort="descending", scale=band, axis=upward)
    peak, turned = _peak(rows), f"({SHOWN} == '{KL}' ? -1 : 1)"
    hues = [theme.WORSE[0], theme.NEUTRAL[0], theme.BETTER[0]]
    ends: dict[str, Any] = {"domainMin": {"expr": f"-{peak}"}, "domainMax": {"expr": peak}}
    scale = alt.Scale(range=hues, interpolate="rgb", domainMid=0, **ends)
    said = f"datum.value == 0 ? '0' : format({turned} * datum.value, '+.2~f')"
    legend = alt.Legend(title="change", gradientLength=180, tickCount=3, labelExpr=said)
    tint = alt.Color("tint:Q", scale=scale, legend=legend)
    tip = change_tips(("sender", "head", ""), ("receiver", "into", ""))
    base = alt.Chart().transform_calculate(tint=f"{turned} * datum.value")
    cells = base.mark_rect().encode(x, y, tint, tooltip=tip)
    frame: dict[str, Any] = {"stroke": theme.INK[0], "strokeWidth": 1.8, "tooltip": False}
    outline = alt.Chart().transform_filter("datum.part").mark_rect(fillOpacity=0, **frame)
    small = max(row["head"] for row in rows) >= WRITTEN_CELLS
    return [cells, outline.encode(x, y), *([] if small else [_numbers(x, y, peak)])]


def _peak(rows: Rows) -> str:
    """A Vega expression: the largest change of the metric on show, up or down."""
    peaks = {
        metric: max((abs(row[metric]) for row in rows if row[metric] is not None), default=0) or 1.0
        for metric in SHOWN_METRICS
    }
    return f"{{{', '.join(f'{metric}: {value}' for metric, value in peaks.items())}}}[{SHOWN}]"


def _numbers(x: alt.X, y: alt.Y, peak: str) -> alt.Chart:
    strong, weak = (alt.value(ink[0]) for ink in (theme.CELL_INK_STRONG, theme.CELL_INK))
    ink = alt.condition(f"abs(datum.value) > 0.55 * {peak}", strong, weak)
    label = "abs(datum.value) < 0.005 ? '0' : format(datum.value, '+.2f')"
    text = alt.Chart().transform_calculate(label=label).mark_text(fontSize=10.5, tooltip=False)
    return text.encode(x, y, text=alt.Text("label:N"), color=ink)


def block_figure(records: CircuitRecords) -> Figure | None:
    """Every block of a Mamba to the logits, by its state and by its scan's output."""
    return _bar_figure(
        chart_rows.block_bars(records),
        "blocks",
        "Which blocks of the Mamba carry the answer?",
        "Each bar is one block, patched alone with all others held: the state it carries to the "
        "last position, with another B, and its scan\u2019s output there, with nothing repeated.",
    )


def upstream_figure(records: CircuitRecords) -> Figure | None:
    """Every earlier block of a Mamba into the state of a key block."""
    return _bar_figure(
        chart_rows.upstream_bars(records),
        "upstream",
        "Does an earlier block bring A to the key block?",
        "Each bar is the scan\u2019s output of one earlier block before the end, with another A, "
        "as the key block\u2019s state carries it on. Where all are small, the key block\u2019s "
        "own convolution brings A.",
    )


def _bar_figure(rows: Rows, name: str, title: str, read: str) -> Figure | None:
    if not rows:
        return None
    bars = alt.Chart().mark_bar(color=theme.comparison_colour(MAIN.name))
    bars = bars.encode(BLOCK, CHANGE, tooltip=change_tips(("sender", "patched", "")))
    layers, said = [ZERO, bars, whiskers(BLOCK)], "Bars of the change of the logit difference."
    return switched(name, title, read, said, layers=layers, rows=rows, height=170)


def _corruptions(rows: Rows) -> tuple[list[str], alt.Color]:
    """The prompts that the rows have, and a colour for each."""
    colours = {
        CORRUPTION_WORDS[REPLACE_B]: theme.ROLE_COLOURS[COPIER][0],
        CORRUPTION_WORDS[REPLACE_A]: theme.ROLE_COLOURS[CARRIER][0],
        CORRUPTION_WORDS[UNREPEATED_REPLACE_AB]: theme.comparison_colour(MAIN.name),
    }
    there = {row["corruption"] for row in rows}
    names = [*(name for name in colours if name in there), *sorted(there - colours.keys())]
    hues = [colours.get(name, theme.SPARE_COLOURS[0][0]) for name in names]
    scale, legend = alt.Scale(domain=names, range=hues), alt.Legend(title=None, columns=3)
    return names, alt.Color("corruption:N", scale=scale, sort=names, legend=legend)


def convolution_figure(records: CircuitRecords) -> Figure | None:
    """The inputs of the convolution, one by one, into the writes at B and B+1."""
    rows = chart_rows.convolution_bars(records)
    if not rows:
        return None
    axis = alt.Axis(labelAngle=0, grid=False, ticks=False)
    order, (prompts, colour) = in_sequence(row["position"] for row in rows), _corruptions(rows)
    x = alt.X("position:N", title="position that the tap reads", sort=order, axis=axis)
    beside = alt.XOffset("corruption:N", sort=prompts)
    tip = change_tips(("position", "reads", ""), ("corruption", "prompt", ""))
    bars = alt.Chart().mark_bar().encode(x, CHANGE, colour, beside, tooltip=tip)
    return switched(
        "convolution",
        "What does the convolution bring into the write?",
        "The convolution of a key block mixes a few positions before the block writes to its "
        "state; each bar corrupts what one tap reads, the last all of them. A bar at A in the "
        "write at B is the previous-token carrier.",
        "Bars of the change of the logit difference.",
        layers=[ZERO, bars, whiskers(x, beside)],
        rows=rows,
        height=170,
        place="position",
    )


def position_figure(records: CircuitRecords) -> Figure | None:
    """What each position near A and B carries, of the key blocks' writes or for the key head."""
    rows = chart_rows.position_curves(records)
    if not rows:
        return None
    after = "datum.value == 0 ? 'A or B' : format(datum.value, '+d')"
    ticks = alt.Axis(tickMinStep=1, labelExpr=after, grid=False, labelFlush=False)
    x = alt.X("offset:Q", title="position of the patch, from A or B", axis=ticks)
    where = ("position", "position", ""), ("read", "patched", ""), ("corruption", "prompt", "")
    tip = change_tips(*where)
    marks: Any = alt.Chart().encode(x, CHANGE, _corruptions(rows)[1])
    lines = marks.mark_line(strokeWidth=2.2, tooltip=False)
    points = marks.mark_point(size=55, opacity=1).encode(tooltip=tip)
    return switched(
        "positions",
        "At which position does it stand?",
        "What the state receives, or the key head reads, is corrupted at one position at a time: "
        "around B with another B (for a head its value), around A with another A (for a head its "
        "key). A drop at A+1 is a match that uses B\u2019s position.",
        "Lines of the change of the logit difference by position.",
        layers=[ZERO, lines, whiskers(x), points],
        rows=rows,
        height=190,
        place="position",
    )
