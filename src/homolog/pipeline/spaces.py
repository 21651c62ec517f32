"""Similarity of the spaces beside single features: residual streams of two models, decoders over
matched features.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import torch

from homolog import dictionaries
from homolog.features import capture_residuals
from homolog.matching import PairMatch
from homolog.matching.spaces import SpaceMoments, decoder_similarity
from homolog.pipeline import subject as work
from homolog.pipeline.matches import read_pair
from homolog.pipeline.plan import Subject
from homolog.pipeline.recipe import Recipe

Rows = list[dict[str, Any]]


def compare_residuals(
    run: Path, recipe: Recipe, a: Subject, b: Subject, threads: int | None
) -> Rows:
    """Task: CKA and SVCCA of all layer pairs of two models on the first `matching.space_tokens`
    matched tokens.
    """
    text = work.windows_of(run, "match")
    text = text[: -(-recipe.matching.space_tokens // text.context)]
    models = [work.load_subject(subject, recipe) for subject in (a, b)]
    widths = [[model.d_model] * model.n_layers for model in models]
    moments = SpaceMoments(*widths, device=recipe.run.device, threads=threads)
    for shard in work.shards_of(
        max(models, key=lambda model: model.n_layers * model.d_model), text, recipe
    ):
        part = shard.of(text)
        residuals = [capture_residuals(model, part, range(model.n_layers)) for model in models]
        moments.add(*([found[layer] for layer in sorted(found)] for found in residuals))
    found = moments.similarity()
    return [
        {
            "model": a.name,
            "layer": i,
            "best_model": b.name,
            "best_layer": j,
            "cka": float(found.cka[i, j]),
            "svcca": float(found.svcca[i, j]),
        }
        for i in range(models[0].n_layers)
        for j in range(models[1].n_layers)
    ]


def compare_decoders(
    sae_a: Path,
    saes_b: list[Path],
    files: list[tuple[Path, str]],
    least_r: float,
) -> Rows:
    """Task: decoder directions of one layer of A against those of each layer of B, over matched
    pairs of features.

    files: the finished pairs of layers, with their keys.  Matched are features that are each
    other's best within the pair of layers, with r of `least_r` or more; the best come first.
    """
    own, rows = dictionaries.load(sae_a).W_dec, []
    for folder, (path, key) in zip(saes_b, files, strict=True):
        i, j = _matched(read_pair(path, key), least_r)
        found = decoder_similarity(own[i], dictionaries.load(folder).W_dec[j])
        rows.append({"decoder_rsa": found.rsa, "decoder_svcca": found.svcca, "n_pairs": len(i)})
    return rows


def _matched(pair: PairMatch, least_r: float) -> tuple[torch.Tensor, torch.Tensor]:
    best, r = pair.a_to_b.index[:, 0], pair.a_to_b.r[:, 0]
    own = np.arange(len(best))
    matched = np.flatnonzero(
        (best >= 0) & (np.append(pair.b_to_a.index[:, 0], -1)[best] == own) & (r >= least_r)
    )
    matched = matched[np.argsort(-r[matched], kind="stable")]
    return torch.from_numpy(matched), torch.from_numpy(best[matched])
