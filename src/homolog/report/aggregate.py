"""Tables to the few rows that each chart draws: bins, shares and quantiles, never one row a
feature.

Every function returns a list of plain dicts with numbers rounded to four digits, so that the page
stays small and the same tables give the same bytes.  `panel` is the heading under which a row is
drawn.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import polars as pl

from homolog.analyses.records import PairRecords, Records, base_name
from homolog.charts.links import address
from homolog.charts.words import CLOSE, number
from homolog.record.comparisons import comparison_of, shown

Rows = list[dict[str, Any]]

BIN = 0.01
RIDGE_HEIGHT = 0.73  # of the distance between two baselines


def panel(records: PairRecords, side: str, kind: str) -> str:
    """The heading of one direction."""
    return f"{'Features' if kind == 'sae' else 'Neurons'} of {records.model_of(side)}"


def defined_r(records: PairRecords, kind: str, comparison: str, side: str) -> np.ndarray:
    """Best correlations of the defined features, float64 (features,); undefined ones are left out."""
    rows = records.matches.filter(
        (pl.col("kind") == kind) & (pl.col("comparison") == comparison) & (pl.col("side") == side)
    )
    r = rows.get_column("r").cast(pl.Float64).to_numpy()
    return r[np.isfinite(r)]


def ridges(records: PairRecords, kind: str) -> Rows:
    """Densities of r, one ridge a comparison and direction, each scaled to the same height, with
    its median.

    A row with part "ridge" has r, base, top; one with part "median" has r, base, top and the value.
    """
    names = records.comparisons(kind)
    low = min(
        (
            float(r.min())
            for name in names
            for side in "AB"
            if len(r := defined_r(records, kind, name, side))
        ),
        default=0.0,
    )
    edges = np.arange(np.floor(min(low, 0.0) * 10) / 10, 1.0 + BIN / 2, BIN)
    rows: Rows = []
    for place, name in enumerate(reversed(names)):
        for side in "AB":
            r = defined_r(records, kind, name, side)
            if not len(r):
                continue
            density = smooth(np.histogram(np.clip(r, edges[0], 1.0), edges)[0].astype(float))
            density /= density.max()
            shared = {
                "panel": panel(records, side, kind),
                "comparison": name,
                "name": comparison_of(name).plain,
            }
            for centre, height in zip((edges[:-1] + edges[1:]) / 2, density, strict=True):
                if height > 5e-4:
                    rows.append(
                        {
                            **shared,
                            "part": "ridge",
                            "r": short(centre),
                            "base": place,
                            "top": short(place + RIDGE_HEIGHT * height),
                        }
                    )
            median = float(np.median(r))
            at_median = float(np.interp(median, (edges[:-1] + edges[1:]) / 2, density))
            rows.append(
                {
                    **shared,
                    "part": "median",
                    "r": short(median),
                    "base": place,
                    "top": short(place + RIDGE_HEIGHT * at_median),
                    "n": len(r),
                }
            )
    return rows


def smooth(counts: np.ndarray, sigma: float = 1.6) -> np.ndarray:
    """Counts per bin after a Gaussian of `sigma` bins, reflected at both ends so that the total is
    kept.
    """
    reach = int(np.ceil(4 * sigma))
    kernel = np.exp(-0.5 * (np.arange(-reach, reach + 1) / sigma) ** 2)
    padded = np.pad(counts, reach, mode="symmetric")
    return np.convolve(padded, kernel / kernel.sum(), mode="valid")


def share_curves(records: PairRecords, kind: str) -> Rows:
    """Share of the defined features whose best partner has at least correlation r, for r from 0 to
    1.
    """
    grid = np.linspace(0.0, 1.0, 101)
    rows: Rows = []
    for name in records.comparisons(kind):
        for side in "AB":
            r = np.sort(defined_r(records, kind, name, side))
            if not len(r):
                continue
            shares = 1.0 - np.searchsorted(r, grid, side="left") / len(r)
            rows += [
                {
                    "panel": panel(records, side, kind),
                    "comparison": name,
                    "name": comparison_of(name).plain,
                    "r": short(x),
                    "share": short(y),
                }
                for x, y in zip(grid, shares, strict=True)
            ]
    return rows


def intervals(records: PairRecords) -> Rows:
    """Mean and median of every comparison and direction with their 95 % intervals, stratum "all"."""
    rows: Rows = []
    for name in shown(records.summary.get_column("comparison").unique().to_list()):
        for side in "AB":
            row = records.summary_row(name, side)
            if row is None:
                continue
            for statistic in ("mean", "median"):
                rows.append(
                    {
                        "panel": f"From {records.model_of(side)}",
                        "comparison": name,
                        "name": comparison_of(name).label,
                        "statistic": statistic,
                        "value": short(row[statistic]),
                        "low": short(row[f"{statistic}_lo"]),
                        "high": short(row[f"{statistic}_hi"]),
                    }
                )
    return rows


def layer_means(records: PairRecords) -> Rows:
    """Mean maximum correlation of every layer pair of the main comparison, both directions on the
    same axes.

    `link` leads to the features of the cell in the explorer, where there is one.  `best` marks, for
    each layer of the model whose features are looked for, the partner layer of highest mean.
    """
    rows: Rows = []
    for side in "AB":
        main = records.layers.filter((pl.col("comparison") == "main") & (pl.col("side") == side))
        main = main.sort("layer", "best_layer")
        best: dict[int, tuple[float, int]] = {}
        for row in main.iter_rows(named=True):
            if row["mean"] is not None and row["mean"] > best.get(row["layer"], (-2.0, 0))[0]:
                best[row["layer"]] = (row["mean"], row["best_layer"])
        models = (records.model_of(side), records.partner_of(side))
        for row in main.iter_rows(named=True):
            own, partner = row["layer"], row["best_layer"]
            link = (
                {"link": address(*models, layer=own, to_layer=partner)} if records.explored else {}
            )
            a, b = (own, partner) if side == "A" else (partner, own)
            rows.append(
                {
                    "panel": f"{panel(records, side, 'sae')}",
                    "a": a,
                    "b": b,
                    "mean": short(row["mean"]),
                    "best": own in best and best[own][1] == partner,
                    "n": row["n_defined"],
                    **link,
                }
            )
    return rows


SPACES = {
    "cka": "Residual streams: CKA",
    "svcca": "Residual streams: SVCCA",
    "decoder_rsa": "Decoder directions: RSA",
    "decoder_svcca": "Decoder directions: SVCCA",
}


def spaces(records: PairRecords) -> Rows:
    """Similarity of the two spaces of every layer pair, one panel a measure that the run has.

    `tone` is the place of the value between the lowest (0) and the highest (1) of its panel, whose
    title names both: the measures have ranges of their own.
    """
    rows: Rows = []
    main = records.layers.filter((pl.col("comparison") == "main") & (pl.col("side") == "A")).sort(
        "layer", "best_layer"
    )
    for measure, title in SPACES.items():
        known = main.filter(pl.col(measure).is_not_null() & pl.col(measure).is_not_nan())
        if known.is_empty():
            continue
        values = known.get_column(measure)
        low, high = float(values.min()), float(values.max())  # type: ignore[arg-type]
        for row in known.iter_rows(named=True):
            rows.append(
                {
                    "panel": f"{title}, {number(low)} to {number(high)}",
                    "measure": measure,
                    "a": row["layer"],
                    "b": row["best_layer"],
                    "value": short(row[measure]),
                    "tone": short((row[measure] - low) / (high - low) if high > low else 0.5),
                    "n": row["n_pairs"] if measure.startswith("decoder") else None,
                }
            )
    return rows


def space_means(records: PairRecords) -> list[tuple[str, float, float | None]]:
    """Of each measure: its title, its mean over the layer pairs of side A, and the same against the
    untrained model.
    """

    def mean(comparison: str, measure: str) -> float | None:
        rows = records.layers.filter((pl.col("comparison") == comparison) & (pl.col("side") == "A"))
        known = rows.get_column(measure).cast(pl.Float64).drop_nulls().drop_nans()
        return float(known.to_numpy().mean()) if len(known) else None

    found = [
        (title, mean("main", name), mean("random-model", name)) for name, title in SPACES.items()
    ]
    return [(title, main, untrained) for title, main, untrained in found if main is not None]


def depths(records: PairRecords) -> Rows:
    """Relative depth of features against that of their best matches, main comparison, by layer.

    A row: depth, mean, low, high (10 % and 90 % quantiles) with series "all" or "close" (r > 0.7).
    """
    rows: Rows = []
    for side in "AB":
        n_own = records.n_layers(records.model_of(side))
        n_partner = records.n_layers(records.partner_of(side))
        main = records.matches.filter(
            (pl.col("comparison") == "main") & (pl.col("side") == side) & pl.col("r").is_finite()
        ).with_columns(
            (pl.col("best_layer") + 1).cast(pl.Float64).truediv(n_partner).alias("partner_depth")
        )
        models = (records.model_of(side), records.partner_of(side))
        for series, chosen in (("all", main), ("close", main.filter(pl.col("r") > CLOSE))):
            by_layer = chosen.group_by("layer").agg(
                pl.col("partner_depth").mean().alias("mean"),
                pl.col("partner_depth").quantile(0.1, "linear").alias("low"),
                pl.col("partner_depth").quantile(0.9, "linear").alias("high"),
                pl.len().alias("n"),
            )
            for row in by_layer.sort("layer").iter_rows(named=True):
                rows.append(
                    {
                        "panel": panel(records, side, "sae"),
                        "series": series,
                        "layer": row["layer"],
                        "depth": short((row["layer"] + 1) / n_own),
                        "n": row["n"],
                        **{key: short(row[key]) for key in ("mean", "low", "high")},
                        **(
                            {"link": address(*models, layer=row["layer"])}
                            if records.explored
                            else {}
                        ),
                    }
                )
    return rows


QUALITY = {
    "explained_variance": "Explained variance",
    "l0": "L0: features active at a token",
    "dead_share": "Share of dead features",
    "loss_recovered": "Loss recovered",
}


def quality(records: PairRecords) -> Rows:
    """Quality of every dictionary by relative depth.

    Undefined values are left out, and so is the loss recovered of untrained models: they have none
    to recover.
    """
    untrained = records.untrained()
    rows: Rows = []
    for row in records.saes.sort("model", "label", "layer").iter_rows(named=True):
        model, random = row["model"], base_name(row["model"]) in untrained
        for metric, title in QUALITY.items():
            value = row[metric]
            if value is None or not np.isfinite(value) or (random and metric == "loss_recovered"):
                continue
            rows.append(
                {
                    "panel": title,
                    "family": family(records, model),
                    "variant": variant(records, row),
                    "dictionary": model if row["label"] == "sae" else f"{model} ({row['label']})",
                    "layer": row["layer"],
                    "value": short(value),
                    "passed": bool(row["passed"]),
                    "depth": short((row["layer"] + 1) / records.n_layers(model)),
                }
            )
    return rows


def family(records: PairRecords, model: str) -> str:
    """The model of the pair that a model stands beside: itself, or the one of its architecture."""
    base = base_name(model)
    if base in records.pair:
        return base
    like = [
        name for name in records.pair if records.architecture(name) == records.architecture(base)
    ]
    return like[0] if like else base


def variant(records: PairRecords, row: Mapping[str, Any]) -> str:
    """What sets a dictionary apart from those compared, in words."""
    if base_name(row["model"]) in records.untrained():
        return "untrained model"
    if base_name(row["model"]) not in records.pair:
        return "second training seed"
    return "compared" if row["label"] == "sae" else "second dictionary seed"


def stage_times(records: Records) -> Rows:
    """Seconds and peak memory of each stage, in the order they ran; the report's own stage is left
    out.
    """
    rows: Rows = []
    for place, (name, stage) in enumerate((records.run.get("stages") or {}).items()):
        if name != "report" and isinstance(stage, Mapping):
            rows.append(
                {
                    "stage": name,
                    "place": place,
                    "status": str(stage.get("status") or "unknown"),
                    "seconds": stage.get("seconds"),
                    "peak_bytes": stage.get("peak_memory_bytes", stage.get("peak_bytes")),
                }
            )
    return rows


def stage_groups(records: Records) -> Rows:
    """Seconds by kind of stage, the first word of its name: "match main" and "match rotated" are
    one bar.
    """
    groups: dict[str, dict[str, Any]] = {}
    for row in stage_times(records):
        if row["seconds"] is not None:
            name = row["stage"].split(" ")[0]
            group = groups.setdefault(name, {"stage": name, "seconds": 0.0, "stages": 0})
            group["seconds"] += row["seconds"]
            group["stages"] += 1
    return [
        {
            **group,
            "stage": f"{group['stage']} ({group['stages']}\u00d7)"
            if group["stages"] > 1
            else group["stage"],
            "seconds": short(group["seconds"]),
        }
        for group in groups.values()
    ]


def short(value: float | None) -> float | None:
    """Four digits after the point; None where the value is missing or undefined."""
    return None if value is None or not np.isfinite(value) else round(float(value), 4)
