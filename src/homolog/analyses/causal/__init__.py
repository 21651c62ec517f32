"""Do matched features do the same?

Each is ablated and steered in its own model, and the effects on the next token are compared:

    pairs       matched features and their controls, and the tokens where to intervene
    effects     how the two models' next-token distributions change there, together
    agreement   the correlation of both changes over the tokens of a pair
    shares      how many matched pairs agree more than their controls do
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import altair as alt
import polars as pl

from homolog.analyses.analysis import Analysis, each_direction_with_homologs, interpreted
from homolog.analyses.records import PairRecords
from homolog.charts import theme
from homolog.charts.figure import SHARE_AXIS, UNIT, Figure, Rows, finish, panels, significant, tips
from homolog.record.comparisons import MAIN, MODEL_SEED
from homolog.record.tables import CAUSAL, CAUSAL_SHARES, MATCHES

LEAST_PAIRS = 3  # of a bar
KINDS = {"ablate": "taken out", "steer": "put in"}


def words_of(records: PairRecords) -> list[str]:
    """The words that run.json keeps about this pair."""
    entries = [e for e in records.run.get("causal") or [] if isinstance(e, Mapping)]
    own = [e for e in entries if {e.get("model"), e.get("best_model")} == set(records.pair)]
    return [str(entry.get("words")) for entry in own]


def causal_figure(records: PairRecords) -> Figure | None:
    """Share of matched pairs that are causally alike, by bin of r."""
    shares = records.table(CAUSAL_SHARES).filter(pl.col("n") >= LEAST_PAIRS)
    rows = [row for side in "AB" for row in _bars(records, shares, side)]
    if not rows:
        return None
    return Figure(
        "causal",
        "Do matched features do the same?",
        "Each feature of a pair is taken out of, or put into, the residual stream of its own "
        "model, and the changes of both next-token distributions are correlated. A pair is "
        "causally alike when they agree more than 95% of pairs that fire as often and together "
        "but do not match. Lines are 95% intervals.",
        "Bars of the share of pairs that are causally alike, by their correlation. "
        + " ".join(words_of(records)),
        finish(panels(_layers(rows), rows, height=200), rows, axes=62),
    )


def _bars(records: PairRecords, shares: pl.DataFrame, side: str) -> Rows:
    """One per kind and bin of r; the row of all close matches together is none."""
    model, partner = records.model_of(side), records.partner_of(side)
    own = shares.filter(model=model, best_model=partner)
    bins = own.filter((pl.col("to_r") < 1) | (pl.col("above_r") > 0.75))
    return [
        {
            "panel": f"{model} in {partner}",
            "kind": KINDS[row["kind"]],
            "bin": f"{row['above_r']:.1f} to {row['to_r']:.1f}",
            **{name: significant(row[name]) for name in ("share", "lo", "hi")},
            "n": row["n"],
        }
        for row in bins.iter_rows(named=True)
    ]


def _layers(rows: Rows) -> list[Any]:
    """Bars with their intervals."""
    kinds, bins = list(KINDS.values()), sorted({row["bin"] for row in rows})
    x = alt.X("bin:N", sort=bins, title="correlation of the pair", axis=alt.Axis(labelAngle=0))
    offset = alt.XOffset("kind:N", sort=kinds)
    y = alt.Y("share:Q", title="share causally alike", axis=SHARE_AXIS, scale=UNIT)
    hues = [theme.comparison_colour(comparison.name) for comparison in (MAIN, MODEL_SEED)]
    scale, legend = alt.Scale(domain=kinds, range=hues), alt.Legend(title=None)
    colour = alt.Color("kind:N", sort=kinds, legend=legend, scale=scale)
    tip = tips(("kind", "feature", ""), ("share", "share", ".0%"), ("n", "pairs", ","))
    bars = alt.Chart().mark_bar(cornerRadiusEnd=2).encode(x, offset, y, colour, tooltip=tip)
    rule = alt.Chart().mark_rule(strokeWidth=1.4, color=theme.WORSE[0], tooltip=False)
    return [bars, rule.encode(x, offset, alt.Y("lo:Q"), alt.Y2("hi:Q"))]


ANALYSIS = Analysis(
    name="causal",
    title="ablate and steer matched features",
    tables=(CAUSAL, CAUSAL_SHARES),
    reads=(MATCHES,),
    wanted=interpreted("causal_pairs"),
    units=each_direction_with_homologs,
    measure="homolog.analyses.causal.shares:measure_pair",
    says="homolog.analyses.causal.shares:says",
    chapter="Meaning",
    figures=lambda records: [causal_figure(records)],
    values=lambda records: {"causal": said} if (said := words_of(records)) else None,
)
