"""What the matches pass, and every comparison at a glance."""

from __future__ import annotations

import altair as alt
import polars as pl

from homolog.analyses.records import PairRecords
from homolog.charts import figure, theme
from homolog.charts.words import is_number, number, percent
from homolog.record.comparisons import MAIN, SAE_SEED, comparison_of, shown

CRITERIA = {
    "significant": ("Significant", "share_significant"),
    "homolog": ("Homolog", "share"),
    "mutual": ("Homolog, mutual", "share_mutual"),
    "one_to_one": ("Homolog, one to one", "share_one_to_one"),
    "stable": ("Homolog, stable", "share_stable"),
}
"""Titles of the tests, in the order of the figure, and their columns in `shared`."""


def criteria(records: PairRecords) -> figure.Rows:
    """Shares of the alive features that pass each of `CRITERIA`, by direction and comparison.

    Those of the main comparison are the run's own, and so is the ceiling, the homologs of the
    SAE-seed skyline; of the skylines the significant ones are counted.  A test that was not made,
    or withheld, has no row.
    """
    rows: figure.Rows = []
    for side, model, partner in records.sides:
        shared = records.shared_row(model, partner) or {}
        for name in records.comparisons("sae"):
            alive = records.matches.filter(pl.col("n_active") > 0, comparison=name, side=side)
            shares = {}
            if name == MAIN.name:
                shares = {key: shared.get(column) for key, (_, column) in CRITERIA.items()}
            elif comparison_of(name).role == "skyline":
                shares = {"significant": _significant(alive)}
            if name == SAE_SEED.name:
                shares["homolog"] = shared.get("ceiling")
            rows += [
                {
                    "panel": records.panel(side),
                    "side": side,
                    "comparison": name,
                    "name": comparison_of(name).plain,
                    "criterion": criterion,
                    "title": CRITERIA[criterion][0],
                    "share": figure.rounded(share),
                    "n": alive.height,
                }
                for criterion, share in shares.items()
                if is_number(share)
            ]
    order = list(CRITERIA)
    return sorted(rows, key=lambda row: (row["side"], order.index(row["criterion"])))


def _significant(alive: pl.DataFrame) -> float | None:
    """Share of the features whose r reaches the threshold of their frequency; None without one."""
    known = alive.filter(pl.col("threshold").is_not_nan() & pl.col("r").is_not_nan())
    reach = known.filter(pl.col("r") >= pl.col("threshold"))
    return reach.height / alive.height if known.height else None


def criteria_figure(records: PairRecords) -> figure.Figure | None:
    """How many features pass each test: the result beside its skylines."""
    rows = criteria(records)
    main = [row for row in rows if row["comparison"] == MAIN.name]
    if not main:
        return None
    names = [name for name in records.comparisons("sae") if name in figure.seen(rows)]
    titles = list(dict.fromkeys(row["title"] for row in rows))
    across = alt.Axis(ticks=False, grid=False, labelLimit=170)
    y = alt.Y("title:N", sort=titles, title=None, axis=across)
    bands = alt.Scale(domain=names, paddingInner=0.15, paddingOuter=0.3)
    offset = alt.YOffset("comparison:N", sort=names, scale=bands)
    legend = alt.Legend(title=None, columns=3, labelExpr=figure.comparison_labels(names))
    colour = alt.Color("comparison:N", scale=figure.comparison_scale(names), legend=legend)
    x = alt.X(
        "share:Q", title="share of the alive features", axis=figure.SHARE_AXIS, scale=figure.UNIT
    )
    tip = figure.tips(
        ("name", "comparison", ""),
        ("title", "test", ""),
        ("share", "share", ".1%"),
        ("n", "alive features", ","),
    )
    bars = alt.Chart().mark_bar(cornerRadiusEnd=2).encode(x, y, offset, colour, tooltip=tip)
    text = alt.Chart().mark_text(align="left", dx=4, fontSize=10.5, tooltip=False)
    values = text.encode(x, y, offset, text=alt.Text("share:Q", format=".0%"))
    said = "; ".join(f"{row['panel']}, {row['title']}: {percent(row['share'])}" for row in main)
    height = max(120, len(titles) * (16 + 15 * len(names)))
    return figure.Figure(
        "criteria",
        "What do the matches pass?",
        "Of the features that fire at all, how many pass each test, and what the skylines, other "
        "seeds of the same dictionary or model, reach in the first two. A homolog is mutual when "
        "each of the two is the best partner of the other, one to one when no feature is given to "
        "two, and stable when the partner comes back in second dictionaries of its model.",
        f"Bars of the share of features that pass each test. {said}.",
        figure.finish(figure.panels([bars, values], rows, height=height), rows, axes=150),
    )


def intervals(records: PairRecords) -> figure.Rows:
    """Mean and median of every comparison and direction, of all features, with their intervals."""
    rows: figure.Rows = []
    for name in shown(records.summary["comparison"]):
        for side, model, _ in records.sides:
            if (row := records.summary_row(name, side)) is None:
                continue
            rows += [
                {
                    "panel": f"From {model}",
                    "comparison": name,
                    "name": comparison_of(name).label,
                    "statistic": statistic,
                    "value": figure.rounded(row[statistic]),
                    "low": figure.rounded(row[f"{statistic}_lo"]),
                    "high": figure.rounded(row[f"{statistic}_hi"]),
                }
                for statistic in ("mean", "median")
            ]
    return rows


def summary_figure(records: PairRecords) -> figure.Figure | None:
    """Mean and median with their intervals: every comparison, both directions."""
    rows = intervals(records)
    if not rows:
        return None
    order = list(dict.fromkeys(row["name"] for row in rows))
    across = alt.Axis(labelExpr="split(datum.label, '|')", ticks=False, grid=True)
    y = alt.Y("name:N", sort=order, title=None, axis=across)
    statistics = ["mean", "median"]
    offset = alt.YOffset("statistic:N", scale=alt.Scale(domain=statistics, paddingOuter=0.7))
    colour = alt.Color(
        "comparison:N", scale=figure.comparison_scale(figure.seen(rows)), legend=None
    )
    grey = theme.MUTED[0]
    shapes = alt.Scale(domain=statistics, range=["circle", "diamond"])
    legend = alt.Legend(title=None, symbolFillColor=grey, symbolStrokeColor=grey)
    shape = alt.Shape("statistic:N", scale=shapes, legend=legend)
    names, numbers = ("comparison", "statistic"), ("value", "low", "high")
    tip = figure.tips(*((key, key, "") for key in names), *((key, key, ".3f") for key in numbers))
    low = min([0.0, *(row["low"] for row in rows if row["low"] is not None)])
    x = alt.X("low:Q", axis=figure.R_AXIS, scale=alt.Scale(domain=[low, 1]))
    rule = alt.Chart().mark_rule(strokeWidth=5, opacity=0.45)
    bars = rule.encode(x, alt.X2("high:Q"), y, offset, colour, tooltip=tip)
    point = alt.Chart().mark_point(size=58, opacity=1)
    points = point.encode(alt.X("value:Q"), y, offset, colour, shape, tooltip=tip)
    said = "; ".join(
        f"{row['panel']}, {comparison_of(row['comparison']).plain}: {number(row['value'])}"
        for row in rows
        if row["statistic"] == "mean"
    )
    return figure.Figure(
        "summary",
        "Every comparison at a glance",
        "Each dot is the mean and each diamond the median over all defined features, with its 95% "
        "interval; the other model should lie well right of the baselines below it, which share "
        "the text alone, and not right of the skylines above it, other seeds of the same.",
        f"Dot plot of mean best correlations. {said}.",
        figure.finish(figure.panels([bars, points], rows, height=44 * len(order)), rows, axes=132),
    )
