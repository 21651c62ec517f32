"""Charts of the circuit experiments.  Those of effects on the logits have a switch between the
metrics.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import altair as alt

from homolog.charts import theme
from homolog.charts.figure import SHARE_AXIS, Figure, finish, panels, tips
from homolog.charts.words import number
from homolog.report import circuit_rows
from homolog.report.circuit_drawing import circuit_figure
from homolog.report.circuit_records import METRICS, CircuitRecords
from homolog.report.circuit_words import METRIC_WORDS, verdict_words

Rows = list[dict[str, Any]]

WRITTEN_CELLS = 8  # heads of a block up to which a cell has room for its number
SWITCH_WORDS = " The switch shows the same patches by another metric."
SHOWN = "shown"  # the metric on show, a parameter of the figure
ZERO = alt.Chart().mark_rule(tooltip=False).encode(y=alt.datum(0))


def circuit_figures(records: CircuitRecords) -> list[Figure]:
    """Every figure that the tables allow, in the order of the page; the drawing of the circuits is
    the first.
    """
    makers: Sequence[Callable[[CircuitRecords], Figure | None]] = (
        circuit_figure,
        head_figure,
        key_head_figure,
        layer_figure,
        upstream_figure,
        convolution_figure,
        position_figure,
        offset_figure,
        edge_figure,
    )
    return [figure for make in makers if (figure := make(records)) is not None]


def switch() -> alt.Parameter:
    """The choice of the metric; files show the logit difference."""
    labels = [METRIC_WORDS[metric] for metric in METRICS]
    return alt.param(
        SHOWN,
        value=METRICS[0],
        bind=alt.binding_radio(options=list(METRICS), labels=labels, name="Show: "),
    )


def shown(chart: Any) -> Any:
    """The chart with its switch, and the fields value, low and high of the metric on show."""
    return chart.transform_calculate(
        value=f"datum[{SHOWN}]", low=f"datum[{SHOWN} + '_lo']", high=f"datum[{SHOWN} + '_hi']"
    ).add_params(switch())


def value_tips(*more: tuple[str, str, str]) -> list[alt.Tooltip]:
    """What a mark says: where it is, then every metric."""
    metrics = [(metric, METRIC_WORDS[metric], "+.3f") for metric in METRICS]
    return tips(*more, *metrics, ("low", "shown, from", "+.3f"), ("high", "to", "+.3f"))


def strongest(rows: Rows, label: str, metric: str = "logit_difference") -> str:
    """For the text of a figure: each panel's largest drop."""
    found = []
    for panel in dict.fromkeys(row["panel"] for row in rows):
        own = [row for row in rows if row["panel"] == panel and row[metric] is not None]
        if own:
            least = min(own, key=lambda row: row[metric])
            found.append(f"{panel}: {least[label]} {number(least[metric])}")
    return "; ".join(found)


def head_figure(records: CircuitRecords) -> Figure | None:
    """Every head to the logits."""
    return _cell_figure(
        records,
        "head to logits",
        "heads",
        "Which heads write the answer?",
        "Each cell is one head at the last position, patched alone with all other heads held; red "
        "is a loss. Outlined "
        "are the heads that play a part.",
    )


def key_head_figure(records: CircuitRecords) -> Figure | None:
    """Every earlier head to the key head."""
    return _cell_figure(
        records,
        "head to the key head",
        "key-head",
        "Which heads does the key head listen to?",
        "Each cell is one head at B\u2019s position, patched only in what the key head reads of "
        "it: with another A its "
        "key, with another prompt all of it.",
    )


def _cell_figure(
    records: CircuitRecords, experiment: str, name: str, title: str, read: str
) -> Figure | None:
    rows = circuit_rows.head_cells(records, experiment)
    if not rows:
        return None
    n_layers, n_heads = 1 + max(row["layer"] for row in rows), 1 + max(row["head"] for row in rows)
    chart = shown(panels(_cells(rows, n_heads), rows, height=min(400, max(110, 34 * n_layers))))
    return Figure(
        name,
        title,
        f"{read}{SWITCH_WORDS}",
        "Heatmaps, block by head, of the change of the logit difference. Largest drop: "
        f"{strongest(rows, 'sender')}.",
        finish(chart, rows, axes=58),
    )


def _cells(rows: Rows, n_heads: int) -> list[alt.Chart]:
    """Coloured cells, outlines of the parts and, where they fit, the numbers.

    KL grows where the others fall: its colours are turned round, so that red is a loss in all.
    """
    peaks = {
        metric: max((abs(row[metric]) for row in rows if row[metric] is not None), default=0) or 1.0
        for metric in METRICS
    }
    peak = f"{{{', '.join(f'{metric}: {value}' for metric, value in peaks.items())}}}[{SHOWN}]"
    turned = f"({SHOWN} == 'kl' ? -1 : 1)"
    band = alt.Scale(paddingInner=0.06, paddingOuter=0.03)
    x = alt.X(
        "head:O",
        title="head",
        scale=band,
        axis=alt.Axis(labelAngle=0, labelOverlap=True, grid=False, ticks=False),
    )
    upward = alt.Axis(grid=False, ticks=False, labelOverlap=True)
    y = alt.Y("layer:O", title="block", sort="descending", scale=band, axis=upward)
    domain = {"domainMin": {"expr": f"-{peak}"}, "domainMax": {"expr": peak}, "domainMid": 0}
    scale = alt.Scale(
        range=[theme.WORSE[0], theme.NEUTRAL[0], theme.BETTER[0]], interpolate="rgb", **domain
    )
    legend = alt.Legend(
        title="change",
        gradientLength=180,
        tickCount=3,
        labelExpr=f"datum.value == 0 ? '0' : format({turned} * datum.value, '+.2~f')",
    )
    tip = value_tips(("sender", "head", ""), ("receiver", "into", ""))
    base = alt.Chart().transform_calculate(tint=f"{turned} * datum.value")
    cells = base.mark_rect().encode(
        x, y, alt.Color("tint:Q", scale=scale, legend=legend), tooltip=tip
    )
    outline = alt.Chart().mark_rect(
        fillOpacity=0, stroke=theme.INK[0], strokeWidth=1.8, tooltip=False
    )
    layers = [cells, outline.transform_filter("datum.part").encode(x, y)]
    if n_heads <= WRITTEN_CELLS:
        strong = f"abs(datum.value) > 0.55 * {peak}"
        ink = alt.condition(
            strong, alt.value(theme.CELL_INK_STRONG[0]), alt.value(theme.CELL_INK[0])
        )
        text = alt.Chart().mark_text(fontSize=10.5, tooltip=False)
        written = text.transform_calculate(
            label="abs(datum.value) < 0.005 ? '0' : format(datum.value, '+.2f')"
        )
        layers.append(written.encode(x, y, text=alt.Text("label:N"), color=ink))
    return layers


def layer_figure(records: CircuitRecords) -> Figure | None:
    """Every block of a Mamba to the logits, by its state and by its scan's output."""
    return _bar_figure(
        circuit_rows.layer_bars(records),
        "blocks",
        "Which blocks of the Mamba carry the answer?",
        "Each bar is one block, patched alone with all others held: the state it carries to the "
        "last position, with "
        "another B, and its scan\u2019s output there, with nothing repeated.",
    )


def upstream_figure(records: CircuitRecords) -> Figure | None:
    """Every earlier block of a Mamba into the state of a key block."""
    return _bar_figure(
        circuit_rows.upstream_bars(records),
        "upstream",
        "Does an earlier block bring A to the key block?",
        "Each bar is the scan\u2019s output of one earlier block before the end, with another A, "
        "as the key "
        "block\u2019s state carries it on. Where all are small, the key block\u2019s own "
        "convolution brings A.",
    )


def _bar_figure(rows: Rows, name: str, title: str, read: str) -> Figure | None:
    if not rows:
        return None
    x = alt.X(
        "layer:O",
        title="block",
        axis=alt.Axis(labelAngle=0, labelOverlap=True, grid=False, ticks=False),
    )
    y = alt.Y("value:Q", title="change", axis=alt.Axis(tickCount=5))
    tip = value_tips(("sender", "patched", ""))
    bars = alt.Chart().mark_bar(color=theme.comparison_colour("main")).encode(x, y, tooltip=tip)
    chart = shown(panels([ZERO, bars, _whiskers(x)], rows, height=170))
    return Figure(
        name,
        title,
        f"{read}{SWITCH_WORDS}",
        f"Bars of the change of the logit difference. Largest drop: {strongest(rows, 'sender')}.",
        finish(chart, rows, axes=58),
    )


def _whiskers(*encodings: Any) -> alt.Chart:
    """The intervals of bars or points, in the place that the encodings give."""
    rule = alt.Chart().mark_rule(strokeWidth=1.4, color=theme.INK[0], tooltip=False)
    return rule.encode(*encodings, alt.Y("low:Q"), alt.Y2("high:Q"))


CORRUPTION_COLOURS = {
    "another B": theme.ROLE_COLOURS["copier"][0],
    "another A": theme.ROLE_COLOURS["previous-token carrier"][0],
    "nothing repeated, other A and B": theme.comparison_colour("main"),
}


def _corruptions(rows: Rows) -> list[str]:
    found = {row["corruption"] for row in rows}
    return [
        *(name for name in CORRUPTION_COLOURS if name in found),
        *sorted(found - set(CORRUPTION_COLOURS)),
    ]


def _corruption_colour(rows: Rows) -> alt.Color:
    names = _corruptions(rows)
    spare = theme.SPARE_COLOURS[0][0]
    scale = alt.Scale(domain=names, range=[CORRUPTION_COLOURS.get(name, spare) for name in names])
    return alt.Color(
        "corruption:N", scale=scale, sort=names, legend=alt.Legend(title=None, columns=3)
    )


def convolution_figure(records: CircuitRecords) -> Figure | None:
    """The inputs of the convolution, one by one, into the writes at B and B+1."""
    rows = circuit_rows.convolution_bars(records)
    if not rows:
        return None
    x = alt.X(
        "position:N",
        title="position that the tap reads",
        sort=circuit_rows.position_order(rows),
        axis=alt.Axis(labelAngle=0, grid=False, ticks=False),
    )
    colour = _corruption_colour(rows)
    offset = alt.XOffset("corruption:N", sort=_corruptions(rows))
    y = alt.Y("value:Q", title="change", axis=alt.Axis(tickCount=5))
    tip = value_tips(("position", "reads", ""), ("corruption", "prompt", ""))
    bars = alt.Chart().mark_bar().encode(x, y, colour, offset, tooltip=tip)
    chart = shown(panels([ZERO, bars, _whiskers(x, offset)], rows, height=170))
    return Figure(
        "convolution",
        "What does the convolution bring into the write?",
        "The convolution of a key block mixes a few positions before the block writes to its "
        "state; each bar corrupts "
        "what one tap reads, the last all of them. A bar at A in the write at B is the "
        "previous-token carrier."
        f"{SWITCH_WORDS}",
        f"Bars of the change of the logit difference. Largest drop: {strongest(rows, 'position')}.",
        finish(chart, rows, axes=58),
    )


def position_figure(records: CircuitRecords) -> Figure | None:
    """What each position near A and B carries, of the key blocks' writes or for the key head."""
    rows = circuit_rows.position_curves(records)
    if not rows:
        return None
    after = "datum.value == 0 ? 'A or B' : format(datum.value, '+d')"
    ticks = alt.Axis(tickMinStep=1, labelExpr=after, grid=False, labelFlush=False)
    x = alt.X("offset:Q", title="position of the patch, from A or B", axis=ticks)
    y = alt.Y("value:Q", title="change", axis=alt.Axis(tickCount=5))
    colour = _corruption_colour(rows)
    tip = value_tips(
        ("position", "position", ""), ("read", "patched", ""), ("corruption", "prompt", "")
    )
    lines = alt.Chart().mark_line(strokeWidth=2.2, tooltip=False).encode(x, y, colour)
    points = alt.Chart().mark_point(size=55, opacity=1).encode(x, y, colour, tooltip=tip)
    chart = shown(panels([ZERO, lines, _whiskers(x), points], rows, height=190))
    return Figure(
        "positions",
        "At which position does it stand?",
        "What the state receives, or the key head reads, is corrupted at one position at a time: "
        "around B with "
        "another B (for a head its value), around A with another A (for a head its key). A drop "
        "at A+1 is a match that "
        f"uses B\u2019s position.{SWITCH_WORDS}",
        "Lines of the change of the logit difference by position. Largest drop: "
        f"{strongest(rows, 'position')}.",
        finish(chart, rows, axes=58),
    )


def offset_figure(records: CircuitRecords) -> Figure | None:
    """The Off-by-One test."""
    rows = circuit_rows.offset_profiles(records)
    if not rows:
        return None
    x = alt.X(
        "offset:O",
        title="offset from B",
        axis=alt.Axis(
            labelAngle=0,
            grid=False,
            ticks=False,
            labelExpr="datum.value == 0 ? 'B' : 'B' + format(datum.value, '+d')",
        ),
    )
    y = alt.Y("share:Q", title="share of the drop", axis=SHARE_AXIS)
    series = {
        "measured": (theme.comparison_colour("main"), "measured"),
        "null": (theme.MUTED[0], "null: around an unrelated token"),
        "predicted": (theme.comparison_colour("neurons"), "predicted by the convolution alone"),
    }
    if all(row["predicted"] is None for row in rows):
        del series["predicted"]
    labels = "{" + ", ".join(f"{name}: '{label}'" for name, (_, label) in series.items()) + "}"
    colour = alt.Scale(domain=list(series), range=[hue for hue, _ in series.values()])
    legend = alt.Legend(title=None, labelExpr=f"{labels}[datum.label]", columns=3)

    hue = alt.Color("series:N", scale=colour, legend=legend)
    tip = tips(
        ("offset", "offset", ""),
        ("effect", "drop of the logit difference", ".3f"),
        ("share", "share of the drop", ".1%"),
        ("predicted", "predicted share", ".1%"),
        ("of_model", "of the model\u2019s whole drop", ".0%"),
    )
    base = alt.Chart()
    bars = (
        base.mark_bar(opacity=0.85)
        .transform_calculate(series="'measured'")
        .encode(x, y, hue, tooltip=tip)
    )
    null = base.mark_bar(opacity=0.55, tooltip=False).transform_calculate(series="'null'")
    guess = base.mark_point(shape="diamond", size=75, opacity=1).transform_calculate(
        series="'predicted'"
    )
    layers = [
        ZERO,
        bars,
        _whiskers(x),
        null.encode(x, alt.Y("null_low:Q"), alt.Y2("null_high:Q"), hue),
        guess.transform_filter("isValid(datum.predicted)").encode(
            x, alt.Y("predicted:Q"), hue, tooltip=tip
        ),
    ]
    chart = panels(layers, rows, height=190)
    said = "; ".join(f"{model}: {verdict_words(records.about(model))}" for model in records.able)
    return Figure(
        "offsets",
        "Off by one?",
        "Which position carries B? Each bar patches one position after B, in prompts with another "
        "B, in the blocks (or "
        "the head) that carry most of the drop; the grey band is the same around a token that "
        "nothing depends on."
        + (
            " Diamonds are what the convolution\u2019s weights alone would spread."
            if "predicted" in series
            else ""
        ),
        f"Bars of the share of the drop of the logit difference by offset from B. {said}.",
        finish(chart, rows, axes=58),
    )


def edge_figure(records: CircuitRecords) -> Figure | None:
    """Discovery: the score of an edge against its real effect."""
    rows = circuit_rows.validated_edges(records)
    if not rows:
        return None
    values = [row[key] for row in rows for key in ("score", "effect") if row[key] is not None]
    ends = [min(values), max(values)]
    diagonal = [
        {"panel": panel, "chosen": "same", "score": end, "effect": end}
        for panel in dict.fromkeys(row["panel"] for row in rows)
        for end in ends
    ]
    scale = alt.Scale(
        type="symlog", constant=0.05, nice=False, domain=[ends[0] * 1.3, max(ends[1] * 1.3, 0.05)]
    )
    axis = alt.Axis(
        values=[-100, -30, -10, -3, -1, -0.3, -0.1, 0, 0.1, 0.3, 1, 3, 10, 30],
        labelOverlap="greedy",
        format="~g",
    )
    x = alt.X("score:Q", title="score, from gradients", scale=scale, axis=axis)
    y = alt.Y("effect:Q", title="effect, patched for real", scale=scale, axis=axis)
    names = ["top", "random"]
    colour = alt.Color(
        "chosen:N",
        sort=names,
        scale=alt.Scale(
            domain=names,
            range=[theme.comparison_colour("main"), theme.comparison_colour("neurons")],
        ),
        legend=alt.Legend(
            title=None, labelExpr="{top: 'largest scores', random: 'drawn at random'}[datum.label]"
        ),
    )
    tip = tips(
        ("edge", "edge", ""),
        ("score", "score", ".4f"),
        ("effect", "effect", ".4f"),
        ("low", "from", ".4f"),
        ("high", "to", ".4f"),
    )
    line = alt.Chart().mark_line(
        strokeDash=[2, 3], color=theme.MUTED[0], tooltip=False, strokeWidth=1
    )
    points = alt.Chart().mark_point(size=42, opacity=0.85).encode(x, y, colour, tooltip=tip)
    real = "datum.chosen != 'same'"
    layers = [
        line.transform_filter("datum.chosen == 'same'").encode(x, y),
        points.transform_filter(real),
    ]
    circuits = records.circuits.filter("able").to_dicts()
    said = "; ".join(
        f"{row['model']}: {number(row['replace_B_pearson_all'])} with another B, "
        f"{number(row['replace_A_pearson_all'])} with another A"
        for row in circuits
    )
    return Figure(
        "edges",
        "Do scores from gradients tell the truth?",
        "Each dot is an edge of discovery: its score across, the change of the logit difference "
        "when it is patched for "
        "real upward; on the dotted line both agree. Both axes are linear near zero and "
        "logarithmic beyond 0.05.",
        f"Scatter of score and effect of edges. Pearson correlations: {said}.",
        finish(panels(layers, rows, height=250), rows + diagonal, axes=58),
    )
