"""Similarity of spaces beside single features: residual streams, decoders of matched features."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import torch

from homolog.analyses.material import Material
from homolog.corpus import TokenWindows
from homolog.corpus.together import Alignment
from homolog.features import capture
from homolog.matching import PairMatch
from homolog.matching.homologs import LEAST_R
from homolog.matching.principal import similarity, turned
from homolog.matching.spaces import decoder_similarity
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
    texts, rows = ((text, text), (None, None)) if same else _ends_of_units(text, other)
    device, scores = torch.device(material.recipe.run.device), []
    for model, windows, last in zip((a, b), texts, rows, strict=True):
        loaded, layers = material.model(model), material.layers(model.name)
        streams = capture(loaded, windows, [loaded.own_site(layer) for layer in layers])
        if last is not None:
            streams = [x[torch.from_numpy(last)] for x in streams]
        scores.append(turned(streams, device=device, threads=threads))
    found = similarity(*scores, threads=threads)
    return {
        (own, other): {"cka": float(found.cka[i, j]), "svcca": float(found.svcca[i, j])}
        for i, own in enumerate(material.layers(a.name))
        for j, other in enumerate(material.layers(b.name))
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
