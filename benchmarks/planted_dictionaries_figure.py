"""The figure of `planted_dictionaries.py`, and its tables."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import altair as alt
import polars as pl

from homolog.charts import theme
from homolog.report.export import svg_of

KINDS = {
    "relu": ("ReLU + L1", "main"),
    "gated": ("Gated", "sae-seed"),
    "topk": ("TopK", "random-model"),
    "batchtopk": ("BatchTopK", "model-seed"),
    "jumprelu": ("JumpReLU", "rotated"),
}
SHARES = ("nothing shared", "as planted", "most shared")
PARTS = {
    "dictionary_part": "Dictionary\N{RIGHT SINGLE QUOTATION MARK}s part: true minus planted",
    "matching_part": "Matching\N{RIGHT SINGLE QUOTATION MARK}s part: called minus true",
}


SETTING = ("kind", "sparsity", "d_sae")
SHARES_OF = ("learnt", "follow", "planted", "true", "called", "dictionary_part", "matching_part")
ERRORS = ("false_private", "related", "loose", "missed")
TABLES = {
    "Long training": ("l0", *SHARES_OF, *ERRORS),
    "Short training": ("l0", *SHARES_OF, *ERRORS),
    "Other worlds": (*SHARES_OF, *ERRORS),
    "Features that come back": ("again", "follow", "follow_again", "true_again", "called_again"),
    "Leaks": ("leak_r", "leak_high", "related_r", "related_high"),
}
"""Columns of each table."""


def tables(rows: pl.DataFrame) -> str:
    """Markdown, means of both directions."""
    learnt = pl.col("latents_learnt") + pl.col("latents_split")
    rows = rows.with_columns(learnt=learnt)
    long, plain = rows["tokens"] == rows["tokens"].max(), rows["world"] == "as planted"
    of_table = {
        "Long training": rows.filter(long & plain),
        "Short training": rows.filter(~long & plain),
        "Other worlds": rows.filter(~plain),
        "Features that come back": rows.filter(pl.col("seeds")),
        "Leaks": rows.filter(long & plain),
    }
    made = {name: of_table[name] for name in TABLES if not of_table[name].is_empty()}
    return "\n\n".join(_table(name, part) for name, part in made.items())


def _table(name: str, rows: pl.DataFrame) -> str:
    keys = ["world", *SETTING] if name == "Other worlds" else list(SETTING)
    means = rows.group_by(keys, maintain_order=True).agg(pl.col(TABLES[name]).fill_nan(None).mean())
    lines = [f"**{name}**", "", "| " + " | ".join(means.columns) + " |"]
    lines.append("|---" * len(means.columns) + "|")
    for row in means.iter_rows():
        shown = [f"{v:.3f}" if isinstance(v, float) else str("" if v is None else v) for v in row]
        lines.append("| " + " | ".join(shown) + " |")
    return "\n".join(lines)


def save(rows: pl.DataFrame, path: Path) -> None:
    """Shares called over those planted, and whose the errors are."""
    rows = rows.with_columns(
        name=pl.col("kind").replace_strict({k: v[0] for k, v in KINDS.items()})
    )
    chart = alt.hconcat(_shares(rows), *(_part(rows, part) for part in PARTS), spacing=36)
    spec = chart.to_dict()
    spec["config"] = theme.config()
    path.write_text(svg_of(spec), "utf-8")


def _scale() -> alt.Scale:
    names, hues = zip(*KINDS.values(), strict=True)
    return alt.Scale(domain=list(names), range=[theme.comparison_colour(hue) for hue in hues])


def _title(text: str) -> alt.TitleParams:
    return alt.TitleParams(text, anchor="start", fontSize=13.5, fontWeight=600, offset=12)


def _rule(values: list[dict[str, float]]) -> alt.Chart:
    dashes = {"color": theme.MUTED[0], "strokeDash": [4, 4], "strokeWidth": 1}
    return alt.Chart(alt.Data(values=values)).mark_line(**dashes)


def _shares(rows: pl.DataFrame) -> Any:
    """At one setting, worlds in which more and more is shared; means of both directions."""
    rows = rows.filter(
        pl.col("world").is_in(SHARES), sparsity="sparse", tokens=rows["tokens"].max()
    )
    rows = rows.filter(d_sae=rows["d_sae"].min())
    means = rows.group_by("world", "name", maintain_order=True).agg(pl.mean("planted", "called"))
    x = alt.X("planted:Q", title="latents planted in both", axis=alt.Axis(format="%", tickCount=4))
    y = alt.Y("called:Q", title="features called", axis=alt.Axis(format="%", tickCount=4))
    legend = alt.Legend(title=None, orient="bottom", columns=3)
    colour = alt.Color("name:N", scale=_scale(), legend=legend)
    base = alt.Chart(alt.Data(values=means.to_dicts())).encode(x, y, colour)
    diagonal = _rule([{"planted": v, "called": v} for v in (0, 0.7)]).encode(x, y)
    lines = base.mark_line(strokeWidth=2.2, point={"size": 46})
    layers = alt.layer(diagonal, lines)
    return layers.properties(width=260, height=260, title=_title("Share called and planted"))


def _part(rows: pl.DataFrame, part: str) -> Any:
    """One part of the error of every setting, over the share of features that follow a latent.

    Of the world as planted; long trainings are filled.
    """
    x = alt.X(
        "follow:Q",
        title="features that follow one latent",
        axis=alt.Axis(format="%", tickCount=5),
        scale=alt.Scale(domain=[0, 1]),
    )
    y = alt.Y(
        f"{part}:Q",
        title="error of the share",
        axis=alt.Axis(format="+%", tickCount=5),
        scale=alt.Scale(domain=[-0.45, 0.3]),
    )
    shape = alt.Shape(
        "d_sae:N",
        scale=alt.Scale(range=["circle", "triangle-up"]),
        legend=alt.Legend(title=["features of", "the dictionary"], orient="right"),
    )
    scale = _scale()
    long = alt.condition(f"datum.tokens == {rows['tokens'].max()}", alt.value(0.8), alt.value(0))
    values = rows.filter(world="as planted").select("follow", part, "d_sae", "tokens", "name")
    values = values.fill_nan(None).to_dicts()
    points = alt.Chart(alt.Data(values=values)).mark_point(size=44, strokeWidth=1.5)
    drawn = points.encode(
        x,
        y,
        shape,
        alt.Fill("name:N", scale=scale, legend=None),
        alt.Stroke("name:N", scale=scale, legend=None),
        fillOpacity=long,
    )
    zero = _rule([{"follow": v, part: 0} for v in (0, 1)]).encode(x, y)
    return alt.layer(zero, drawn).properties(width=260, height=260, title=_title(PARTS[part]))
