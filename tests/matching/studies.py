"""Small tables of matches whose homologs are known by hand."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
import polars as pl

from homolog.matching.homologs import Baseline, Criterion, classify

NAN = float("nan")
UNTRAINED = {"A": "A-random", "B": "B-random"}
GOOD = pl.DataFrame(
    [
        (m, label, layer, True, "passed")
        for m in "AB"
        for label in ("sae", "seed1")
        for layer in (0, 1)
    ],
    schema=["model", "label", "layer", "passed", "reason"],
    orient="row",
)


def rows(comparison: str, model: str, best_model: str, r: list[float], **columns) -> pl.DataFrame:
    """One layer's rows of a comparison; features without r are dead unless n_active says it.

    columns: `label` and `best_label` are those of the main dictionaries unless given.
    """
    n = len(r)
    return pl.DataFrame(
        {
            "comparison": [comparison] * n,
            "model": [model] * n,
            "label": [columns.pop("label", "sae")] * n,
            "layer": np.zeros(n, dtype=np.int32),
            "feature": np.arange(n, dtype=np.int32),
            "n_active": columns.pop("n_active", np.where(np.isnan(r), 0, 9)),
            "r": np.array(r, dtype=np.float32),
            "best_model": [best_model] * n,
            "best_label": [columns.pop("best_label", "sae")] * n,
            "best_layer": np.zeros(n, dtype=np.int32),
            "best_feature": np.array(columns.pop("best_feature", range(n)), dtype=np.int32),
            "threshold": np.array(columns.pop("threshold", [NAN] * n), dtype=np.float32),
            **columns,
        }
    )


def small_study() -> pl.DataFrame:
    """Six features of A, of which one is a homolog.

    Above all; below the twin; equal to the token; below the floor; not significant; dead.
    """
    return pl.concat(
        [
            rows("random-model", "A", "B-random", [0.2, 0.9, 0.1, 0.1, 0.1, NAN]),
            rows(
                "main",
                "A",
                "B",
                [0.8, 0.7, 0.6, 0.15, 0.5, NAN],
                threshold=[0.1, 0.1, 0.1, 0.1, 0.55, NAN],
            ),
            rows("rotated", "A", "B", [0.5, 0.2, 0.3, 0.1, 0.1, NAN], best_label="rotated"),
            rows("tokens", "A", "current-token", [0.3, 0.1, 0.6, 0.1, 0.1, NAN]),
            rows(
                "sae-seed",
                "A",
                "A",
                [0.9, 0.8, 0.7, 0.9, 0.15, NAN],
                best_label="seed1",
                threshold=[0.1] * 5 + [NAN],
            ),
        ]
    )


def criterion(untrained: Mapping[str, str] = UNTRAINED, **options: float) -> Criterion:
    twins = {model: (twin, "sae") for model, twin in untrained.items()}
    rotated = {model: (model, "rotated") for model in "ABC"}
    baselines = (
        Baseline("random-model", "an untrained {}", twins),
        Baseline("rotated", "{} with rotated dictionaries", rotated),
        Baseline("tokens", "the current token"),
    )
    return Criterion("main", baselines, **options)


def classified(
    matches: pl.DataFrame, untrained: Mapping[str, str] = UNTRAINED, **options: float
) -> pl.DataFrame:
    return classify(matches, criterion(untrained, **options))
