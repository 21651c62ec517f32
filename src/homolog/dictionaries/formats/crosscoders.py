"""Crosscoders in the layout of dictionary_learning: models of one width, a stream each.

    ae.pt    encoder.weight (stream, d_model, d_sae), encoder.bias (d_sae),
             decoder.weight (stream, d_sae, d_model), decoder.bias (stream, d_model);
             of BatchTopKCrossCoder also k, threshold and code_normalization_id

    CrossCoder            f = relu(sum_m x_m E_m + e),  x'_m = f D_m + d_m
    BatchTopKCrossCoder   the same where n f > threshold

n is, of each latent, the sum of its decoders' norms (code_normalization_id 1, or none), the norm of
all together (2), or 1 (4).  Features are then n f here, which is what the library's
`get_activations` gives.  A normalisation, y_m = (x_m - activation_mean) activation_global_scale
around both, is folded in.  Source: dictionary_learning (saprmarks) and its branch for model diffing
(science-of-finetuning), dictionary.py.

Here a crosscoder is a dictionary of the joined, scaled stream (`streams`).  We write raw residuals'
weights, n = 1, and read back what we wrote with the models' own scales.
"""

from __future__ import annotations

from typing import Any

import torch

from homolog.dictionaries.base import SparseAutoencoder
from homolog.dictionaries.formats.folding import Convention, ForeignWeights, folded, uncentred
from homolog.dictionaries.formats.reading import Tensors
from homolog.dictionaries.kinds import batchtopk, carrier
from homolog.dictionaries.streams import FACTS, Streams
from homolog.errors import InputError

PLAIN, BATCHTOPK = NAMES = ("CrossCoder", "BatchTopKCrossCoder")
_SUM, _JOINT, _NONE = 1, 2, 4
_WEIGHTS = ("encoder.weight", "encoder.bias", "decoder.weight", "decoder.bias")
_CHOICE = ("k", "threshold", "code_normalization_id")
_NORMAL = ("activation_mean", "activation_std", "activation_global_scale", "target_rms")


def read(tensors: Tensors, name: str, facts: dict[str, Any]) -> SparseAutoencoder:
    """The dictionary of the joined stream.  facts: its metadata, ours or what is known."""
    tensors.only(*_WEIGHTS, *_CHOICE, *_NORMAL)
    shape = tuple(tensors.values.get("encoder.weight", torch.empty(0)).shape)
    if len(shape) != 3 or shape[0] < 2:
        expected = "(stream, d_model, d_sae), of two streams or more"
        tensors.refuse("encoder.weight", f"of shape {shape}", expected)
    n, d_model, d_sae = shape
    shapes = shape, (d_sae,), (n, d_sae, d_model), (n, d_model)
    E, e, D, d = (tensors.take(*pair).double() for pair in zip(_WEIGHTS, shapes, strict=True))
    threshold, norms = None, torch.ones(d_sae, dtype=torch.float64)
    if name == BATCHTOPK:
        threshold, norms = tensors.take("threshold", ()).double(), _norms(tensors, D)
        if threshold < 0:
            words = "0 or above: it was not estimated yet"
            tensors.refuse("threshold", float(threshold), words, "Take a later checkpoint.")
    mean, scale = _normalisation(tensors, (n, d_model))
    models = tuple(f"stream {number}" for number in range(n))
    streams = Streams(models, (d_model,) * n, (scale,) * n)
    if FACTS in facts:
        streams = Streams.of(facts[FACTS])
        if streams.widths != (d_model,) * n:
            expected = f"{n} models of width {d_model}, as in {tensors.path.name}"
            tensors.refuse(f"homolog.{FACTS}", facts[FACTS], expected)
        s = torch.tensor(streams.scales, dtype=torch.float64)[:, None]
        E, D, d = E / s[..., None], D * s[..., None], d * s
    e = e - scale * torch.einsum("ld,ldf->f", mean, E)
    W_enc, W_dec = E.reshape(-1, d_sae) * norms, D.transpose(0, 1).reshape(d_sae, -1)
    W_dec = W_dec / torch.where(norms > 0, norms, 1)[:, None]
    bias = (d + scale * mean).flatten()
    given = None if threshold is None else threshold.expand(d_sae)
    kind = carrier("plain") if threshold is None else batchtopk.KIND
    return folded(
        ForeignWeights(W_enc, e * norms, W_dec, bias, given),
        Convention(centred=False),
        kind.name,
        metadata={"model": " + ".join(streams.models), **facts, FACTS: streams.facts()},
    )


def tensors_of(sae: SparseAutoencoder) -> tuple[str, dict[str, torch.Tensor]]:
    """The library's class of a crosscoder, and what it holds.

    InputError where the layout cannot hold it.
    """
    streams, threshold, remedy = Streams.of(sae.metadata[FACTS]), sae.threshold, "Write homolog."
    if len(set(streams.widths)) > 1:
        requirement = "dictionary_learning has crosscoders of models of one width alone"
        raise InputError("widths", list(streams.widths), requirement, remedy)
    one_threshold = threshold is None or bool((threshold == threshold[0]).all())
    if sae.k is not None or not one_threshold:
        requirement = "dictionary_learning has crosscoders with one threshold for all latents alone"
        raise InputError("kind", sae.kind, requirement, remedy)
    shape = len(streams.models), streams.widths[0]
    s = torch.tensor(streams.scales, dtype=torch.float64)[:, None]
    E = sae.W_enc.double().reshape(*shape, sae.d_sae) * s[..., None]
    D = sae.W_dec.double().reshape(sae.d_sae, *shape).transpose(0, 1) / s[..., None]
    values = E, uncentred(sae), D, sae.b_dec.double().reshape(shape) / s
    tensors = {name: w.float().contiguous() for name, w in zip(_WEIGHTS, values, strict=True)}
    if threshold is None:
        return PLAIN, tensors
    k = torch.tensor((sae.metadata.get("config") or {}).get("k", 1), dtype=torch.int)
    choice = k, threshold[0], torch.tensor(_NONE)
    tensors.update(zip(_CHOICE, choice, strict=True))
    return BATCHTOPK, tensors


def _norms(tensors: Tensors, D: torch.Tensor) -> torch.Tensor:
    """n of each latent."""
    key = "code_normalization_id"
    which = tensors.integer(key) if key in tensors.values else _SUM
    if which not in (_SUM, _JOINT, _NONE):
        expected = f"{_SUM}, {_JOINT} or {_NONE}"
        tensors.refuse(key, which, expected, "Others choose latents for each model apart.")
    of_models = D.norm(dim=2)
    if which == _NONE:
        return torch.ones_like(of_models[0])
    return of_models.sum(0) if which == _SUM else of_models.square().sum(0).sqrt()


def _normalisation(tensors: Tensors, shape: tuple[int, int]) -> tuple[torch.Tensor, float]:
    """Mean (stream, d_model) and scale; 0 and 1 where there is none, or it was never set."""
    stored = tensors.values.get("activation_mean")
    if stored is None or bool(stored.isnan().all()):
        return torch.zeros(shape, dtype=torch.float64), 1.0
    mean, scale = tensors.take("activation_mean", shape), tensors.take(_NORMAL[2], ())
    if not float(scale) > 0:
        tensors.refuse(_NORMAL[2], float(scale), "above 0")
    return mean.double(), float(scale)
