"""What `matching.py` measured, as a page of Markdown and a figure."""

from __future__ import annotations

import json
import platform
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import altair as alt
import numba
import numpy as np
import scipy
import torch
import vl_convert as vlc
from measuring import machine

from homolog.report import theme
from homolog.report.export import stable_ids

OURS, RELEASED = "ours", "released code: dense, bfloat16"
LAYERS = 12, 24  # of Pythia-160m and Mamba-130m
FIGURE = "matching-scaling"
WIDTH, HEIGHT, GAP = 350, 220, 40
AXES = {"tokens": "tokens", "features": "features of each side", "active": "active features a token"}


@dataclass(frozen=True)
class Size:
    tokens: int
    features: int
    active: float


@dataclass
class Row:
    """A method at a size.  Seconds and bytes of ours include preparing both sides, which alone takes `preparing`."""

    size: Size
    method: str
    seconds: float
    peak: float
    error: float
    preparing: float = 0.0
    extrapolated: bool = False


@dataclass(frozen=True)
class Point:
    """Ours at a size: seconds of a pair, and of its sparse products alone, by threads; of preparing a layer.

    `work` counts the products of an entry of A with one of B on the same token.
    """

    axis: str
    size: Size
    seconds: dict[int, float]
    products: dict[int, float]
    preparing: float
    work: float


@dataclass
class Results:
    threads: int
    rows: list[Row]
    points: list[Point]
    bounds: dict[int, dict[str, float]]

    @property
    def largest(self) -> Point:
        return [point for point in self.points if point.axis == "tokens"][-1]

    def along(self, axis: str) -> list[Point]:
        return [point for point in self.points if point.axis == axis]


def exponent(x: Sequence[float], y: Sequence[float]) -> float:
    """p of y ~ x^p, least squares of the logarithms."""
    return float(np.polyfit(np.log(x), np.log(y), 1)[0])


def fixed_and_slope(points: Sequence[Point], threads: int) -> tuple[float, float]:
    """(seconds that do not depend on tokens, seconds a token), least squares of relative errors."""
    tokens, seconds = (np.array(v) for v in zip(*((p.size.tokens, p.seconds[threads]) for p in points), strict=True))
    slope, fixed = np.polyfit(tokens, seconds, 1, w=1 / seconds)
    return float(fixed), float(slope)


def markdown(results: Results) -> str:
    """The whole page."""
    versions = (
        f"numpy {np.__version__}, scipy {scipy.__version__}, numba {numba.__version__}, torch {torch.__version__}"
    )
    return f"""# Matching: time, memory and accuracy

Measured by `python benchmarks/matching.py --write`, all in one run.

{machine()}, {_threads(results.threads)}; Python {platform.python_version()}, {versions}.

{_comparison(results)}
![Seconds of a pair of layers over tokens, features, active features and threads](images/{FIGURE}.svg)

{_scaling(results)}
{_bound(results)}"""


def _comparison(results: Results) -> str:
    rows = sorted(results.rows, key=lambda row: (row.size.features, row.size.tokens))
    head = ["tokens", "features", "active", "method", "time", "ratio", "memory", "ratio", "largest error"]
    whole = min(
        row.size.tokens for row in rows if row.method == RELEASED and row.size.features == rows[-1].size.features
    )
    return f"""## A pair of layers

Best partners of every feature of both sides, all methods on the same sparse features: frequencies proportional to
(rank + 8)^-0.7, every second feature of B a noisy copy of one of A. Each method has a process of its own. Time and memory
of ours include preparing both sides, which a study does once a layer, not once a pair. Memory is the peak of resident
memory beyond the features. Ratios are theirs / ours. The error is the largest difference of the best r from exact sums in
float64, on 64 features of A, frequent to rare.

{_table(head, [_compared(row, rows) for row in rows])}

\\* computed: this method takes chunks of tokens one like the other. Its time is that of the chunks measured at
{whole:,} tokens, as many as there are, and of what follows them; its memory does not grow. The error beside it is measured,
with those 64 features of A alone. The released code also encodes each chunk with both dictionaries again for every pair:
not counted.
"""


def _compared(row: Row, rows: Sequence[Row]) -> list[str]:
    base = next(other for other in rows if other.size == row.size and other.method == OURS)
    star = "\\*" if row.extrapolated else ""
    name = f"**ours** ({_seconds(row.preparing)} of it preparing)" if row is base else row.method
    ratios = ["", ""] if row is base else [f"{row.seconds / base.seconds:,.1f}", f"{row.peak / base.peak:,.1f}"]
    return [
        *_size(row.size), name,
        _seconds(row.seconds) + star, ratios[0] + star * bool(ratios[0]),
        f"{row.peak / 2**20:,.0f} MiB", ratios[1], f"{row.error:.0e}",
    ]  # fmt: skip


def _scaling(results: Results) -> str:
    counts, largest, (n_a, n_b) = sorted(results.bounds), results.largest, LAYERS
    distinct = {point.size: point for point in results.points}
    head = ["tokens", "features", "active", *map(_threads, counts)]
    head += [*(f"G multiply-adds/s, {_threads(n)}" for n in counts), "preparing a layer"]
    rows = [
        [*_size(size), *(_seconds(point.seconds[n]) for n in counts),
         *(f"{point.work / point.seconds[n] / 1e9:.2f}" for n in counts), _seconds(point.preparing)]
        for size, point in distinct.items()
    ]  # fmt: skip
    fitted = ["over", "range", *map(_threads, counts), *(f"products alone, {_threads(n)}" for n in counts)]
    fits = [_fits(results.along(axis), axis, counts) for axis in AXES]
    lines = [
        f"{fixed:.2f} s and {1e6 * slope:.2f} s a million tokens with {_threads(n)}"
        for n in counts
        for fixed, slope in [fixed_and_slope(results.along("tokens"), n)]
    ]
    preparing, pairs = (n_a + n_b) * largest.preparing, n_a * n_b * largest.seconds[results.threads]
    return f"""## How ours scales

Seconds of a pair of prepared layers. The multiply-adds are the products of an entry of A with one of B on the same token.

{_table(head, rows)}

Exponents p of time ~ x^p, least squares of the logarithms:

{_table(fitted, fits)}

At {largest.size.features:,} features and {largest.size.active:g} active a straight line over tokens gives
{", ".join(lines)}. What does not grow with tokens is the choice of the best among
{largest.size.features**2 / 1e6:,.0f} million correlations.

{n_a} x {n_b} layers of {largest.size.tokens:,} tokens and {largest.size.features:,} features: preparing {n_a + n_b} layers
{preparing:,.0f} s, {n_a * n_b} pairs {pairs / 60:,.1f} min with {_threads(results.threads)}.
"""


def _fits(points: Sequence[Point], axis: str, counts: Sequence[int]) -> list[str]:
    x = [getattr(point.size, axis) for point in points]
    series = [[p.seconds[n] for p in points] for n in counts] + [[p.products[n] for p in points] for n in counts]
    return [AXES[axis], f"{x[0]:,} to {x[-1]:,}", *(f"{exponent(x, y):.2f}" for y in series)]


def _bound(results: Results) -> str:
    size = results.largest.size
    rows = []
    for n, seconds in results.bounds.items():
        pair = results.largest.seconds[n]
        parts = {
            "read a word of every cache line of the looked-up rows": seconds["touches"],
            "the additions, all rows in cache": seconds["additions"],
            "products: both": seconds["products"],
            "kernel: products, r, and the best": seconds["kernel"],
            "pair: kernel, and the dense columns": pair,
        }
        for name, part in parts.items():
            rows.append([_threads(n), name, _seconds(part), f"{part / seconds['products']:.0%}", f"{part / pair:.0%}"])
    return f"""## What bounds it

For every entry of A the kernel looks up the packed row of B at that token, about 300 bytes anywhere in memory, and adds to
as many float64 accumulators, anywhere in {size.features * 8 / 1000:.0f} KB of the second-level cache. Each is timed alone, at
{size.tokens:,} tokens, {size.features:,} features and {size.active:g} active; they can overlap, so that the larger of both
bounds the products.

{_table(["", "part", "time", "of the products", "of a pair"], rows)}
"""


def _size(size: Size) -> list[str]:
    return [f"{size.tokens:,}", f"{size.features:,}", f"{size.active:g}"]


def _seconds(value: float) -> str:
    return f"{value:,.0f} s" if value >= 100 else f"{value:.1f} s" if value >= 10 else f"{value:.2f} s"


def _threads(n: int) -> str:
    return f"{n} thread{'s' * (n > 1)}"


def _table(head: list[str], rows: list[list[str]]) -> str:
    lines = [head, ["---"] * len(head), *rows]
    return "\n".join("| " + " | ".join(line) + " |" for line in lines)


def save(results: Results, docs: Path) -> None:
    """benchmarks-matching.md and its figure."""
    (docs / "benchmarks-matching.md").write_text(markdown(results), "utf-8")
    spec = _figure(results).to_dict()
    spec["config"] = theme.config()
    (docs / "images" / f"{FIGURE}.svg").write_text(stable_ids(vlc.vegalite_to_svg(json.dumps(spec))), "utf-8")


def _figure(results: Results) -> alt.TopLevelMixin:
    """Ours and the released code over tokens; ours over tokens, features and active features, by threads."""
    first, *others = (_axis_chart(results, axis) for axis in AXES)
    grid = alt.vconcat(
        alt.hconcat(_methods_chart(results), first, spacing=GAP), alt.hconcat(*others, spacing=GAP), spacing=28
    )
    return grid.resolve_scale(color="independent", y="independent", x="independent")


def _chart(
    values: list[dict[str, Any]], x: str, title: str, names: Sequence[str], colours: Sequence[str]
) -> alt.LayerChart:
    """Seconds over x, both logarithmic, a line a name; hollow points are computed."""
    axis = alt.Axis(format="~s", values=sorted({value["x"] for value in values}), grid=False)
    base = alt.Chart(alt.Data(values=values)).encode(
        alt.X("x:Q", title=x, scale=alt.Scale(type="log", padding=14), axis=axis),
        alt.Y(
            "y:Q",
            title="seconds of a pair",
            scale=alt.Scale(type="log", nice=True),
            axis=alt.Axis(format="~g", tickCount=5),
        ),
        alt.Color("name:N", scale=alt.Scale(domain=list(names), range=list(colours)), legend=alt.Legend(title=None)),
    )
    points = base.mark_point(size=52, strokeWidth=2, opacity=1).encode(
        fill=alt.condition("datum.computed", alt.value(theme.BACKGROUND[0]), alt.Color("name:N", legend=None))
    )
    text = base.mark_text(dy=-11, fontSize=11, color=theme.INK[0]).encode(
        alt.Text("label:N"), color=alt.value(theme.INK[0])
    )
    heading = alt.TitleParams(title, anchor="start", fontSize=13.5, fontWeight=600, offset=10)
    return alt.layer(base.mark_line(strokeWidth=2.2), points, text).properties(
        width=WIDTH, height=HEIGHT, title=heading
    )


def _methods_chart(results: Results) -> alt.LayerChart:
    features = results.largest.size.features
    names = {RELEASED: "released code: dense, bfloat16 (hollow: computed)", OURS: "ours, preparing included"}
    values = [
        {"x": row.size.tokens, "y": row.seconds, "name": names[row.method], "computed": row.extrapolated,
         "label": _seconds(row.seconds)}
        for row in results.rows
        if row.size.features == features and row.method in names
    ]  # fmt: skip
    colours = [theme.comparison_colour(name) for name in ("random-model", "main")]
    return _chart(values, "tokens", f"{features:,} x {features:,} features", list(names.values()), colours)


def _axis_chart(results: Results, axis: str) -> alt.LayerChart:
    counts = sorted(results.bounds)
    values = [
        {"x": getattr(point.size, axis), "y": point.seconds[n], "name": _threads(n), "computed": False,
         "label": _seconds(point.seconds[n]).removesuffix(" s")}
        for point in results.along(axis)
        for n in counts
    ]  # fmt: skip
    colours = [theme.comparison_colour(name) for name in ("model-seed", "main")][: len(counts)]
    return _chart(values, AXES[axis], f"Ours over {AXES[axis]}", [_threads(n) for n in counts], colours)
