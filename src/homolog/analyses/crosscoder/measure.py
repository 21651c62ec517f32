"""A crosscoder of two blocks of two models, and what it says of the features that were matched.

It learns from the training text, and is measured on the matched text, which no dictionary has seen.
Of every feature of the two blocks the latent is sought that correlates with it best: a feature with
a homolog should follow a latent that both models have, an exclusive one a latent of its own model.
Rows are tokens; where the tokenizers differ, the last token of each unit.
"""

from __future__ import annotations

from typing import Any

import polars as pl
import torch

from homolog.analyses.analysis import Tables
from homolog.analyses.material import Material
from homolog.analyses.residuals import residual_readers
from homolog.analyses.stream import shape_of
from homolog.analyses.transplant.measure import similar_blocks
from homolog.dictionaries import (
    Crosscoder,
    CrosscoderSettings,
    LatentScaling,
    Place,
    TrainingConfig,
    latent_scaling,
    latent_table,
    train_crosscoder,
)
from homolog.dictionaries.variance import norms_of, sink_share
from homolog.features.sinks import LayerNorms, above_limits, any_of, limits_of
from homolog.matching import max_pearson
from homolog.record.comparisons import MAIN
from homolog.record.tables import (
    CROSSCODER_FEATURES,
    CROSSCODER_LATENTS,
    CROSSCODERS,
    MATCHES,
)
from homolog.record.tables.describing import MATCH_KEY


def measure_pair(material: Material, a: str, b: str) -> Tables:
    """Task: the crosscoder of two models, its latents, and the features that follow them."""
    blocks = similar_blocks(material, a, b, material.recipe.crosscoder.block, "crosscoder")
    trained, n_trained = _trained(material, (a, b), blocks)
    trained.save(material.run.crosscoder_folder(a, b))
    read_a, read_b, _ = residual_readers(material, a, b, use="match")
    residuals = read_a(blocks[0]), read_b(blocks[1])
    latents, scaling = trained.encode(*residuals), latent_scaling(trained, *residuals)
    n_rows = shape_of(latents)[0]
    one, other = scaling.explained_variance
    pair = {"model": a, "best_model": b}
    facts = {
        "layer": blocks[0],
        "best_layer": blocks[1],
        "d_sae": trained.n_latents,
        "n_trained": n_trained,
        "n_rows": n_rows,
        "l0": latents.nnz / n_rows,
        "explained_variance": one,
        "best_explained_variance": other,
    }
    rows = latent_rows(trained, scaling)
    sides = ((a, blocks[0], b), (b, blocks[1], a))
    following = [
        followed(
            material.features(own, block, beside=other).matrix,
            latents,
            rows["owner"],
            model=own,
            layer=block,
            best_model=other,
        )
        for own, block, other in sides
    ]
    return {
        CROSSCODERS.name: CROSSCODERS.frame([pair | facts]),
        CROSSCODER_LATENTS.name: CROSSCODER_LATENTS.frame(
            rows.with_columns(pl.lit(name).alias(key) for key, name in pair.items())
        ),
        CROSSCODER_FEATURES.name: pl.concat(following),
    }


def with_verdicts(material: Material, frames: Tables) -> Tables:
    """The features with the study's verdict on each."""
    verdicts = MATCHES.read(material.run.table(MATCHES), ["comparison", *MATCH_KEY, "homolog"])
    verdicts = verdicts.filter(comparison=MAIN.name).select(*MATCH_KEY, "homolog")
    features = frames[CROSSCODER_FEATURES.name].drop("homolog")
    judged = features.join(verdicts, on=MATCH_KEY, how="left", maintain_order="left")
    return {**frames, CROSSCODER_FEATURES.name: CROSSCODER_FEATURES.frame(judged)}


def latent_rows(crosscoder: Crosscoder, scaling: LatentScaling) -> pl.DataFrame:
    """The latents of a crosscoder of two models, without the names of these."""
    first, second = crosscoder.models
    names = {"class": "owner"}
    for name in ("norm", "error", "reconstruction"):
        names |= {f"{name} {first}": name, f"{name} {second}": f"best_{name}"}
    return latent_table(crosscoder, scaling).rename(names)


def _trained(
    material: Material, pair: tuple[str, str], blocks: tuple[int, int]
) -> tuple[Crosscoder, int]:
    """The crosscoder, and the rows that it learnt from."""
    asked = material.recipe.crosscoder
    read_a, read_b, _ = residual_readers(material, *pair, asked.tokens, use="train")
    residuals = read_a(blocks[0]), read_b(blocks[1])
    keep = torch.ones(len(residuals[0]), dtype=torch.bool)
    if material.recipe.corpus.sinks == "mask":
        for x in residuals:
            keep &= ~_is_sink(x)
    n_rows = int(keep.sum())
    trained = train_crosscoder(
        dict(zip(pair, residuals, strict=True)),
        CrosscoderSettings(d_sae=asked.d_sae, k=asked.k, dedicated=asked.dedicated),
        TrainingConfig(**asked.training, n_tokens=n_rows * asked.epochs, seed=material.seed),
        keep=keep,
        on=Place(material.recipe.run.device),
    )
    return trained, n_rows


def _is_sink(x: torch.Tensor) -> torch.Tensor:
    """Which rows are sinks, where these hold much of the variance, as in every training."""
    norms = LayerNorms(0, float(torch.from_numpy(norms_of(x)).median()), sink_share(x))
    limits = limits_of([norms])
    return any_of(above_limits({0: x}, limits)) if limits else torch.zeros(len(x), dtype=torch.bool)


def followed(
    features: Any, latents: Any, owners: pl.Series, *, model: str, layer: int, best_model: str
) -> pl.DataFrame:
    """`CROSSCODER_FEATURES` of a block: each feature with the latent that correlates with it best.

    features, latents: CSR (tokens, features), row t of both the same token.  owners: of each
    latent.
    """
    best = max_pearson(features, latents).a_to_b
    latent, n = best.index[:, 0], best.index.shape[0]
    owner = [owners[int(i)] if i >= 0 else None for i in latent]
    return CROSSCODER_FEATURES.frame(
        {
            "model": [model] * n,
            "layer": [layer] * n,
            "feature": range(n),
            "best_model": [best_model] * n,
            "homolog": [None] * n,
            "latent": latent,
            "r": best.r[:, 0],
            "owner": owner,
        }
    )
