"""What features mean, on the page of a pair: the relation of r to each measure, causal checks,
lists, transplants.

Every table is optional: a run without interpretation has no such section.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import altair as alt
import polars as pl

from homolog.analyses.records import PairRecords
from homolog.charts import theme
from homolog.charts import words as wording
from homolog.charts.figure import Figure, Rows, comparison_scale, finish, panels, seen, tips
from homolog.charts.shown_table import ShownTable
from homolog.charts.words import number
from homolog.record.comparisons import comparison_of
from homolog.record.run_folder import RunFolder
from homolog.report.tables import feature_links

LISTED = 12
SHOWN_COMPARISONS = ("main", "rotated", "random-model")


@dataclass(frozen=True)
class Measure:
    """A measure of a feature as a reader meets it."""

    title: str
    unit: str
    says: str


MEASURES: Mapping[str, Measure] = {
    "token_entropy": Measure(
        "Entropy of its tokens", "bits", "0: it fires on one token only; more: on many"
    ),
    "token_r2": Measure(
        "Predicted by the token", "share of variance", "1: the current token alone decides"
    ),
    "context_tokens": Measure("Left context it needs", "tokens", "1: the token itself is enough"),
    "consistency": Measure(
        "Consistency of contexts", "-1 to 1", "0: as alike as random ones; 1: always more alike"
    ),
    "context_consistency": Measure(
        "The same without the token", "-1 to 1", "what contexts share before the token"
    ),
    "complexity": Measure("Complexity, judged", "1 to 5", "5: an abstract idea"),
    "consistency_judged": Measure("Consistency, judged", "1 to 5", "5: one pattern in every text"),
    "detection": Measure("Detection, judged", "0 to 1", "0.5: the explanation says nothing"),
}


@dataclass(frozen=True)
class Meaning:
    """The section: sentences and tables."""

    causal: list[str]
    relation: ShownTable
    lists: list[ShownTable]
    transplant: ShownTable | None


def meaning(records: PairRecords) -> Meaning | None:
    """What the page of a pair says of meaning; None where the run did not interpret its features."""
    tables = _tables(records)
    if "relation" not in tables:
        return None
    return Meaning(
        _causal_words(records),
        _relation_table(tables["relation"]),
        _list_tables(records, tables.get("lists")),
        _transplant_table(tables.get("transplant")),
    )


def _tables(records: PairRecords) -> dict[str, pl.DataFrame]:
    """The tables that the run has, with the rows of this pair."""
    folder, pair = RunFolder(records.path), pl.col("model").is_in(records.pair)
    direct = pair & pl.col("best_model").is_in(records.pair)
    turned = pl.col("best_model").str.split("@").list.first().is_in(records.pair)
    controls = pair & (turned | ~pl.col("comparison").is_in(["main", "rotated"]))
    source = pair & pl.col("source_model").is_in(records.pair)
    of = {
        "relation": controls,
        "curves": controls,
        "causal_shares": direct,
        "lists": direct,
        "transplant": source,
    }
    return {
        name: pl.read_parquet(file).filter(rows)
        for name, rows in of.items()
        if (file := folder.table(name)).is_file()
    }


def relation_figure(records: PairRecords) -> Figure | None:
    """Median of each measure over bins of r."""
    tables = _tables(records)
    if "curves" not in tables:
        return None
    curves = tables["curves"].filter(
        pl.col("of") == "r", pl.col("comparison").is_in(SHOWN_COMPARISONS)
    )
    curves = curves.filter(pl.col("n") >= 10)
    rows: Rows = []
    for name, measure in MEASURES.items():
        for side in "AB":
            model = records.model_of(side)
            part = curves.filter(measure=name, model=model).sort("comparison", "bin")
            rows += [
                {
                    "panel": f"{measure.title} ({measure.unit}), {model}",
                    "comparison": row["comparison"],
                    "name": comparison_of(row["comparison"]).plain,
                    "r": (row["start"] + row["end"]) / 2,
                    "median": _short(row["median"]),
                    "lo": _short(row["lo"]),
                    "hi": _short(row["hi"]),
                    "n": row["n"],
                }
                for row in part.iter_rows(named=True)
            ]
    if not any(row["comparison"] == "main" for row in rows):
        return None
    names = [name for name in SHOWN_COMPARISONS if name in seen(rows)]
    x = alt.X(
        "r:Q",
        title="correlation of the best partner",
        scale=alt.Scale(domain=[0, 1]),
        axis=alt.Axis(format=".1f", tickCount=6),
    )
    y = alt.Y("median:Q", title=None, scale=alt.Scale(zero=False), axis=alt.Axis(tickCount=5))
    labels = " : ".join(
        [*(f"datum.label == '{n}' ? '{comparison_of(n).plain}'" for n in names), "datum.label"]
    )
    legend = alt.Legend(
        title=None, labelExpr=labels, symbolOpacity=1, symbolType="stroke", symbolStrokeWidth=2.4
    )
    colour = alt.Color("comparison:N", scale=comparison_scale(names), legend=legend)
    tip = tips(
        ("name", "looked for in", ""),
        ("r", "r about", ".2f"),
        ("median", "median", ".3g"),
        ("n", "features", ","),
    )
    band = (
        alt.Chart()
        .mark_area(opacity=0.18, tooltip=False)
        .encode(x, alt.Y("lo:Q", title=None), alt.Y2("hi:Q"), colour)
    )
    line = (
        alt.Chart().mark_line(strokeWidth=2.2, point={"size": 32}).encode(x, y, colour, tooltip=tip)
    )
    spec = finish(panels([band, line], rows, height=150), rows, axes=48, each=True)
    spec["resolve"] = {"scale": {"y": "independent"}}
    main = tables["relation"].filter(pl.col("comparison") == "main", pl.col("of") == "r")
    said = "; ".join(
        f"{MEASURES[row['measure']].title}, {row['model']}: {number(row['rho'])}"
        for row in main.iter_rows(named=True)
        if row["measure"] in MEASURES
    )
    return Figure(
        "relation",
        "Are close matches simpler?",
        "Features in order of the correlation with their best partner, ten bins: the median of "
        "each measure in a bin, "
        "with its 95% interval. "
        + " ".join(f"{m.title}: {m.says}." for n, m in MEASURES.items() if _has(curves, n)),
        f"Lines of the median of each measure over r. Rank correlations with r: {said}.",
        spec,
    )


def causal_figure(records: PairRecords) -> Figure | None:
    """Share of matched pairs that are causally alike, by bin of r."""
    shares = _tables(records).get("causal_shares")
    if shares is None or shares.is_empty():
        return None
    rows: Rows = []
    kinds = {"ablate": "taken out", "steer": "put in"}
    for side in "AB":
        part = shares.filter(model=records.model_of(side), best_model=records.partner_of(side))
        bins = part.filter((pl.col("to_r") < 1) | (pl.col("above_r") > 0.75)).filter(
            pl.col("n") >= 3
        )
        rows += [
            {
                "panel": f"{records.model_of(side)} in {records.partner_of(side)}",
                "kind": kinds[row["kind"]],
                "bin": f"{row['above_r']:.1f} to {row['to_r']:.1f}",
                "share": _short(row["share"]),
                "lo": _short(row["lo"]),
                "hi": _short(row["hi"]),
                "n": row["n"],
            }
            for row in bins.iter_rows(named=True)
        ]
    if not rows:
        return None
    bins = sorted({row["bin"] for row in rows})
    x = alt.X("bin:N", sort=bins, title="correlation of the pair", axis=alt.Axis(labelAngle=0))
    offset = alt.XOffset("kind:N", sort=list(kinds.values()))
    y = alt.Y(
        "share:Q",
        title="share causally alike",
        axis=alt.Axis(format="%", tickCount=5),
        scale=alt.Scale(domain=[0, 1]),
    )
    hues = alt.Scale(
        domain=list(kinds.values()),
        range=[theme.comparison_colour(n) for n in ("main", "model-seed")],
    )
    colour = alt.Color(
        "kind:N", sort=list(kinds.values()), legend=alt.Legend(title=None), scale=hues
    )
    tip = tips(("kind", "feature", ""), ("share", "share", ".0%"), ("n", "pairs", ","))
    bars = alt.Chart().mark_bar(cornerRadiusEnd=2).encode(x, offset, y, colour, tooltip=tip)
    rule = alt.Chart().mark_rule(strokeWidth=1.4, color=theme.WORSE[0], tooltip=False)
    errors = rule.encode(x, offset, alt.Y("lo:Q"), alt.Y2("hi:Q"))
    words = _causal_words(records)
    return Figure(
        "causal",
        "Do matched features do the same?",
        "Each feature of a pair is taken out of, or put into, the residual stream of its own "
        "model, and the changes of "
        "both next-token distributions are correlated. A pair is causally alike when they agree "
        "more than 95% of pairs "
        "that fire as often and together but do not match. Lines are 95% intervals.",
        "Bars of the share of pairs that are causally alike, by their correlation. "
        + " ".join(words),
        finish(panels([bars, errors], rows, height=200), rows, axes=62),
    )


def _causal_words(records: PairRecords) -> list[str]:
    """The study's numbers for this pair, in the words of run.json."""
    found = [entry for entry in records.run.get("causal") or [] if isinstance(entry, Mapping)]
    return [
        str(e.get("words"))
        for e in found
        if {e.get("model"), e.get("best_model")} == set(records.pair)
    ]


def _relation_table(relation: pl.DataFrame) -> ShownTable:
    rows = []
    for row in relation.sort("measure", "of", "model", maintain_order=True).iter_rows(named=True):
        measure = MEASURES.get(row["measure"])
        rows.append(
            [
                measure.title if measure else row["measure"],
                "r" if row["of"] == "r" else "excess over the null",
                comparison_of(row["comparison"]).plain,
                f"{row['model']}\n→ {row['best_model']}",
                wording.integer(row["n"]),
                _with_interval(row, "rho", "lo", "hi"),
                _with_interval(row, "partial", "partial_lo", "partial_hi"),
            ]
        )
    columns = [
        "Measure",
        "Against",
        "Comparison",
        "Features of → looked for in",
        "Features",
        "Spearman, 95% interval",
        "Frequency and layer held fixed",
    ]
    strong = frozenset(
        i
        for i, row in enumerate(
            relation.sort("measure", "of", "model", maintain_order=True).get_column("comparison")
        )
        if row == "main"
    )
    return ShownTable(
        "Rank correlation of each measure with how well a feature is matched",
        columns,
        rows,
        frozenset({4, 5, 6}),
        strong,
    )


def _list_tables(records: PairRecords, lists: pl.DataFrame | None) -> list[ShownTable]:
    """Exclusive features of each side; the best shared stand in a section of their own."""
    found = []
    for side in "AB" if lists is not None else "":
        assert lists is not None
        model, partner = records.model_of(side), records.partner_of(side)
        own = (
            lists.filter(list="exclusive", model=model, best_model=partner)
            .sort("rank")
            .head(LISTED)
        )
        rows = [
            [
                f"{row['layer']} / {row['feature']}",
                f"{100 * row['freq']:.2f}%",
                number(row["r"], 3),
                f"{row['best_layer']} / {row['best_feature']}",
                number(row.get("exclusive_r2"), 3),
                number(row["own_seed_r"], 3),
            ]
            for row in own.iter_rows(named=True)
        ]
        columns = [
            "Block / feature",
            "Active",
            "r",
            "Best partner",
            f"R² from all of {partner}",
            "r in another seed",
        ]
        found.append(
            ShownTable(
                f"Frequent features of {model} without a homolog in {partner}",
                columns,
                rows,
                frozenset({1, 2, 4, 5}),
                links=feature_links(records, side, own),
            )
        )
    return found


def _transplant_table(transplant: pl.DataFrame | None) -> ShownTable | None:
    if transplant is None or transplant.is_empty():
        return None
    rows = [
        [
            f"{row['model']} {row['layer']}",
            f"{row['source_model']} {row['source_layer']}",
            row["map"],
            *(
                number(row[name], 3)
                for name in ("r2", "ev_own", "ev_transplant", "feature_r_median")
            ),
        ]
        for row in transplant.iter_rows(named=True)
    ]
    columns = [
        "Dictionary of block",
        "Residuals of block",
        "Map",
        "R² of the residual",
        "Explained, own residuals",
        "Explained, mapped residuals",
        "r of features, median",
    ]
    return ShownTable(
        "Residuals of one model, mapped into the other's space and read by its dictionaries",
        columns,
        rows,
        frozenset(range(3, 7)),
    )


def _with_interval(row: Mapping[str, Any], value: str, lo: str, hi: str) -> str:
    return f"{number(row[value])}\n({number(row[lo])}, {number(row[hi])})"


def _has(curves: pl.DataFrame, measure: str) -> bool:
    return not curves.filter(measure=measure).is_empty()


def _short(value: float | None) -> float | None:
    return None if value is None or value != value else float(f"{value:.4g}")
