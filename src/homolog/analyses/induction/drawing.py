"""The circuit of each model as a drawing: parts at their block and position, edges for what moves.

    columns   the earlier A, B after it, the end of the prompt
    rows      the input tokens, then every block that has a part, from the bottom up, evenly spread,
              then the answer
    edges     A's token -> carrier -> matcher (or the copier that reads what was carried)
              the token at the end -> matcher
              B's token -> copier -> answer

Blocks without a part take no room, so that a drawing is as readable for 48 blocks as for 4.  Every
part of the end's column has a lane of its own: no edge passes through a part that is not its end.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import altair as alt

from homolog.analyses.induction.records import CircuitRecords
from homolog.analyses.induction.summary import SIDE_BY_SIDE, part_of
from homolog.analyses.induction.words import component_words, place_of, short_label
from homolog.analyses.records import Row
from homolog.charts import theme
from homolog.charts.figure import Figure, Rows, finish, panels, tips
from homolog.charts.words import is_number
from homolog.record.circuits import CARRIER, COPIER, MATCHER, ROLE_ORDER
from homolog.record.names import listed

DRAWN = 6  # parts of a role
COLUMNS = {"A": 0.0, "B": 1.05, "end": 2.5}
WIDTHS = {"B": 0.8, "end": 1.5}  # of the columns' lanes
LEFT, RIGHT = -0.62, 3.3
ROW_HEIGHT = 62
SMALL: tuple[int, dict[str, int]] = (44, {"width": 215, "columns": 3})
"""Height of a row, and the shape of the drawings, where there are many models."""
STEPS = 14  # of a curve
TIGHT = 0.34  # between two labels
SHORTEST = 0.02  # share of the thinnest edge

Point = tuple[float, float]
Edge = tuple[Row, Point, Point]
"""The part whose patch it is, from and to, in units of the drawing."""


@dataclass(frozen=True)
class Node:
    """A part where it is drawn."""

    part: Row
    x: float
    y: float

    @property
    def at(self) -> Point:
        """Its point."""
        return self.x, self.y

    @property
    def place(self) -> tuple[int, ...]:
        """Its block, and its head."""
        return place_of(self.part["component"])

    @property
    def label(self) -> str:
        """What stands over it."""
        return short_label(self.part["component"])


def circuit_figure(records: CircuitRecords) -> Figure | None:
    """The circuits of all models that have one, side by side."""
    models = [model for model in records.able if _drawn(records, model)]
    if not models:
        return None
    top = 1 + max(len(_blocks(_drawn(records, model))) for model in models)
    rows = [row for model in models for row in drawing(records, model, top)]
    row_height, shape = (ROW_HEIGHT, {}) if len(models) <= SIDE_BY_SIDE else SMALL
    chart = panels(_layers(top), rows, height=row_height * (top + 1) + 20, **shape)
    left = any(len(records.parts(model, role)) > DRAWN for model in models for role in ROLE_ORDER)
    return Figure(
        "circuits",
        "The circuits, side by side" if len(models) > 1 else "The circuit",
        "Information moves up and to the right, from the tokens below to the answer above; only "
        "blocks with a part are drawn. The wider an edge, the more of the loss of the whole "
        "corruption the patch of its part alone causes."
        + (f" At most {DRAWN} parts of a role are drawn, the strongest." if left else ""),
        f"Drawings of the circuits. {'; '.join(_said(records, model) for model in models)}.",
        finish(chart, rows, axes=0),
    )


def _said(records: CircuitRecords, model: str) -> str:
    """The parts of a model, role by role."""
    parts = {
        role: [component_words(part["component"]) for part in records.parts(model, role)]
        for role in ROLE_ORDER
    }
    return f"{model}: {', '.join(f'{r} {listed(names)}' for r, names in parts.items() if names)}"


def _drawn(records: CircuitRecords, model: str) -> list[Row]:
    return [part for role in ROLE_ORDER for part in records.parts(model, role)[:DRAWN]]


def _blocks(parts: list[Row]) -> list[int]:
    return sorted({place_of(part["component"])[0] for part in parts})


def drawing(records: CircuitRecords, model: str, top: float) -> Rows:
    """The rows of one model's drawing; the answer is at `top`.

    Of the kinds block, token, edge, tip, same (two parts in one head), label and node.
    """
    parts = _drawn(records, model)
    blocks = _blocks(parts)
    heights = {block: round(top * (i + 1) / (len(blocks) + 1), 4) for i, block in enumerate(blocks)}
    nodes = _nodes(parts, heights)
    tokens = (
        (COLUMNS["A"], 0, "A", "earlier"),
        (COLUMNS["B"], 0, "B", "after it"),
        (COLUMNS["end"], 0, "A", "the end"),
        (COLUMNS["end"], top, "B", "the answer"),
    )
    edges = enumerate(_edges(records, nodes, top))
    rows: Rows = [
        *(
            {"kind": "block", "x": LEFT, "x2": RIGHT, "y": y, "label": f"block {block}"}
            for block, y in heights.items()
        ),
        *(
            {"kind": "token", "x": x, "y": y, "label": label, "under": under}
            for x, y, label, under in tokens
        ),
        *(row for i, edge in edges for row in _curve(f"e{i}", edge)),
        *({"kind": "same", "x": a.x, "x2": b.x, "y": a.y} for a, b in _pairs(nodes)),
        *_labels(nodes),
        *(_node_row(records, node) for node in nodes),
    ]
    return [{"panel": model, **row} for row in rows]


def _node_row(records: CircuitRecords, node: Node) -> dict[str, Any]:
    part = part_of(records, node.part)
    return {
        "kind": "node",
        "x": node.x,
        "y": node.y,
        "role": node.part["role"],
        "component": part.name,
        "change": part.change,
        "share": part.share,
        "others": part.others,
        "evidence": part.evidence,
    }


def _pairs(nodes: list[Node]) -> list[tuple[Node, Node]]:
    """Matcher and copier that are one head, or one block's scan."""
    return [
        (a, b)
        for a in nodes
        for b in nodes
        if (a.part["role"], b.part["role"]) == (MATCHER, COPIER) and a.place == b.place
    ]


def _labels(nodes: list[Node]) -> Rows:
    """A label for each part, one for both roles of a head; every second one higher where tight."""
    labels = {node.at: node.label for node in nodes}
    for one, other in _pairs(nodes):
        if one.label == other.label:
            labels.pop(one.at, None)
            labels.pop(other.at, None)
            labels[(one.x + other.x) / 2, one.y] = one.label
    rows: Rows = []
    for (x, y), label in sorted(labels.items(), key=lambda item: item[0][::-1]):
        before = rows[-1] if rows and rows[-1]["y"] == y else None
        tight = before is not None and x - before["x"] < TIGHT and not before["lift"]
        rows.append({"kind": "label", "x": round(x, 3), "y": y, "label": label, "lift": tight})
    return rows


def _nodes(parts: list[Row], heights: dict[int, float]) -> list[Node]:
    """Lanes in both columns, by block and head: the parts that one head plays are neighbours."""
    nodes = []
    for column, roles in (("B", (CARRIER,)), ("end", (MATCHER, COPIER))):
        own = [part for part in parts if part["role"] in roles]
        own.sort(key=lambda part: (place_of(part["component"]), roles.index(part["role"])))
        step = min(WIDTHS[column] / max(len(own), 1), 0.5)
        for i, part in enumerate(own):
            x = COLUMNS[column] + (i - (len(own) - 1) / 2) * step
            nodes.append(Node(part, round(x, 3), heights[place_of(part["component"])[0]]))
    return nodes


def _edges(records: CircuitRecords, nodes: list[Node], top: float) -> list[Edge]:
    edges: list[Edge] = []
    for node in nodes:
        role = node.part["role"]
        source = COLUMNS[{CARRIER: "A", MATCHER: "end", COPIER: "B"}[role]]
        edges.append((node.part, (source, 0), node.at))
        if role == CARRIER and (reader := _reader(records, node, nodes)) is not None:
            edges.append((node.part, node.at, reader.at))
        if role == COPIER:
            edges.append((node.part, node.at, (COLUMNS["end"], top)))
    return edges


def _reader(records: CircuitRecords, carrier: Node, nodes: list[Node]) -> Node | None:
    """What reads the carrier: the matcher, else the copier, at the place its patch went into."""
    patch = records.patch(carrier.part)
    receiver = patch["receiver"] if patch else str(records.about(carrier.part["model"])["key"])
    for role in (MATCHER, COPIER):
        for node in nodes:
            if node.part["role"] == role and node.place == place_of(receiver):
                return node
    return None


def _curve(name: str, edge: Edge) -> Rows:
    """A curve that leaves and arrives upward (or straight, within a row), and its tip."""
    part, (x0, y0), (x1, y1) = edge
    level = y0 == y1
    x2, y2 = (x1 - 0.13, y1) if level else (x1, y1 - 0.2)
    width = max(SHORTEST, min(1.0, part["share"])) if is_number(part["share"]) else SHORTEST
    shared = {"role": part["role"], "share": round(width, 4)}
    rows: Rows = []
    for i in range(STEPS + 1):
        t = i / STEPS
        smooth = t if level else t * t * (3 - 2 * t)
        point = {"x": round(x0 + (x2 - x0) * smooth, 4), "y": round(y0 + (y2 - y0) * t, 4)}
        rows.append({"kind": "edge", "edge": name, **shared, **point})
    rows.append({"kind": "tip", **shared, "x": x2, "y": y2, "angle": 90 if level else 0})
    return rows


def _layers(top: int) -> list[alt.Chart]:
    """Rules of the blocks, edges with their tips, tokens, parts, labels over all."""
    x = alt.X("x:Q", axis=None, scale=alt.Scale(domain=[LEFT, RIGHT], nice=False))
    y = alt.Y("y:Q", axis=None, scale=alt.Scale(domain=[-0.55, top + 0.55], nice=False))
    to = alt.X2("x2:Q")
    roles, hues = list(ROLE_ORDER), [theme.ROLE_COLOURS[role][0] for role in ROLE_ORDER]
    disc = {"symbolType": "circle", "symbolStrokeWidth": 0, "symbolOpacity": 1}
    legend = alt.Legend(title=None, columns=3, **disc)
    scale = alt.Scale(domain=roles, range=hues)
    colour = alt.Color("role:N", scale=scale, sort=roles, legend=legend)
    muted: dict[str, Any] = {"color": theme.MUTED[0], "tooltip": False}
    rule = _of("block").mark_rule(color=theme.GRID[0], tooltip=False)
    block = _of("block").mark_text(align="left", dy=-8, fontSize=11, **muted)
    same = _of("same").mark_rule(strokeWidth=5, opacity=0.5, **muted)
    return [
        rule.encode(x, y, to),
        *_edge_layers(x, y, colour),
        block.encode(x, y, text="label:N"),
        same.encode(x, y, to),
        *_token_layers(x, y),
        *_part_layers(x, y, colour),
    ]


def _of(kind: str) -> Any:
    return alt.Chart().transform_filter(f"datum.kind == '{kind}'")


def _edge_layers(x: alt.X, y: alt.Y, colour: alt.Color) -> list[alt.Chart]:
    """Curves as wide as their share, and their tips."""
    widths, sizes = [
        alt.Scale(domain=[0, 1], range=ends, clamp=True) for ends in ([1.2, 11], [55, 190])
    ]
    width = alt.StrokeWidth("share:Q", scale=widths, legend=None)
    large = alt.Size("share:Q", scale=sizes, legend=None)
    edge = _of("edge").mark_line(opacity=0.55, strokeCap="butt", tooltip=False)
    arrow = _of("tip").mark_point(shape="triangle-up", opacity=1, tooltip=False)
    return [
        edge.encode(x, y, colour, width, alt.Detail("edge:N")),
        arrow.encode(x, y, colour, large, alt.Angle("angle:Q", scale=None)),
    ]


def _token_layers(x: alt.X, y: alt.Y) -> list[alt.Chart]:
    """Tokens in boxes, with what they are under the input and over the answer."""
    paint = {"fill": theme.NEUTRAL[0], "stroke": theme.MUTED[0], "strokeWidth": 1, "opacity": 1}
    chip = _of("token").mark_point(shape="square", size=620, tooltip=False, **paint)
    beside = [
        _of("token")
        .transform_filter(where)
        .mark_text(dy=dy, fontSize=11, color=theme.MUTED[0], tooltip=False)
        .encode(x, y, text="under:N")
        for dy, where in ((27, "datum.y == 0"), (-27, "datum.y > 0"))
    ]
    name = _of("token").mark_text(fontSize=14, fontWeight=600, tooltip=False)
    return [chip.encode(x, y), *beside, name.encode(x, y, text="label:N")]


def _part_layers(x: alt.X, y: alt.Y, colour: alt.Color) -> list[alt.Chart]:
    """Parts in the colours of their roles, and their labels with a halo."""
    tip = tips(
        ("component", "part", ""),
        ("role", "role", ""),
        ("evidence", "patched", ""),
        ("change", "logit difference", ""),
        ("others", "other metrics", ""),
        ("share", "share", ""),
    )
    disc = _of("node").mark_point(
        shape="circle", size=230, opacity=1, stroke=theme.BACKGROUND[0], strokeWidth=1.5
    )
    halo: dict[str, Any] = {"stroke": theme.BACKGROUND[0], "strokeWidth": 4, "strokeJoin": "round"}
    text: dict[str, Any] = {"baseline": "middle", "fontSize": 11.5, "fontWeight": 600}
    labels = [
        _of("label")
        .transform_filter(chosen)
        .mark_text(dy=dy, tooltip=False, **text, **more)
        .encode(x, y, text="label:N")
        for dy, chosen in ((-18, "!datum.lift"), (-31, "datum.lift"))
        for more in (halo, {"color": theme.INK[0]})
    ]
    return [disc.encode(x, y, colour, tooltip=tip), *labels]
