"""What `matching.py` measured, as a page of Markdown and a figure."""

from __future__ import annotations

import math
import platform
import textwrap
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import altair as alt
import numba
import numpy as np
import scipy
import torch
from measuring import machine

from homolog.charts import theme
from homolog.report.export import svg_of

OURS, RELEASED = "ours", "released code: dense, bfloat16"
LAYERS = 12, 24  # of Pythia-160m and Mamba-130m
FIGURE = "matching-scaling"
WIDTH, HEIGHT, GAP = 350, 220, 40
AXES = {
    "tokens": "tokens",
    "features": "features of each side",
    "active": "active features a token",
}


@dataclass(frozen=True)
class Size:
    tokens: int
    features: int
    active: float


@dataclass
class Row:
    """A method at a size.

    Seconds and bytes of ours include preparing both sides, which alone takes `preparing`.
    """

    size: Size
    method: str
    seconds: float
    peak: float
    error: float
    preparing: float = 0.0
    extrapolated: bool = False


@dataclass(frozen=True)
class Point:
    """Ours at a size, in seconds.

    Of a pair by threads, of its sparse products alone (all threads), of preparing a layer.  `work`
    counts the products of an entry of A with one of B on the same token.
    """

    axis: str
    size: Size
    seconds: dict[int, float]
    products: float
    preparing: float
    work: float


@dataclass
class Results:
    load: float  # average of the machine before the first measurement
    threads: int
    rows: list[Row]
    points: list[Point]
    bounds: dict[int, dict[str, float]]

    @property
    def largest(self) -> Point:
        return [point for point in self.points if point.axis == "tokens"][-1]

    def along(self, axis: str) -> list[Point]:
        return [point for point in self.points if point.axis == axis]


@dataclass(frozen=True)
class Line:
    """A line of the figure; `computed` are the places on it that were not measured."""

    name: str
    colour: str
    points: Sequence[tuple[float, float]]
    label_above: bool
    computed: Sequence[float] = ()


def exponent(x: Sequence[float], y: Sequence[float]) -> float:
    """p of y ~ x^p, least squares of the logarithms."""
    return float(np.polyfit(np.log(x), np.log(y), 1)[0])


def fixed_and_slope(points: Sequence[Point], threads: int) -> tuple[float, float]:
    """(seconds that do not depend on tokens, seconds a token), least squares of relative errors."""
    tokens, seconds = (
        np.array(v)
        for v in zip(*((p.size.tokens, p.seconds[threads]) for p in points), strict=True)
    )
    slope, fixed = np.polyfit(tokens, seconds, 1, w=1 / seconds)
    return float(fixed), float(slope)


def markdown(results: Results) -> str:
    """The whole page."""
    versions = [
        f"{library.__name__} {library.__version__}" for library in (np, scipy, numba, torch)
    ]
    versions.insert(0, f"Python {platform.python_version()}")
    where = f"{machine()}, {_threads(results.threads)}; {', '.join(versions)}."
    where += f" Load average before the run: {results.load:.1f}."
    parts = [
        "# Matching: time, memory and accuracy",
        _paragraph("Measured by `python benchmarks/matching.py --write`, all in one run. " + where),
        *_comparison(results),
        "![Seconds of a pair of layers over tokens, features, active features and "
        f"threads](images/{FIGURE}.svg)",
        *_scaling(results),
        *_bound(results),
    ]
    return "\n\n".join(parts) + "\n"


def _comparison(results: Results) -> list[str]:
    rows = sorted(results.rows, key=lambda row: (row.size.features, row.size.tokens))
    head = ["tokens", "features", "active", "method", "time", "ratio", "memory", "ratio"]
    last = max((row for row in rows if row.method == RELEASED), key=lambda row: row.size.tokens)
    rate = 2 * last.size.features**2 * last.size.tokens / last.seconds / 1e9
    whole = [
        row.size.tokens
        for row in rows
        if row.method == RELEASED and row.size.features == rows[-1].size.features
    ]
    return [
        "## A pair of layers",
        _paragraph("""
            Best partners of every feature of both sides, all methods on the same sparse features:
            frequencies proportional to (rank+8)^-0.7, every second feature of B a noisy copy of
            one of A. Each method has a process of its own. Time and memory of ours include
            preparing both sides, which a study does once a layer, not once a pair. Memory is the
            peak of resident memory beyond the features. Ratios are theirs / ours. The error is the
            largest difference of the best r from exact sums in float64, on 64 features of A,
            frequent to rare.
        """),
        _table([*head, "largest error"], [_compared(row, rows) for row in rows]),
        _paragraph(f"""
            \\* computed: this method takes chunks of tokens, one like the other. Its time is that
            of the chunks measured at {min(whole):,} tokens, as many as there are, and of what
            follows them; its memory does not grow. All in all it runs at {rate:,.0f} GFLOP/s. The
            error beside it is measured, with those 64 features of A alone. The released code also
            encodes each chunk with both dictionaries again for every pair: not counted.
        """),
    ]


def _compared(row: Row, rows: Sequence[Row]) -> list[str]:
    base = next(other for other in rows if other.size == row.size and other.method == OURS)
    star = "\\*" if row.extrapolated else ""
    name = f"**ours** ({_seconds(row.preparing)} of it preparing)" if row is base else row.method
    ratios = [f"{row.seconds / base.seconds:,.1f}", f"{row.peak / base.peak:,.1f}"]
    if row is base:
        ratios = ["", ""]
    return [
        *_size(row.size),
        name,
        _seconds(row.seconds) + star,
        ratios[0] + star * bool(ratios[0]),
        _mebibytes(row.peak),
        ratios[1],
        f"{row.error:.0e}" if row.error else "0",
    ]


def _scaling(results: Results) -> list[str]:
    counts, largest, (n_a, n_b) = sorted(results.bounds), results.largest, LAYERS
    distinct = {point.size: point for point in results.points}
    head = ["tokens", "features", "active", *map(_threads, counts)]
    head += [*(f"G multiply-adds/s, {_threads(n)}" for n in counts), "preparing a layer"]
    rows = [
        [
            *_size(size),
            *(_seconds(point.seconds[n]) for n in counts),
            *(f"{point.work / point.seconds[n] / 1e9:.2f}" for n in counts),
            _seconds(point.preparing),
        ]
        for size, point in distinct.items()
    ]
    fitted = ["over", "range", *map(_threads, counts), f"products alone, {_threads(counts[-1])}"]
    lines = [
        f"{fixed:.2f} s and {1e6 * slope:.2f} s a million tokens with {_threads(n)}"
        for n in counts
        for fixed, slope in [fixed_and_slope(results.along("tokens"), n)]
    ]
    preparing, pairs = (n_a + n_b) * largest.preparing, n_a * n_b * largest.seconds[results.threads]
    return [
        "## How ours scales",
        _paragraph("""
            Time of a pair of prepared layers. The multiply-adds are the products of an entry of A
            with one of B on the same token.
        """),
        _table(head, rows),
        "Exponents p of time ~ x^p, least squares of the logarithms:",
        _table(fitted, [_fits(results.along(axis), axis, counts) for axis in AXES]),
        _paragraph(f"""
            At {largest.size.features:,} features and {largest.size.active:g} active a straight
            line over tokens gives {" and ".join(lines)}. What does not grow with tokens is the
            choice of the best among {largest.size.features**2 / 1e6:,.0f} million correlations.
        """),
        _paragraph(f"""
            {n_a} x {n_b} layers of {largest.size.tokens:,} tokens and {largest.size.features:,}
            features, from these numbers: {_long(preparing)} for preparing {n_a + n_b} layers and
            {_long(pairs)} for {n_a * n_b} pairs with {_threads(results.threads)}.
        """),
    ]


def _fits(points: Sequence[Point], axis: str, counts: Sequence[int]) -> list[str]:
    x = [getattr(point.size, axis) for point in points]
    series = [[p.seconds[n] for p in points] for n in counts] + [[p.products for p in points]]
    return [AXES[axis], f"{x[0]:,} to {x[-1]:,}", *(f"{exponent(x, y):.2f}" for y in series)]


def _bound(results: Results) -> list[str]:
    size, rows = results.largest.size, []
    for n, seconds in results.bounds.items():
        pair = results.largest.seconds[n]
        parts = {
            "touches: a word of each cache line of the rows of B": seconds["touches"],
            "additions: the products, all rows of B in cache": seconds["additions"],
            "products: both": seconds["products"],
            "kernel: products, r, and the best": seconds["kernel"],
            "pair: kernel and dense columns": pair,
        }
        for name, part in parts.items():
            shares = [f"{part / whole:.0%}" for whole in (seconds["products"], pair)]
            rows.append([_threads(n), name, _seconds(part), *shares])
    return [
        "## What bounds it",
        _paragraph(f"""
            For every entry of A the kernel looks up the packed row of B at that token, a few
            hundred bytes anywhere in memory, and adds to as many float64 accumulators as the row
            has entries, anywhere in {size.features * 8 / 1000:.0f} KB of the second-level cache.
            Here each part is timed alone, at {size.tokens:,} tokens, {size.features:,} features
            and {size.active:g} active. The two can overlap, so the larger of them bounds the
            products.
        """),
        _table(["", "part", "time", "of the products", "of a pair"], rows),
    ]


def _size(size: Size) -> list[str]:
    return [f"{size.tokens:,}", f"{size.features:,}", f"{size.active:g}"]


def _seconds(value: float) -> str:
    if value < 0.1:
        return f"{1e3 * value:.2g} ms"
    digits = 0 if value >= 100 else 1 if value >= 10 else 2
    return f"{value:,.{digits}f} s"


def _mebibytes(value: float) -> str:
    return "" if math.isnan(value) else f"{value / 2**20:,.0f} MiB"


def _long(value: float) -> str:
    return _seconds(value) if value < 100 else f"{value / 60:.1f} minutes"


def _threads(n: int) -> str:
    return f"{n} thread{'s' * (n > 1)}"


def _paragraph(text: str) -> str:
    return textwrap.fill(
        " ".join(text.split()), 120, break_long_words=False, break_on_hyphens=False
    )


def _table(head: list[str], rows: list[list[str]]) -> str:
    lines = [head, ["---"] * len(head), *rows]
    return "\n".join("| " + " | ".join(line) + " |" for line in lines)


def save(results: Results, docs: Path) -> None:
    """benchmarks-matching.md and its figure."""
    (docs / "benchmarks-matching.md").write_text(markdown(results), "utf-8")
    spec = _figure(results).to_dict()
    spec["config"] = theme.config()
    (docs / "images" / f"{FIGURE}.svg").write_text(svg_of(spec), "utf-8")


def _figure(results: Results) -> Any:
    """Ours and the released code over tokens; ours, by threads, along every axis."""
    charts = [_methods_chart(results), *(_axis_chart(results, axis) for axis in AXES)]
    rows = [
        alt.hconcat(*pair, spacing=GAP).resolve_scale(color="independent")
        for pair in (charts[:2], charts[2:])
    ]
    return alt.vconcat(*rows, spacing=26).resolve_scale(color="independent")


def _chart(lines: Sequence[Line], x: str, title: str) -> Any:
    """Seconds over x, both logarithmic; a line for each name; hollow points are computed."""
    values = [
        {"name": line.name, "x": x, "y": y, "computed": x in line.computed, "label": _seconds(y)}
        for line in lines
        for x, y in line.points
    ]
    across, up = sorted({value["x"] for value in values}), [value["y"] for value in values]
    colours = alt.Scale(domain=[line.name for line in lines], range=[line.colour for line in lines])
    base = alt.Chart(alt.Data(values=values)).encode(
        alt.X(
            "x:Q",
            title=x,
            scale=alt.Scale(type="log", nice=False, domain=[across[0] / 1.3, across[-1] * 1.3]),
            axis=alt.Axis(format=",", values=across, grid=False),
        ),
        alt.Y(
            "y:Q",
            title="seconds of a pair",
            scale=alt.Scale(type="log", nice=False, domain=[min(up) / 1.7, max(up) * 1.7]),
            axis=alt.Axis(format="~g", tickCount=4),
        ),
        alt.Color("name:N", scale=colours, legend=alt.Legend(title=None, labelLimit=400)),
    )
    layers = [base.mark_line(strokeWidth=2.2)]
    layers.append(base.mark_point(size=60, filled=True, opacity=1))
    hole = base.mark_point(size=22, filled=True, opacity=1).encode(
        color=alt.value(theme.BACKGROUND[0])
    )
    layers.append(hole.transform_filter("datum.computed"))
    for line in lines:
        text = base.mark_text(dy=-12 if line.label_above else 14, fontSize=11).encode(
            alt.Text("label:N")
        )
        layers.append(
            text.encode(color=alt.value(theme.INK[0])).transform_filter(alt.datum.name == line.name)
        )
    heading = alt.TitleParams(
        title, anchor="start", fontSize=13.5, fontWeight=600, offset=10, color=theme.INK[0]
    )
    return alt.layer(*layers).properties(width=WIDTH, height=HEIGHT, title=heading)


def _methods_chart(results: Results) -> Any:
    features = results.largest.size.features
    lines = []
    for method, name, hue in (
        (RELEASED, "released code (hollow: computed)", "random-model"),
        (OURS, "ours, with preparing", "main"),
    ):
        rows = [
            row for row in results.rows if row.method == method and row.size.features == features
        ]
        points = [(row.size.tokens, row.seconds) for row in rows]
        computed = [row.size.tokens for row in rows if row.extrapolated]
        lines.append(Line(name, theme.comparison_colour(hue), points, method == RELEASED, computed))
    return _chart(lines, "tokens", f"{features:,} x {features:,} features")


def _axis_chart(results: Results, axis: str) -> Any:
    counts, points = sorted(results.bounds), results.along(axis)
    x = [getattr(point.size, axis) for point in points]
    lines = []
    for n, hue in zip(counts, ("model-seed", "main"), strict=False):
        seconds = [point.seconds[n] for point in points]
        name = f"{_threads(n)}, exponent {exponent(x, seconds):.2f}"
        along = list(zip(x, seconds, strict=True))
        lines.append(Line(name, theme.comparison_colour(hue), along, n == counts[0]))
    return _chart(lines, AXES[axis], f"Ours over {AXES[axis]}")
