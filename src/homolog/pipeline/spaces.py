"""Similarity of spaces beside single features: residual streams, decoders of matched features."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import torch

from homolog.analyses.material import Material
from homolog.corpus import TokenWindows
from homolog.corpus.together import Alignment
from homolog.features import capture_residuals
from homolog.matching import PairMatch
from homolog.matching.homologs import LEAST_R
from homolog.matching.spaces import SpaceMoments, decoder_similarity
from homolog.pipeline.dictionaries import shards_of
from homolog.pipeline.matches import read_pair
from homolog.pipeline.text import MATCH
from homolog.record.sides import Side, StudyModel

Row = dict[str, Any]


def compare_residuals(
    material: Material, a: StudyModel, b: StudyModel, threads: int | None
) -> dict[tuple[int, int], Row]:
    """Task: CKA and SVCCA of the pairs of layers, on the first `matching.space_tokens` tokens.

    Where the tokenizers differ, those are the tokens of A, and compared are the ends of units.
    """
    text, other = (material.windows(MATCH, model.name) for model in (a, b))
    text = text[: -(-material.recipe.matching.space_tokens // text.context)]
    same = material.texts_of(a.name, b.name) is None
    sides = [(material.model(model), material.layers(model.name)) for model in (a, b)]
    widths = [[model.d_model] * len(layers) for model, layers in sides]
    moments = SpaceMoments(*widths, device=material.recipe.run.device, threads=threads)
    larger, held = max(sides, key=lambda side: len(side[1]) * side[0].d_model)
    for shard in shards_of(material, larger, text, len(held)):
        part = shard.of(text)
        parts, rows = ((part, part), None) if same else _ends_of_units(part, other)
        residuals = [
            capture_residuals(model, own, layers)
            for (model, layers), own in zip(sides, parts, strict=True)
        ]
        if rows is not None:
            residuals = [
                {i: x[torch.from_numpy(last).to(x.device)] for i, x in layers.items()}
                for layers, last in zip(residuals, rows, strict=True)
            ]
        moments.add(*([layers[i] for i in sorted(layers)] for layers in residuals))
    similarity = moments.similarity()
    return {
        (own, other): {"cka": float(similarity.cka[i, j]), "svcca": float(similarity.svcca[i, j])}
        for i, own in enumerate(sides[0][1])
        for j, other in enumerate(sides[1][1])
    }


def _ends_of_units(a: TokenWindows, b: TokenWindows) -> tuple[Any, Any]:
    """Windows of A, those of B that begin in their text, and the rows of both where units end."""
    assert a.bounds is not None and b.bounds is not None
    order = np.argsort(a.bounds[:, 0])
    begin, end = (a.bounds[order, place] for place in (0, -1))
    at = np.searchsorted(begin, b.bounds[:, 0], "right") - 1
    b = b[np.flatnonzero((at >= 0) & (b.bounds[:, 0] < end[at]))]
    units = Alignment.of(a, b).units
    return (a, b), (units.last_a, units.last_b)


def compare_decoders(
    material: Material,
    a: Side,
    layer: int,
    b: Side,
    files: list[tuple[Path, str]],
) -> list[Row]:
    """Task: decoder directions of a layer against those of each layer of the partner.

    files: the finished pairs of layers, with their keys.  Compared are features that are each
    other's best within the pair of layers, with the r that a homolog has at least by the default
    margin, so that they are the same by whatever margin a run is judged; best first.
    """
    own, rows = _decoder(material, a, layer), []
    for other, (path, key) in zip(material.layers(b.model.name), files, strict=True):
        i, j = _matched(read_pair(path, key), LEAST_R)
        similarity = decoder_similarity(own[i], _decoder(material, b, other)[j])
        of_pairs = {"decoder_rsa": similarity.rsa, "decoder_svcca": similarity.svcca}
        rows.append(of_pairs | {"n_pairs": len(i)})
    return rows


def _decoder(material: Material, side: Side, layer: int) -> torch.Tensor:
    return material.sae(side.model.name, layer, side.label).W_dec


def _matched(pair: PairMatch, least_r: float) -> tuple[torch.Tensor, torch.Tensor]:
    best, r = pair.a_to_b.index[:, 0], pair.a_to_b.r[:, 0]
    own = np.arange(len(best))
    back = np.append(pair.b_to_a.index[:, 0], -1)[best]
    mutual = np.flatnonzero((best >= 0) & (back == own) & (r >= least_r))
    mutual = mutual[np.argsort(-r[mutual], kind="stable")]
    return torch.from_numpy(mutual), torch.from_numpy(best[mutual])
