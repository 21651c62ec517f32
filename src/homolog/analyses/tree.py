"""More than two models: which are near each other, and do those of one architecture sit together?

Of two models A and B, with the shares of features that have a homolog in the other and the ceilings
of A and B (shares that a model reaches in itself, through a second dictionary):

    distance = 1 - mean(share A in B / ceiling of A, share B in A / ceiling of B)

within 0 ... 1; where there are no ceilings, of the shares themselves.  Models are joined from the
nearest on, groups by the mean distance of their members (average linkage, UPGMA) [Sokal & Michener
1958].  The support of a node is the share of resamples of documents in whose tree the same models
are a node, ceilings fixed [Felsenstein 1985].

Whether architectures sit together: the mean distance between models of different architectures less
that between models of one, against the same with architectures exchanged among the models, all
ways where these are few, else `EXCHANGES` at random; the share that reaches it is p.

Sokal and Michener, "A statistical method for evaluating systematic relationships", 1958.
Felsenstein, "Confidence limits on phylogenies: an approach using the bootstrap", 1985.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Mapping, Sequence
from typing import Any

import altair as alt
import numpy as np
import polars as pl
from jaxtyping import Float
from scipy.cluster.hierarchy import linkage
from scipy.spatial.distance import squareform

from homolog.analyses.analysis import Analysis, Tables, whole
from homolog.analyses.material import Material
from homolog.analyses.records import StudyRecords
from homolog.charts import theme
from homolog.charts.figure import Figure, Rows, finish, quoted, rounded, tips
from homolog.charts.words import number, percent
from homolog.record.recipe import Recipe
from homolog.record.tables import RESAMPLED, SHARED, TREE

LEAST = 3
EXCHANGES = 10_000
Square = Float[np.ndarray, "model model"]


def distances(names: Sequence[str], shares: pl.DataFrame) -> Square | None:
    """Distances of models; None where a verdict of two of them is not given.

    shares: model, best_model, share, ceiling (null: none).
    """
    size = len(names)
    near = np.full((size, size), np.nan)
    for row in shares.iter_rows(named=True):
        if row["share"] is not None and {row["model"], row["best_model"]} <= set(names):
            at = names.index(row["model"]), names.index(row["best_model"])
            near[at] = row["share"] / row["ceiling"] if row["ceiling"] else row["share"]
    far = np.clip(1 - (near + near.T) / 2, 0, 1)
    np.fill_diagonal(far, 0)
    return None if np.isnan(far).any() else far


def joined(far: Square) -> list[tuple[int, int, float, frozenset[int]]]:
    """The nodes above the models: (left, right, distance, models), from the nearest pair on."""
    members = [frozenset([i]) for i in range(len(far))]
    nodes = []
    for left, right, distance, _ in linkage(squareform(far), method="average"):
        models = members[int(left)] | members[int(right)]
        members.append(models)
        nodes.append((int(left), int(right), float(distance), models))
    return nodes


def tree(names: Sequence[str], shared: pl.DataFrame, again: pl.DataFrame) -> pl.DataFrame:
    """`TREE`; without rows where a verdict of two of the models is not given.

    shared, again: the tables `SHARED` and `RESAMPLED`.
    """
    pairs = shared.select("model", "best_model", "share", "ceiling")
    if (far := distances(names, pairs)) is None:
        return TREE.frame()
    nodes = joined(far)
    ceilings = pairs.drop("share")
    n_trees, times = 0, dict.fromkeys((models for *_, models in nodes), 0)
    for _, shares in again.sort("resample").group_by("resample", maintain_order=True):
        other = distances(names, shares.join(ceilings, on=["model", "best_model"], how="left"))
        if other is not None:
            n_trees += 1
            for *_, models in joined(other):
                if models in times:
                    times[models] += 1
    rows: list[tuple[Any, ...]] = [(i, -1, -1, 0.0, None, [name]) for i, name in enumerate(names)]
    for place, (left, right, distance, models) in enumerate(nodes):
        support = times[models] / n_trees if n_trees else None
        below = [names[i] for i in sorted(models)]
        rows.append((len(names) + place, left, right, distance, support, below))
    return TREE.frame([dict(zip(TREE.columns, row, strict=True)) for row in rows])


def together(
    far: Square, groups: Sequence[str], seed: int = 0
) -> tuple[float, float, float] | None:
    """(mean distance within a group, between groups, p); None where no two share one, or all do."""
    kinds = {name: i for i, name in enumerate(dict.fromkeys(groups))}
    of = np.array([kinds[name] for name in groups])
    if not 1 < len(kinds) < len(groups):
        return None
    upper = np.triu_indices(len(of), 1)

    def means(labels: np.ndarray) -> tuple[float, float]:
        same = labels[upper[0]] == labels[upper[1]]
        return float(far[upper][same].mean()), float(far[upper][~same].mean())

    within, between = means(of)
    if math.factorial(len(of)) <= EXCHANGES:
        exchanged = [np.array(labels) for labels in itertools.permutations(of)]
    else:
        random = np.random.default_rng(seed)
        exchanged = [of, *(random.permutation(of) for _ in range(EXCHANGES))]
    reached = [np.subtract(*means(labels)) <= within - between + 1e-12 for labels in exchanged]
    return within, between, float(np.mean(reached))


def measure(material: Material) -> Tables:
    """The tree of the compared models, in the order of the recipe."""
    names = [model.name for model in material.compared]
    older = not material.has(RESAMPLED)
    again = RESAMPLED.frame() if older else material.table(RESAMPLED)
    return {TREE.name: tree(names, material.table(SHARED), again)}


def _wanted(recipe: Recipe) -> bool:
    """Whether it may compare so many models."""
    models = getattr(recipe, "models", ())  # which recipes of circuits name otherwise
    return sum(len(getattr(model, "revisions", None) or [model]) for model in models) >= LEAST


def _units(material: Material) -> list[tuple[()]]:
    return whole(material) if len(material.compared) >= LEAST else []


def order_of(nodes: pl.DataFrame) -> list[int]:
    """The models from top to bottom, so that no lines of the tree cross."""
    children = {row["node"]: (row["left"], row["right"]) for row in nodes.iter_rows(named=True)}

    def below(node: int) -> list[int]:
        left, right = children[node]
        return [node] if left < 0 else below(left) + below(right)

    return below(int(nodes["node"].max()))  # type: ignore[arg-type]


def names_in_order(nodes: pl.DataFrame) -> list[str]:
    """The models from top to bottom; none where there is no tree."""
    if nodes.is_empty():
        return []
    name_of = {row["node"]: row["models"][0] for row in nodes.iter_rows(named=True)}
    return [name_of[node] for node in order_of(nodes)]


def lines(nodes: pl.DataFrame) -> Rows:
    """The corners of the lines that join two nodes each, in order: node, corner, x, y."""
    height = {node: float(place) for place, node in enumerate(order_of(nodes))}
    at = dict.fromkeys(height, 0.0)
    rows: Rows = []
    for row in nodes.filter(pl.col("left") >= 0).iter_rows(named=True):
        left, right, x = row["left"], row["right"], row["distance"]
        corners = [(at[left], height[left]), (x, height[left])]
        corners += [(x, height[right]), (at[right], height[right])]
        height[row["node"]] = (height[left] + height[right]) / 2
        at[row["node"]] = x
        said = {"models": ", ".join(row["models"]), "support": rounded(row["support"])}
        rows += [
            {"node": row["node"], "corner": i, "x": rounded(x), "y": y, **said}
            for i, (x, y) in enumerate(corners)
        ]
        if row["support"] is not None and len(row["models"]) < len(order_of(nodes)):
            here = {"x": rounded(x), "y": height[row["node"]], "text": f"{row['support']:.0%}"}
            rows.append({"node": row["node"], "corner": -1, **here, **said})
    return rows


def tree_figure(records: StudyRecords) -> Figure | None:
    """The tree, from left to right, with the support of its nodes."""
    nodes = records.table(TREE)
    if nodes.is_empty():
        return None
    names = names_in_order(nodes)
    labels = ", ".join(f"'{quoted(name)}'" for name in names)
    axis = alt.Axis(
        values=list(range(len(names))),
        labelExpr=f"[{labels}][datum.value]",
        labelLimit=240,
        grid=False,
        ticks=False,
        domain=False,
        title=None,
    )
    scale = alt.Scale(domain=[-0.5, len(names) - 0.5], reverse=True, nice=False, zero=False)
    y = alt.Y("y:Q", scale=scale, axis=axis)
    x = alt.X(
        "x:Q", title="distance: 1 - homologs as a share of the ceiling", scale=alt.Scale(zero=True)
    )
    tip = tips(("models", "models", ""), ("support", "support", ".0%"))
    line = alt.Chart().transform_filter("datum.corner >= 0").mark_line(strokeWidth=1.8)
    text = alt.Chart().transform_filter("datum.corner < 0")
    text = text.mark_text(align="left", dx=4, dy=-6, fontSize=11, color=theme.MUTED[0])
    layers = [
        line.encode(x, y, detail="node:N", order="corner:Q", tooltip=tip),
        text.encode(x, y, text="text:N"),
    ]
    chart = alt.layer(*layers).properties(width=520, height=max(120, 30 * len(names)))
    said = "; ".join(
        f"{', '.join(row['models'])} at {number(row['distance'])}"
        for row in nodes.filter(pl.col("left") >= 0).iter_rows(named=True)
    )
    return Figure(
        "tree",
        "Which models are near each other?",
        "Two models are joined at their distance, groups at the mean over their members; further "
        "left is nearer. A number says in how many of the resamples of documents the same models "
        "are a group.",
        f"Tree of the models. {said}.",
        finish(chart, lines(nodes), axes=150),
    )


def architectures_apart(records: StudyRecords) -> str:
    """Whether models of one architecture are nearer, in words; empty where none can be compared."""
    names = list(records.compared)
    far = distances(names, records.shared.select("model", "best_model", "share", "ceiling"))
    kind = {model.get("name"): str(model.get("architecture")) for model in records.models}
    found = None if far is None else together(far, [kind.get(name, name) for name in names])
    if found is None:
        return ""
    within, between, p = found
    return (
        f"Models of one architecture are {number(within)} apart on average, those of different "
        f"ones {number(between)}; with architectures exchanged among the models, the difference is "
        f"reached in {percent(p)} of cases."
    )


def _values(records: StudyRecords) -> Mapping[str, Any] | None:
    if records.table(TREE).is_empty():
        return None
    return {"apart": architectures_apart(records)}


ANALYSIS = Analysis(
    "tree",
    "draw the tree of the models",
    tables=(TREE,),
    reads=(SHARED, RESAMPLED),
    wanted=_wanted,
    units=_units,
    measure=measure,
    page="study",
    chapter="Result",
    figures=lambda records: [tree_figure(records)],
    values=_values,
)
