"""How many matched pairs are causally alike.

A matched pair is causally alike when its agreement is above the 95 % quantile of the controls.
"""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise

import numpy as np
import polars as pl
from jaxtyping import Float

from homolog.analyses.analysis import Tables
from homolog.analyses.causal.agreement import agreement
from homolog.analyses.causal.effects import ProbedModel, measure_effects
from homolog.analyses.causal.pairs import KINDS, choose_pairs
from homolog.analyses.material import Material
from homolog.dictionaries.seeds import generator
from homolog.matching.intervals import HIGH_MATCH
from homolog.record.tables import CAUSAL, CAUSAL_SHARES, MATCHES

BINS = (0.0, 0.5, 0.7, 0.8, 0.9, 1.0)
CONTROL_QUANTILE = 0.95
_DIRECTION = ("model", "best_model")
SHARES_SCHEMA = CAUSAL_SHARES.only(*(n for n in CAUSAL_SHARES.columns if n not in _DIRECTION))


def measure_pair(material: Material, model: str, best_model: str) -> Tables:
    """Task: are features of `model` causally alike with their matches in `best_model`."""
    seed = material.seed
    pairs, probes = choose_pairs(
        material.table(MATCHES),
        model,
        best_model,
        lambda layer: material.features(model, layer).matrix,
        lambda layer: material.features(best_model, layer).matrix,
        n_pairs=material.interpretation.causal_pairs,
        seed=seed,
    )
    sides = [
        _probed(material, name, pairs[column])
        for name, column in ((model, "layer"), (best_model, "best_layer"))
    ]
    effects = measure_effects(pairs, probes, material.windows("match"), *sides)
    agreements = agreement(pairs, effects, seed=seed)
    shares = causal_shares(agreements, seed=seed)
    direction = pl.lit(model).alias("model"), pl.lit(best_model).alias("best_model")
    return {CAUSAL.name: agreements, CAUSAL_SHARES.name: shares.select(*direction, pl.all())}


def _probed(material: Material, model: str, layers: pl.Series) -> ProbedModel:
    saes = {layer: material.sae(model, layer) for layer in layers.unique().sort()}
    return ProbedModel(material.model(model), saes)


def causal_shares(
    agreements: pl.DataFrame, *, n_replicates: int = 1000, seed: int = 0
) -> pl.DataFrame:
    """The share of matched pairs that are causally alike (`SHARES_SCHEMA`), by kind and range of r.

    The first row of a kind, r above 0.7 up to 1, is the study's number: that of "ablate".
    threshold: the agreement that 95 % of the controls stay below.  lo, hi: 95 % interval; pairs are
    resampled with their controls, and the threshold is taken anew in each resample; NaN for fewer
    than two pairs.  Pairs whose agreement is NaN are left out.
    """
    rows = []
    controls = agreements.filter(~pl.col("matched"))
    for kind in KINDS:
        own = controls.select("pair", control=f"{kind}_r")
        table = agreements.filter("matched").join(own, on="pair", how="left")
        value, r = table[f"{kind}_r"].to_numpy(), table["r"].to_numpy().astype(np.float64)
        control = table["control"].fill_null(np.nan).to_numpy()
        random = generator(seed, "causal share", kind)
        drawn = random.integers(max(len(table), 1), size=(n_replicates, len(table)))
        for low, high in [(HIGH_MATCH, 1.0), *pairwise(BINS)]:
            inside = (r > low) & (r <= high) & ~np.isnan(value)
            share, threshold = _share(value, inside, control)
            replicates = np.array([_share(value[d], inside[d], control[d])[0] for d in drawn])
            replicates = replicates[~np.isnan(replicates)]
            several = inside.sum() > 1 and len(replicates)  # one pair resampled is always itself
            lo, hi = np.quantile(replicates, [0.025, 0.975]) if several else (np.nan, np.nan)
            n, n_control = int(inside.sum()), int((~np.isnan(control)).sum())
            ends, medians = (float(lo), float(hi)), (_median(value[inside]), _median(control))
            numbers = (share, *ends, medians[0], threshold, medians[1])
            rows.append((kind, low, high, n, *numbers, n_control))
    return pl.DataFrame(rows, schema=SHARES_SCHEMA, orient="row")


def _share(value: np.ndarray, inside: np.ndarray, control: np.ndarray) -> tuple[float, float]:
    known = control[~np.isnan(control)]
    threshold = float(np.quantile(known, CONTROL_QUANTILE)) if len(known) else np.nan
    share = float((value[inside] > threshold).mean()) if len(known) and inside.any() else np.nan
    return share, threshold


def _median(values: Sequence[float] | Float[np.ndarray, " n"]) -> float:
    known = np.asarray(values, dtype=np.float64)
    known = known[~np.isnan(known)]
    return float(np.median(known)) if len(known) else np.nan


def says(material: Material) -> list[dict[str, str]]:
    """The words of a run, for the command line and run.json."""
    return causal_words(material.table(CAUSAL_SHARES))


def causal_words(shares: pl.DataFrame) -> list[dict[str, str]]:
    """For each ordered pair of models: how many of the closest matches are causally alike.

    shares: `CAUSAL_SHARES`.  Entries have model, best_model and words.
    """
    main = pl.col("kind") == "ablate", pl.col("above_r") == HIGH_MATCH, pl.col("to_r") == 1.0
    rows = shares.filter(*main).unique(_DIRECTION, keep="first", maintain_order=True)
    said = []
    for row in rows.filter(pl.col("n") > 0).iter_rows(named=True):
        interval = "" if np.isnan(row["lo"]) else f" ({100 * row['lo']:.0f} to {row['hi']:.0%})"
        words = (
            f"{row['share']:.0%}{interval} of {row['n']} features of {row['model']} "
            f"with a partner in {row['best_model']} above r = {HIGH_MATCH} are causally alike: "
            f"median agreement of their effects {row['median']:.2f}, of pairs that do not match "
            f"{row['control_median']:.2f}."
        )
        said.append({"model": row["model"], "best_model": row["best_model"], "words": words})
    return said
