"""Do matched features do the same?

Each is ablated and steered in its own model, and the effects on the next tokens are compared; then
the partner's activation is put in the feature's place:

    pairs          matched features and their controls, and the tokens where to intervene
    forward        passes with something added to the residual stream
    effects        how the two models' next-token distributions change, there and later, together
    agreement      the correlation of both changes over the tokens of a pair
    auc            how often matched pairs agree more than their controls
    substitution   what loss the partner's activation recovers in the feature's place
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

import altair as alt
import polars as pl

from homolog.analyses.analysis import Analysis, each_direction_with_homologs, interpreted
from homolog.analyses.records import PairRecords
from homolog.charts import theme
from homolog.charts.figure import SHARE_AXIS, UNIT, Figure, Rows, finish, panels, significant, tips
from homolog.record.comparisons import MAIN, MODEL_SEED
from homolog.record.sides import CURRENT_TOKEN
from homolog.record.tables import CAUSAL, CAUSAL_AUC, LOSS_RECOVERED, MATCHES, SUBSTITUTIONS

READ = 2_000  # tokens, by all models, for each pair of features
LEAST_PAIRS = 3  # of a point
CHANCE = 0.5
EFFECTS = {
    ("ablate", "here"): "taken out: next token",
    ("ablate", "later"): "taken out: later tokens",
    ("steer", "here"): "put in: next token",
}
FILLERS = {"kl_recovered": "its partner", "kl_random": "a random feature"}


def words_of(records: PairRecords) -> list[str]:
    """The words that run.json keeps about this pair."""
    entries = [e for e in records.run.get("causal") or [] if isinstance(e, Mapping)]
    own = [e for e in entries if {e.get("model"), e.get("best_model")} == set(records.pair)]
    return [str(entry.get("words")) for entry in own]


def causal_figure(records: PairRecords) -> Figure | None:
    """The chance that a matched pair agrees more than a control, by bin of r."""
    points = [
        {"what": EFFECTS[row["kind"], row["where"]], "at": row["auc"], "lo": row["auc_lo"]}
        | {"hi": row["auc_hi"], "mean": significant(row["mean"])}
        | {"control": significant(row["control_mean"])}
        | place
        for place, row in _in_bins(records, records.table(CAUSAL_AUC))
    ]
    tip = (("mean", "mean agreement", ".2f"), ("control", "of controls", ".2f"))
    layers = _dots(points, list(EFFECTS.values()), "chance to agree more", UNIT, CHANCE, tip)
    if not points:
        return None
    return Figure(
        "causal",
        "Do matched features do the same?",
        "Each feature of a pair is taken out of, or put into, the residual stream of its own "
        "model, and the changes of both next-token distributions are correlated. Points: the "
        "chance that a pair agrees more than a control, the same feature with one that fires as "
        "often as the partner but does not match. 50% is none. Lines are 95% intervals.",
        "Points of the chance that matched pairs agree more than their controls, by their "
        "correlation. " + " ".join(words_of(records)),
        finish(panels(layers, points, height=200), points, axes=62),
    )


def substitution_figure(records: PairRecords) -> Figure | None:
    """What loss partners and random features recover in a feature's place, by bin of r."""
    points = [
        {"what": FILLERS[name], "at": row[name]}
        | {end: row[f"{name}_{end}"] for end in ("lo", "hi")}
        | {"loss": row[name.removeprefix("kl_")]}
        | place
        for place, row in _in_bins(records, records.table(LOSS_RECOVERED))
        for name in FILLERS
    ]
    if not points:
        return None
    tip = (("loss", "of the loss", ".0%"),)
    layers = _dots(points, list(FILLERS.values()), "change undone", alt.Scale(), 0.0, tip)
    return Figure(
        "substitution",
        "Can the partner take the feature's place?",
        "A feature is taken out of its model, and its partner's activation, scaled on other text, "
        "put in its place. Points: the share of the change of the predictions (KL divergence) that "
        "this undoes; 100% is as good as the feature itself. A random feature of the partner's "
        "block that fires as often undoes what chance does. Lines are 95% intervals.",
        "Points of the share of the change that partners and random features undo, by the "
        "correlation of the pair.",
        finish(panels(layers, points, height=200), points, axes=62),
    )


def _in_bins(
    records: PairRecords, table: pl.DataFrame
) -> Iterable[tuple[dict[str, Any], dict[str, Any]]]:
    """(panel, bin and n, row) of the rows of both directions; all close matches are no bin."""
    several = table.filter(
        pl.col("n") >= LEAST_PAIRS, (pl.col("to_r") < 1) | (pl.col("above_r") > 0.75)
    )
    for side in "AB":
        model, partner = records.model_of(side), records.partner_of(side)
        own = several.filter(model=model, best_model=partner)
        for row in own.iter_rows(named=True):
            numbers = {k: significant(v) if isinstance(v, float) else v for k, v in row.items()}
            bin_of = f"{row['above_r']:.1f} to {row['to_r']:.1f}"
            yield {"panel": f"{model} in {partner}", "bin": bin_of, "n": row["n"]}, numbers


def _dots(
    points: Rows,
    kinds: list[str],
    title: str,
    scale: alt.Scale,
    none: float,
    more: Iterable[tuple[str, str, str]],
) -> list[Any]:
    """Points with their intervals, and a line at `none`."""
    bins = sorted({row["bin"] for row in points})
    x = alt.X("bin:N", sort=bins, title="correlation of the pair", axis=alt.Axis(labelAngle=0))
    offset = alt.XOffset("what:N", sort=kinds)
    y = alt.Y("at:Q", title=title, axis=SHARE_AXIS, scale=scale)
    hues = [theme.comparison_colour(each.name) for each in (MAIN, MODEL_SEED, CURRENT_TOKEN)]
    domain = alt.Scale(domain=kinds, range=hues[: len(kinds)])
    colour = alt.Color("what:N", sort=kinds, legend=alt.Legend(title=None), scale=domain)
    tip = tips(("what", "", ""), ("at", title, ".0%"), *more, ("n", "pairs", ","))
    line = alt.Chart().mark_rule(strokeDash=[4, 3], tooltip=False).encode(y=alt.datum(none))
    rule = alt.Chart().mark_rule(strokeWidth=1.6, tooltip=False)
    dot = alt.Chart().mark_point(filled=True, size=60, opacity=1)
    ends = rule.encode(x, offset, alt.Y("lo:Q"), alt.Y2("hi:Q"), colour)
    return [line, ends, dot.encode(x, offset, y, colour, tooltip=tip)]


ANALYSIS = Analysis(
    name="causal",
    title="ablate, steer and replace matched features",
    tables=(CAUSAL, CAUSAL_AUC, SUBSTITUTIONS, LOSS_RECOVERED),
    reads=(MATCHES,),
    wanted=interpreted("causal_pairs"),
    units=each_direction_with_homologs,
    measure="homolog.analyses.causal.measure:measure_pair",
    seconds=lambda work: work.read(READ * work.partners * work.asked.causal_pairs),
    says="homolog.analyses.causal.measure:says",
    chapter="Effects",
    figures=lambda records: [causal_figure(records), substitution_figure(records)],
    values=lambda records: {"causal": said} if (said := words_of(records)) else None,
)
