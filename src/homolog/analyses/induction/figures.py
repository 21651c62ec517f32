"""Charts of the experiments: heads, blocks, inputs and positions patched one by one.

`panel` is the heading under which a row is drawn.  A row has the change of every metric, to four
significant digits, so that the figure's switch between the metrics needs no other data; files show
the first.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import altair as alt

from homolog.analyses.induction import words
from homolog.analyses.induction.records import CircuitRecords, by_change, grouped
from homolog.analyses.records import Row
from homolog.charts import theme
from homolog.charts.figure import Figure, Rows, finish, panels, significant, tips
from homolog.charts.words import number
from homolog.record import circuits
from homolog.record.comparisons import MAIN, SPARE_COLOURS

TO_LOGITS = {circuits.STATE_TO_LOGITS: "state", circuits.Y_TO_LOGITS: "y"}
INTO_WRITE = {circuits.into_write(at): at for at in ("B", "B+1")}
BY_POSITION = {circuits.STATE_WRITES: "write"} | {
    circuits.by_position(read): read for read in ("key", "value")
}
SHOWN = "shown"  # the metric on show, a parameter of the figure
ZERO = alt.Chart().mark_rule(tooltip=False).encode(y=alt.datum(0))
CHANGE = alt.Y("value:Q", title="change", axis=alt.Axis(tickCount=5))
WRITTEN_CELLS = 8  # heads of a block up to which a cell has room for its number
UPRIGHT = alt.Axis(labelAngle=0, labelOverlap=True, grid=False, ticks=False)
BLOCK = alt.X("layer:O", title="block", axis=UPRIGHT)


def _row(patch: Row, heading: str, **more: Any) -> dict[str, Any]:
    columns = [f"{metric}{end}" for metric in words.SHOWN_METRICS for end in ("", "_lo", "_hi")]
    changes = {column: significant(patch[column]) for column in columns}
    return {"panel": f"{patch['model']}: {heading}"} | more | changes


def head_cells(records: CircuitRecords, experiment: str) -> Rows:
    """One row per head, model and corruption: block, head, and whether it plays a part."""
    parts = {(part["model"], part["component"].split("@")[0]) for part in records.roles}
    rows = []
    for patch in records.experiment(experiment):
        layer, head = words.place_of(patch["sender"])
        where = {"sender": patch["sender"], "receiver": patch["receiver"]}
        part = (patch["model"], patch["sender"]) in parts
        heading = words.corruption_words(patch["corruption"])
        rows.append(_row(patch, heading, layer=layer, head=head, part=part, **where))
    return rows


def block_bars(records: CircuitRecords) -> Rows:
    """One row per block of a Mamba: its state, then its y, to the logits."""
    rows = []
    for patch in records.experiment(*TO_LOGITS):
        heading = f"{TO_LOGITS[patch['experiment']]}, {words.corruption_words(patch['corruption'])}"
        rows.append(_block(patch, heading))
    return rows


def upstream_bars(records: CircuitRecords) -> Rows:
    """One row per earlier block of a Mamba: its y into the state of each key block."""
    patches = records.experiment(circuits.LAYER_TO_KEY_LAYER)
    return [
        _block(patch, f"into state {words.place_of(patch['receiver'])[0]}") for patch in patches
    ]


def _block(patch: Row, heading: str) -> dict[str, Any]:
    return _row(patch, heading, layer=words.place_of(patch["sender"])[0], sender=patch["sender"])


def convolution_bars(records: CircuitRecords) -> Rows:
    """One row per input of the convolution, for the writes at B and B+1 of each key block."""
    rows = []
    for patch in records.experiment(*INTO_WRITE):
        at, block = INTO_WRITE[patch["experiment"]], words.place_of(patch["receiver"])[0]
        corruption = words.corruption_words(patch["corruption"])
        where = {"position": patch["position"], "corruption": corruption}
        rows.append(_row(patch, f"block {block}, write at {at}", at=at, **where))
    blocks = list(dict.fromkeys(row["panel"].split(", write")[0] for row in rows))
    return sorted(rows, key=lambda row: (blocks.index(row["panel"].split(", write")[0]), row["at"]))


def position_curves(records: CircuitRecords) -> Rows:
    """What each position carries: writes of key blocks, keys and values that the key head reads."""
    rows = []
    for patch in records.experiment(*BY_POSITION):
        place = words.place_of(patch["sender"])
        where = ".".join(map(str, place))
        heading = f"head {where}" if len(place) > 1 else f"writes of block {where}"
        about = {"offset": patch["offset"], "position": patch["position"]}
        read, corruption = (
            BY_POSITION[patch["experiment"]],
            words.corruption_words(patch["corruption"]),
        )
        rows.append(_row(patch, heading, read=read, corruption=corruption, **about))
    return rows


@dataclass(frozen=True)
class Experiment:
    """A figure of patches whose layers draw the fields value, low and high: of the metric on show.

    said: what is drawn, for those who cannot see it.  place: field of the rows that names where
    they were patched.  height: of a panel, in pixels; 0: as the number of blocks needs.
    """

    name: str
    title: str
    rows: Callable[[CircuitRecords], Rows]
    layers: Callable[[Rows], list[alt.Chart]]
    read: str
    said: str = "Bars of the change of the logit difference."
    place: str = "sender"
    height: int = 170

    @property
    def by_position(self) -> bool:
        """Whether it compares positions, and not parts."""
        return self.place == "position"

    def drawn(self, records: CircuitRecords) -> Figure | None:
        """The figure; None where the run has none of its patches."""
        rows = self.rows(records)
        if not rows:
            return None
        labels = [words.METRIC_WORDS[metric] for metric in words.SHOWN_METRICS]
        radio = alt.binding_radio(options=list(words.SHOWN_METRICS), labels=labels, name="Show: ")
        height = self.height or min(400, max(110, 34 * (1 + max(row["layer"] for row in rows))))
        chart = panels(self.layers(rows), rows, height=height).transform_calculate(
            value=f"datum[{SHOWN}]", low=f"datum[{SHOWN} + '_lo']", high=f"datum[{SHOWN} + '_hi']"
        )
        chart = chart.add_params(alt.param(SHOWN, value=words.SHOWN_METRICS[0], bind=radio))
        return Figure(
            self.name,
            self.title,
            f"{self.read} The switch shows the same patches by another metric.",
            f"{self.said} Largest drop: {_strongest(rows, self.place)}.",
            finish(chart, rows, axes=58),
        )


def _strongest(rows: Rows, place: str) -> str:
    """The largest drop of each panel."""
    largest = [(panel, by_change(own)[0]) for (panel,), own in grouped(rows, "panel").items()]
    return "; ".join(
        f"{panel}: {row[place]} {number(row[circuits.LOGIT_DIFFERENCE])}"
        for panel, row in largest
        if row[circuits.LOGIT_DIFFERENCE] is not None
    )


def change_tips(*place: tuple[str, str, str]) -> list[alt.Tooltip]:
    """What a mark says: where it is, then every metric."""
    metrics = [(metric, words.METRIC_WORDS[metric], "+.3f") for metric in words.SHOWN_METRICS]
    return tips(*place, *metrics, ("low", "shown, from", "+.3f"), ("high", "to", "+.3f"))


def whiskers(*encodings: Any) -> alt.Chart:
    """The intervals of bars or points, in the place that the encodings give."""
    rule = alt.Chart().mark_rule(strokeWidth=1.4, color=theme.INK[0], tooltip=False)
    return rule.encode(*encodings, alt.Y("low:Q"), alt.Y2("high:Q"))


def _cell_layers(rows: Rows) -> list[alt.Chart]:
    """Coloured cells, outlines of the parts and, where they fit, the numbers.

    KL grows where the others fall: its colours are turned round, so that red is a loss in all.
    """
    band = alt.Scale(paddingInner=0.06, paddingOuter=0.03)
    upward = alt.Axis(grid=False, ticks=False, labelOverlap=True)
    x = alt.X("head:O", title="head", scale=band, axis=UPRIGHT)
    y = alt.Y("layer:O", title="block", sort="descending", scale=band, axis=upward)
    peak, turned = _peak(rows), f"({SHOWN} == '{circuits.KL}' ? -1 : 1)"
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
        for metric in words.SHOWN_METRICS
    }
    return f"{{{', '.join(f'{metric}: {value}' for metric, value in peaks.items())}}}[{SHOWN}]"


def _numbers(x: alt.X, y: alt.Y, peak: str) -> alt.Chart:
    strong, weak = (alt.value(ink[0]) for ink in (theme.CELL_INK_STRONG, theme.CELL_INK))
    ink = alt.condition(f"abs(datum.value) > 0.55 * {peak}", strong, weak)
    label = "abs(datum.value) < 0.005 ? '0' : format(datum.value, '+.2f')"
    text = alt.Chart().transform_calculate(label=label).mark_text(fontSize=10.5, tooltip=False)
    return text.encode(x, y, text=alt.Text("label:N"), color=ink)


def _corruptions(rows: Rows) -> tuple[list[str], alt.Color]:
    """The prompts that the rows have, and a colour for each."""
    colours = {
        words.CORRUPTION_WORDS[circuits.REPLACE_B]: theme.ROLE_COLOURS[circuits.COPIER][0],
        words.CORRUPTION_WORDS[circuits.REPLACE_A]: theme.ROLE_COLOURS[circuits.CARRIER][0],
        words.CORRUPTION_WORDS[circuits.UNREPEATED_REPLACE_AB]: theme.comparison_colour(MAIN.name),
    }
    there = {row["corruption"] for row in rows}
    names = [*(name for name in colours if name in there), *sorted(there - colours.keys())]
    hues = [colours.get(name, SPARE_COLOURS[0][0]) for name in names]
    scale, legend = alt.Scale(domain=names, range=hues), alt.Legend(title=None, columns=3)
    return names, alt.Color("corruption:N", scale=scale, sort=names, legend=legend)


def _block_layers(rows: Rows) -> list[alt.Chart]:
    bars = alt.Chart().mark_bar(color=theme.comparison_colour(MAIN.name))
    bars = bars.encode(BLOCK, CHANGE, tooltip=change_tips(("sender", "patched", "")))
    return [ZERO, bars, whiskers(BLOCK)]


def _convolution_layers(rows: Rows) -> list[alt.Chart]:
    axis = alt.Axis(labelAngle=0, grid=False, ticks=False)
    order, (prompts, colour) = (
        words.in_sequence(row["position"] for row in rows),
        _corruptions(rows),
    )
    x = alt.X("position:N", title="position that the tap reads", sort=order, axis=axis)
    beside = alt.XOffset("corruption:N", sort=prompts)
    tip = change_tips(("position", "reads", ""), ("corruption", "prompt", ""))
    bars = alt.Chart().mark_bar().encode(x, CHANGE, colour, beside, tooltip=tip)
    return [ZERO, bars, whiskers(x, beside)]


def _position_layers(rows: Rows) -> list[alt.Chart]:
    after = "datum.value == 0 ? 'A or B' : format(datum.value, '+d')"
    ticks = alt.Axis(tickMinStep=1, labelExpr=after, grid=False, labelFlush=False)
    x = alt.X("offset:Q", title="position of the patch, from A or B", axis=ticks)
    where = ("position", "position", ""), ("read", "patched", ""), ("corruption", "prompt", "")
    marks: Any = alt.Chart().encode(x, CHANGE, _corruptions(rows)[1])
    lines = marks.mark_line(strokeWidth=2.2, tooltip=False)
    points = marks.mark_point(size=55, opacity=1).encode(tooltip=change_tips(*where))
    return [ZERO, lines, whiskers(x), points]


PATCHED = (
    Experiment(
        "heads",
        "Which heads write the answer?",
        lambda records: head_cells(records, circuits.HEAD_TO_LOGITS),
        _cell_layers,
        "Each cell is one head at the last position, patched alone with all other heads held; red "
        "is a loss. Outlined are the heads that play a part.",
        said="Heatmaps, block by head, of the change of the logit difference.",
        height=0,
    ),
    Experiment(
        "key-head",
        "Which heads does the key head listen to?",
        lambda records: head_cells(records, circuits.HEAD_TO_KEY_HEAD),
        _cell_layers,
        "Each cell is one head at B\u2019s position, patched only in what the key head reads of "
        "it: with another A its key, with another prompt all of it.",
        said="Heatmaps, block by head, of the change of the logit difference.",
        height=0,
    ),
    Experiment(
        "blocks",
        "Which blocks of the Mamba carry the answer?",
        block_bars,
        _block_layers,
        "Each bar is one block, patched alone with all others held: the state it carries to the "
        "last position, with another B, and its scan\u2019s output there, with nothing repeated.",
    ),
    Experiment(
        "convolution",
        "What does the convolution bring into the write?",
        convolution_bars,
        _convolution_layers,
        "The convolution of a key block mixes a few positions before the block writes to its "
        "state; each bar corrupts what one tap reads, the last all of them. A bar at A in the "
        "write at B is the previous-token carrier.",
        place="position",
    ),
    Experiment(
        "upstream",
        "Does an earlier block bring A to the key block?",
        upstream_bars,
        _block_layers,
        "Each bar is the scan\u2019s output of one earlier block before the end, with another A, "
        "as the key block\u2019s state carries it on. Where all are small, the key block\u2019s "
        "own convolution brings A.",
    ),
    Experiment(
        "positions",
        "At which position does it stand?",
        position_curves,
        _position_layers,
        "What the state receives, or the key head reads, is corrupted at one position at a time: "
        "around B with another B (for a head its value), around A with another A (for a head its "
        "key). A drop at A+1 is a match that uses B\u2019s position.",
        said="Lines of the change of the logit difference by position.",
        place="position",
        height=190,
    ),
)
"""In the order of the page."""
