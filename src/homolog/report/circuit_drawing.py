"""The circuit of each model as a drawing: parts at their block and position, edges for what is
moved.

    columns   the earlier A, B after it, the end of the prompt
    rows      the input tokens, then every block that has a part, from the bottom up, evenly spread, then the answer
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

from homolog.charts import theme
from homolog.charts.figure import Figure, finish, panels, tips
from homolog.charts.words import listed, number, percent
from homolog.report.circuit_records import (
    CARRIER,
    COPIER,
    MATCHER,
    ROLES,
    CircuitRecords,
    Row,
    place_of,
)
from homolog.report.circuit_words import component_words, interval_words, short_label

Rows = list[dict[str, Any]]

DRAWN = 6  # parts of a role
COLUMNS = {"A": 0.0, "B": 1.05, "end": 2.5}
WIDTHS = {"B": 0.8, "end": 1.5}  # of the columns' lanes
LEFT, RIGHT = -0.62, 3.3
ROW_HEIGHT = 62
STEPS = 14  # of a curve
TIGHT = 0.34  # between two labels
SHORTEST = 0.02  # share of the thinnest edge


@dataclass(frozen=True)
class Node:
    part: Row
    x: float
    y: float


def circuit_figure(records: CircuitRecords) -> Figure | None:
    """The circuits of all models that have one, side by side."""
    models = [model for model in records.able if any(records.parts(model, role) for role in ROLES)]
    if not models:
        return None
    n_blocks = max(len(_blocks(_drawn(records, model))) for model in models)
    rows = [row for model in models for row in drawing(records, model, n_blocks + 1)]
    chart = panels(_layers(n_blocks + 1), rows, height=ROW_HEIGHT * (n_blocks + 2) + 20)
    said = "; ".join(
        f"{model}: "
        + ", ".join(
            f"{role} {listed([component_words(p['component']) for p in parts])}"
            for role in ROLES
            if (parts := records.parts(model, role))
        )
        for model in models
    )
    left = any(len(records.parts(model, role)) > DRAWN for model in models for role in ROLES)
    return Figure(
        "circuits",
        "The circuits, side by side" if len(models) > 1 else "The circuit",
        "Information moves up and to the right, from the tokens below to the answer above; only "
        "blocks with a part are "
        "drawn. The wider an edge, the more of the loss of the whole corruption the patch of its "
        "part alone causes."
        + (f" At most {DRAWN} parts of a role are drawn, the strongest." if left else ""),
        f"Drawings of the circuits. {said}.",
        finish(chart, rows, axes=0),
    )


def _drawn(records: CircuitRecords, model: str) -> list[Row]:
    return [part for role in ROLES for part in records.parts(model, role)[:DRAWN]]


def _blocks(parts: list[Row]) -> list[int]:
    return sorted({place_of(part["component"])[0] for part in parts})


def drawing(records: CircuitRecords, model: str, top: float) -> Rows:
    """The rows of one model's drawing (kind: block, token, edge, tip, same, label, node); the
    answer is at `top`.
    """
    parts = _drawn(records, model)
    blocks = _blocks(parts)
    heights = {block: round(top * (i + 1) / (len(blocks) + 1), 4) for i, block in enumerate(blocks)}
    nodes = _nodes(parts, heights)
    rows: Rows = [
        {"kind": "block", "x": LEFT, "x2": RIGHT, "y": y, "label": f"block {block}"}
        for block, y in heights.items()
    ]
    for x, y, label, under in (
        (COLUMNS["A"], 0, "A", "earlier"),
        (COLUMNS["B"], 0, "B", "after it"),
        (COLUMNS["end"], 0, "A", "the end"),
        (COLUMNS["end"], top, "B", "the answer"),
    ):
        rows.append({"kind": "token", "x": x, "y": y, "label": label, "under": under})
    for i, (role, share, start, end) in enumerate(_edges(records, nodes, top)):
        rows += _curve(f"e{i}", role, share, start, end)
    for one, other in _pairs(nodes):
        rows.append({"kind": "same", "x": one.x, "x2": other.x, "y": one.y})
    rows += _labels(nodes)
    for node in nodes:
        part, patch = node.part, records.patch(node.part) or {}
        rows.append(
            {
                "kind": "node",
                "x": node.x,
                "y": node.y,
                "role": part["role"],
                "component": component_words(part["component"]),
                "change": interval_words(part, "change"),
                "share": percent(part["share"]),
                "others": f"{number(patch.get('probability'), 3)}; {number(patch.get('kl'), 3)} "
                "nats",
                "evidence": part["evidence"],
            }
        )
    return [{"panel": model, **row} for row in rows]


def _place(node: Node) -> tuple[int, ...]:
    return place_of(node.part["component"])


def _pairs(nodes: list[Node]) -> list[tuple[Node, Node]]:
    """Matcher and copier that are one head, or one block's scan."""
    roles = (MATCHER, COPIER)
    return [
        (a, b)
        for a in nodes
        for b in nodes
        if (a.part["role"], b.part["role"]) == roles and _place(a) == _place(b)
    ]


def _labels(nodes: list[Node]) -> Rows:
    """A label for each part, one for both roles of a head; where it is tight, every second one
    stands higher.
    """
    found = [(node.x, node.y, short_label(node.part["component"])) for node in nodes]
    for one, other in _pairs(nodes):
        if short_label(one.part["component"]) == short_label(other.part["component"]):
            found = [item for item in found if item[:2] not in ((one.x, one.y), (other.x, other.y))]
            found.append(((one.x + other.x) / 2, one.y, short_label(one.part["component"])))
    rows: Rows = []
    for x, y, label in sorted(found, key=lambda item: (item[1], item[0])):
        before = rows[-1] if rows and rows[-1]["y"] == y else None
        tight = before is not None and x - before["x"] < TIGHT and not before["lift"]
        rows.append({"kind": "label", "x": round(x, 3), "y": y, "label": label, "lift": tight})
    return rows


def _nodes(parts: list[Row], heights: dict[int, float]) -> list[Node]:
    """Lanes in both columns, in the order of blocks and heads; the parts that one head plays stand
    side by side.
    """
    found = []
    for column, roles in (("B", (CARRIER,)), ("end", (MATCHER, COPIER))):
        own = sorted(
            (p for p in parts if p["role"] in roles),
            key=lambda p: (place_of(p["component"]), roles.index(p["role"])),
        )
        step = min(WIDTHS[column] / max(len(own), 1), 0.5)
        for i, part in enumerate(own):
            x = COLUMNS[column] + (i - (len(own) - 1) / 2) * step
            found.append(Node(part, round(x, 3), heights[place_of(part["component"])[0]]))
    return found


Edge = tuple[str, float, tuple[float, float], tuple[float, float]]


def _edges(records: CircuitRecords, nodes: list[Node], top: float) -> list[Edge]:
    """(role, share, from, to) in units of the drawing."""
    found: list[Edge] = []
    for node in nodes:
        role, share, here = node.part["role"], node.part["share"], (node.x, node.y)
        if role == CARRIER:
            found.append((role, share, (COLUMNS["A"], 0), here))
            target = _reader(records, node, nodes)
            if target is not None:
                found.append((role, share, here, (target.x, target.y)))
        elif role == MATCHER:
            found.append((role, share, (COLUMNS["end"], 0), here))
        else:
            found += [
                (role, share, (COLUMNS["B"], 0), here),
                (role, share, here, (COLUMNS["end"], top)),
            ]
    return found


def _reader(records: CircuitRecords, carrier: Node, nodes: list[Node]) -> Node | None:
    """The part that reads what the carrier brings: the matcher, else the copier, at the place its
    patch went into.
    """
    patch = records.patch(carrier.part)
    receiver = patch["receiver"] if patch else str(records.about(carrier.part["model"])["key"])
    for role in (MATCHER, COPIER):
        for node in nodes:
            if node.part["role"] == role and _place(node) == place_of(receiver):
                return node
    return None


def _curve(
    name: str, role: str, share: float, start: tuple[float, float], end: tuple[float, float]
) -> Rows:
    """Points of a curve that leaves upward and arrives upward (or straight, within a row), and its
    tip.
    """
    (x0, y0), (x1, y1) = start, end
    level = y0 == y1
    stop = (x1 - 0.13, y1) if level else (x1, y1 - 0.2)
    width = max(SHORTEST, min(1.0, share)) if share == share else SHORTEST
    shared = {"role": role, "share": round(width, 4)}
    rows: Rows = []
    for i in range(STEPS + 1):
        t = i / STEPS
        smooth = t if level else t * t * (3 - 2 * t)
        point = {
            "x": round(x0 + (stop[0] - x0) * smooth, 4),
            "y": round(y0 + (stop[1] - y0) * t, 4),
        }
        rows.append({"kind": "edge", "edge": name, **shared, **point})
    rows.append({"kind": "tip", **shared, "x": stop[0], "y": stop[1], "angle": 90 if level else 0})
    return rows


def _layers(top: int) -> list[alt.Chart]:
    """Rules of the blocks, edges with their tips, tokens, parts, labels over all."""
    x = alt.X("x:Q", axis=None, scale=alt.Scale(domain=[LEFT, RIGHT], nice=False))
    y = alt.Y("y:Q", axis=None, scale=alt.Scale(domain=[-0.55, top + 0.55], nice=False))
    colours = alt.Scale(domain=list(ROLES), range=[theme.ROLE_COLOURS[role][0] for role in ROLES])
    symbols = alt.Legend(
        title=None, symbolType="circle", symbolStrokeWidth=0, symbolOpacity=1, columns=3
    )
    colour = alt.Color("role:N", scale=colours, sort=list(ROLES), legend=symbols)
    halo: dict[str, Any] = {"stroke": theme.BACKGROUND[0], "strokeWidth": 4, "strokeJoin": "round"}
    ink: dict[str, Any] = {"color": theme.INK[0]}
    width = alt.StrokeWidth(
        "share:Q", scale=alt.Scale(domain=[0, 1], range=[1.2, 11], clamp=True), legend=None
    )

    def of(kind: str, chart: alt.Chart) -> alt.Chart:
        return chart.transform_filter(f"datum.kind == '{kind}'")

    def text(lift: bool) -> list[alt.Chart]:
        mark: dict[str, Any] = {
            "baseline": "middle",
            "tooltip": False,
            "fontSize": 11.5,
            "fontWeight": 600,
            "dy": -31 if lift else -18,
        }
        chosen = "datum.lift" if lift else "!datum.lift"
        return [
            of("label", alt.Chart().mark_text(**mark, **more))
            .transform_filter(chosen)
            .encode(x, y, text="label:N")
            for more in (halo, ink)
        ]

    tip = tips(
        ("component", "part", ""),
        ("role", "role", ""),
        ("evidence", "patched", ""),
        ("change", "logit difference", ""),
        ("others", "probability; KL", ""),
        ("share", "share", ""),
    )
    rule = alt.Chart().mark_rule(color=theme.GRID[0], tooltip=False)
    edge = alt.Chart().mark_line(opacity=0.55, strokeCap="butt", tooltip=False)
    arrow = alt.Chart().mark_point(shape="triangle-up", opacity=1, tooltip=False)
    large = alt.Size(
        "share:Q", scale=alt.Scale(domain=[0, 1], range=[55, 190], clamp=True), legend=None
    )
    same = alt.Chart().mark_rule(color=theme.MUTED[0], strokeWidth=5, opacity=0.5, tooltip=False)
    chip = alt.Chart().mark_point(
        shape="square",
        size=620,
        opacity=1,
        fill=theme.NEUTRAL[0],
        stroke=theme.MUTED[0],
        strokeWidth=1,
        tooltip=False,
    )
    disc = alt.Chart().mark_point(
        shape="circle", size=230, opacity=1, stroke=theme.BACKGROUND[0], strokeWidth=1.5
    )
    block = alt.Chart().mark_text(
        align="left", dy=-8, fontSize=11, color=theme.MUTED[0], tooltip=False
    )
    small: dict[str, Any] = {"fontSize": 11, "color": theme.MUTED[0]}
    below, above = [
        of("token", alt.Chart().mark_text(dy=dy, tooltip=False, **small))
        .transform_filter(test)
        .encode(x, y, text="under:N")
        for dy, test in ((27, "datum.y == 0"), (-27, "datum.y > 0"))
    ]
    return [
        of("block", rule).encode(x, y, alt.X2("x2:Q")),
        of("edge", edge).encode(x, y, colour, width, alt.Detail("edge:N")),
        of("tip", arrow).encode(x, y, colour, large, alt.Angle("angle:Q", scale=None)),
        of("block", block).encode(x, y, text="label:N"),
        of("same", same).encode(x, y, alt.X2("x2:Q")),
        of("token", chip).encode(x, y),
        below,
        above,
        of("token", alt.Chart().mark_text(fontSize=14, fontWeight=600, tooltip=False)).encode(
            x, y, text="label:N"
        ),
        of("node", disc).encode(x, y, colour, tooltip=tip),
        *text(lift=False),
        *text(lift=True),
    ]
