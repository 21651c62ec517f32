"""The tables of a small generated run with known values: no model is run for these tests."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
from tests.analyses.planted_record import (
    FDR,
    LEAST_R,
    N_LAYERS,
    A,
    B,
    C,
    family,
    run_json,
    write_record,
)

from homolog.analyses.records import PairRecords, read_study
from homolog.record.comparisons import MAIN, SAE_SEED, comparison_of
from homolog.record.sides import MAIN_LABEL
from homolog.record.table import Table
from homolog.record.tables import LAYERS, MATCHES, SAES, SHARED, SUMMARY, VARIANCE

PER_LAYER = 50
# Of 200 features of A, 20 are undefined and 117 of the other 180 (65 %) have r > 0.7; of 400
# features of B, 40 are undefined and 180 of the other 360 (50 %) do.
CLOSE = {A: 0.65, B: 0.50, C: 0.40}
UNDEFINED = 0.10
# Chance reaches 0.4 in features that fire on fewer than 1,000 tokens, 0.2 in others; a match is
# significant 0.1 above.
RARE, NULL_RARE, NULL_COMMON, ABOVE = 1000, 0.4, 0.2, 0.1
COMPARISONS = (
    "main",
    "random-model",
    "rotated",
    "sae-seed",
    "model-seed",
    "neurons",
    "neurons-random",
    "main-seed",
)


DIRECTION = ("comparison", "kind", "model", "label", "best_model", "best_label")


def read_pair(path: Path, pair: tuple[str, str] | None = None) -> PairRecords:
    """What a run says of two of its models, by default the first two."""
    study = read_study(path)
    return study.of(pair or study.pairs[0])


def n_layers_of(model: str) -> int:
    return N_LAYERS[next(name for name in N_LAYERS if family(name) == family(model))]


def targets_of(comparison: str, model: str, compared: tuple[str, ...]) -> list[tuple[str, str]]:
    """Models and labels where the features of `model` are looked for: the rules of a study."""
    if comparison == "sae-seed":
        return [(model, "seed1")]
    if comparison == "model-seed":
        return [(f"{family(model)}-s1", MAIN_LABEL)]
    label = {"rotated": "rotated", "main-seed": "seed1"}.get(comparison, label_of(comparison))
    others = [other for other in compared if other != model]
    if comparison in ("random-model", "neurons-random"):
        others = [f"{family(other)}-random" for other in others]
    return [(other, label) for other in others]


def label_of(comparison: str) -> str:
    kind = comparison_of(comparison).kind
    return MAIN_LABEL if kind == "sae" else kind


# Means of the Beta distribution of r in each control; main is planted by shares instead.
CONTROL_MEAN = {
    "random-model": 0.25,
    "rotated": 0.15,
    "sae-seed": 0.86,
    "model-seed": 0.78,
    "neurons": 0.22,
    "neurons-random": 0.18,
    "main-seed": 0.60,
}


def planted_r(
    comparison: str, model: str, n: int, means: dict[str, float], rng: np.random.Generator
) -> np.ndarray:
    """r of `n` features, a tenth undefined; of main CLOSE[model] of the others above 0.7."""
    n_undefined = round(UNDEFINED * n)
    defined = n - n_undefined
    if comparison == "main" and "main" not in means:
        n_close = round(CLOSE[model] * defined)
        r = np.concatenate(
            [0.71 + 0.28 * rng.beta(2, 1.3, n_close), 0.69 * rng.beta(2.5, 1.6, defined - n_close)]
        )
        rng.shuffle(r)
    else:
        r = rng.beta(14 * means[comparison], 14 * (1 - means[comparison]), defined)
    return np.concatenate([np.full(n_undefined, np.nan), r])


def matches_of(
    comparison: str,
    model: str,
    target: tuple[str, str],
    means: dict[str, float],
    rng: np.random.Generator,
) -> pl.DataFrame:
    best_model, best_label = target
    n_layers, n_target = N_LAYERS[model], n_layers_of(best_model)
    n = n_layers * PER_LAYER
    r = planted_r(comparison, model, n, means, rng)
    layer = np.tile(np.arange(n_layers), PER_LAYER)  # undefined features spread over all layers
    undefined = np.isnan(r)
    depth = (layer + 1) / n_layers + rng.normal(0, 0.12, n)
    best_layer = np.clip(np.rint(depth * n_target - 1), 0, n_target - 1).astype(int)
    n_active = np.where(undefined, 0, rng.integers(40, 9000, n))
    partner = np.where(undefined, -1, rng.integers(0, PER_LAYER, n))
    best_layer = np.where(undefined, -1, best_layer)
    table = MATCHES.frame(
        {
            "comparison": [comparison] * n,
            "kind": [comparison_of(comparison).kind] * n,
            "model": [model] * n,
            "label": [label_of(comparison)] * n,
            "layer": layer,
            "feature": np.arange(n) // n_layers,
            "n_active": n_active,
            "freq": n_active / 90_000,
            "r": r,
            "best_model": [best_model] * n,
            "best_label": [best_label] * n,
            "best_layer": best_layer,
            "best_feature": partner,
            "runner_up_r": r * 0.9,
            "runner_up_layer": np.zeros(n),
            "runner_up_feature": np.zeros(n),
        }
    )
    return calibrated(table)


def calibrated(table: pl.DataFrame) -> pl.DataFrame:
    """The columns that classify a match, as if no control had a higher r.

    Of the homologs, features that are even are mutual, those that 3 divides have their best partner
    one to one, and those that 5 does not divide are stable.
    """
    r, feature = table["r"].to_numpy().astype(float), table["feature"].to_numpy()
    null = np.where(table["n_active"].to_numpy() < RARE, NULL_RARE, NULL_COMMON)
    significant = np.nan_to_num(r, nan=-1) > null + ABOVE
    homolog = significant & (np.nan_to_num(r, nan=-1) >= LEAST_R)
    one = homolog & (feature % 3 == 0)
    main = pl.col("comparison") == MAIN.name
    undefined = np.isnan(r)
    columns = {
        "null_r": np.where(undefined, np.nan, null),
        "threshold": np.where(undefined, np.nan, null + ABOVE),
        "p": np.where(undefined, np.nan, np.where(significant, 1e-5, 0.4)),
        "q": np.where(undefined, np.nan, np.where(significant, 1e-4, 0.5)),
        "excess": r - null,
        "mutual": homolog & (feature % 2 == 0),
        "partner_r": np.where(one, r, np.nan),
        "partner_layer": np.where(one, table["best_layer"], -1),
        "partner_feature": np.where(one, table["best_feature"], -1),
        "other_seed_r": 0.9 * r,
        "stable": homolog & (feature % 5 != 0),
        "homolog": homolog,
    }
    given = [pl.Series(name, values).cast(MATCHES.schema[name]) for name, values in columns.items()]
    table = table.with_columns(given)
    return table.with_columns(
        stable=pl.when(main).then("stable"), homolog=pl.when(main).then("homolog")
    )


def shared_of(
    matches: pl.DataFrame, compared: tuple[str, ...], withheld: set[tuple[str, str]]
) -> list[dict[str, Any]]:
    """Rows of shared.parquet, counted from the matches."""
    rows = []
    for model, target in ((a, b) for a in compared for b in compared if a != b):
        alive_rows = matches.filter(pl.col("n_active") > 0, model=model)
        own = matches.filter(comparison=MAIN.name, model=model, best_model=target)
        alive = alive_rows.filter(comparison=MAIN.name, best_model=target)
        again = alive_rows.filter(pl.col("r").is_finite(), comparison=SAE_SEED.name)
        passed = (again["r"] >= again["threshold"]) & (again["r"] >= LEAST_R)
        share = alive["homolog"].sum() / len(alive)
        given = (model, target) not in withheld
        shares = {
            "share": share,
            "lo": share - 0.03,
            "hi": share + 0.02,
            "ceiling": passed.sum() / len(alive) if len(again) else None,
            "share_significant": float((alive["q"] <= FDR).mean()),
            "share_mutual": alive["mutual"].sum() / len(alive),
            "share_one_to_one": float((alive["partner_feature"] >= 0).mean()),
            "share_stable": alive["stable"].sum() / len(alive),
        }
        rows.append(
            {
                "model": model,
                "best_model": target,
                "n_features": len(own),
                "n_alive": len(alive),
                "mean_r": float(np.nanmean(alive["r"])),
                "mean_excess": float(np.nanmean(alive["excess"])),
                **(shares if given else dict.fromkeys(shares)),
                "given": given,
                "reason": "" if given else f"dictionaries of {target} miss their gates",
                "words": f"The planted words on {model} in {target}."
                if given
                else f"No words on {model}.",
            }
        )
    return rows


def variance_of(compared: tuple[str, ...]) -> pl.DataFrame:
    shares = {
        "architecture": 0.04,
        "model seed": 0.02,
        "SAE seed": 0.05,
        "depth": 0.11,
        "feature": 0.6,
        "residual": 0.18,
    }
    return VARIANCE.frame(
        {"model": model, "factor": factor, "share": share, "n": 500}
        for model in compared
        for factor, share in shares.items()
    )


def layers_of(matches: pl.DataFrame) -> pl.DataFrame:
    """Every layer pair: the mean max r falls with the distance in depth."""
    rows = []
    for keys in matches.select(*DIRECTION).unique(maintain_order=True).iter_rows(named=True):
        n_a, n_b = N_LAYERS[keys["model"]], n_layers_of(keys["best_model"])
        main = keys["comparison"] == MAIN.name
        for i in range(n_a):
            for j in range(n_b):
                mean = 0.65 - 0.5 * abs((i + 1) / n_a - (j + 1) / n_b)
                rows.append(
                    {
                        **keys,
                        "layer": i,
                        "best_layer": j,
                        "n_features": PER_LAYER,
                        "n_defined": PER_LAYER - 5,
                        "mean": mean,
                        "q10": mean - 0.3,
                        "q25": mean - 0.15,
                        "median": mean,
                        "q75": mean + 0.15,
                        "q90": mean + 0.3,
                        "cka": 1.2 * mean if main else None,
                        "svcca": mean + 0.1 if main else None,
                        "decoder_rsa": mean - 0.5 if main else None,
                        "n_pairs": 40 + j if main else None,
                    }
                )
    return LAYERS.frame(rows)


def summary_of(matches: pl.DataFrame) -> pl.DataFrame:
    rows = []
    for keys, group in matches.group_by(*DIRECTION, maintain_order=True):
        for stratum, floor, half in (
            ("all", -1, 0.012),
            ("alive", 0, 0.012),
            ("frequent", 90, 0.02),
        ):
            r = group.filter(pl.col("n_active") > floor)["r"].to_numpy()
            defined = r[~np.isnan(r)]
            mean, median = float(defined.mean()), float(np.median(defined))
            rows.append(
                dict(zip(DIRECTION, keys, strict=True))
                | {
                    "stratum": stratum,
                    "n_features": len(r),
                    "n_undefined": int(np.isnan(r).sum()),
                    "mean": mean,
                    "mean_lo": mean - half,
                    "mean_hi": mean + half,
                    "median": median,
                    "median_lo": median - 2 * half,
                    "median_hi": median + 2 * half,
                    "share_above_07": float((defined > 0.7).mean()),
                }
            )
    return SUMMARY.frame(rows)


def saes_of(failing: set[tuple[str, int]], compared: tuple[str, ...]) -> pl.DataFrame:
    rows = []
    sets = [(model, label) for label in ("sae", "seed1") for model in compared]
    sets += [(f"{family(model)}-{twin}", "sae") for twin in ("s1", "random") for model in compared]
    for order, (model, label) in enumerate(sets):
        n_layers = n_layers_of(model)
        random = "random" in model
        for layer in range(n_layers):
            depth = (layer + 1) / n_layers
            failed = label == "sae" and (model, layer) in failing
            rows.append(
                {
                    "model": model,
                    "label": label,
                    "layer": layer,
                    "kind": "relu",
                    "d_sae": 768,
                    "sparsity": 0.3,
                    "tokens_trained": 262_144,
                    "explained_variance": 0.95 - 0.12 * depth - 0.004 * order,
                    "l0": 24 + 40 * depth + order,
                    "dead_share": 0.02 + 0.06 * depth,
                    "sink_share": 0.003,
                    "loss_clean": 3.4,
                    "loss_spliced": 3.4 + 0.3 * depth,
                    "loss_ablated": 6.9,
                    "loss_recovered": float("nan")
                    if random
                    else 0.99 - 0.07 * depth - 0.002 * order,
                    "passed": not failed,
                    "reason": "explained variance 0.41 is below 0.60" if failed else "",
                }
            )
    return SAES.frame(rows)


def make_run(
    folder: Path,
    *,
    name: str = "demo",
    compared: tuple[str, ...] = (A, B),
    means: Mapping[str, float] | None = None,
    failing: frozenset[tuple[str, int]] | set[tuple[str, int]] = frozenset(),
    withheld: frozenset[tuple[str, str]] | set[tuple[str, str]] = frozenset(),
    drop: frozenset[str] | set[str] = frozenset(),
    edit: Callable[[dict[str, Any]], None] | None = None,
) -> Path:
    """Write a run folder; returns its path.

    compared: models compared, of A, B and C.  means: Beta means that replace CONTROL_MEAN (a "main"
    entry replaces the planted shares).  failing: (model, layer) of dictionaries that miss their
    gates.  withheld: (model, best_model) of verdicts not given.  drop: comparisons left out.  edit:
    called with run.json's object.
    """
    rng = np.random.default_rng(7)
    folder.mkdir(parents=True, exist_ok=True)
    known = CONTROL_MEAN | dict(means or {})
    matches = pl.concat(
        [
            matches_of(comparison, model, target, known, rng)
            for comparison in COMPARISONS
            if comparison not in drop
            for model in compared
            for target in targets_of(comparison, model, compared)
        ]
    )
    shared = SHARED.frame(shared_of(matches, compared, set(withheld)))
    frames = {
        MATCHES: matches,
        LAYERS: layers_of(matches),
        SUMMARY: summary_of(matches),
        SAES: saes_of(set(failing), compared),
        SHARED: shared,
        VARIANCE: variance_of(compared),
    }
    for table, frame in frames.items():
        table.write(frame, folder / table.file)
    run = run_json(name, compared) | {"verdicts": shared.to_dicts()}
    if edit is not None:
        edit(run)
    write_record(folder, run)
    return folder


def changed(path: Path, table: Table, *columns: pl.Expr, rows: int | None = None) -> Path:
    """The run with other values in columns of a table, or only its first rows; returns its path."""
    frame = table.read(path / table.file).with_columns(*columns)
    table.write(frame if rows is None else frame.head(rows), path / table.file)
    return path
