"""Every convention of other libraries comes down to the form of `SparseAutoencoder`, exactly.

Their encoder and decoder, s and t being the scales by which they multiply inputs and outputs:

    p = (s x - c) W_enc + b_enc,   f = activation(p),   x' = (f W_dec + b_dec) / t

Ours, with b = b_dec / t:

    p = (x - b) s W_enc + b_enc + (s b - c) W_enc,   x' = f W_dec / t + b

p and f are the same numbers, so thresholds and k stay.  c is b_dec where they subtract it before
encoding, else 0. `unit_decoder` moves the norms n of the decoder's rows into the encoder: p and f
are then n times theirs, and so are thresholds.  For the k largest that is another choice of
features, unless they choose by n p too.

An encoder of several vectors is brought to this form first (`Kind.encoder`).  All in float64,
rounded to float32 once.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch

from homolog.dictionaries.base import SparseAutoencoder


@dataclass(frozen=True, eq=False)
class ForeignWeights:
    """As another library has them, in any float dtype."""

    W_enc: torch.Tensor
    """(d_model, d_sae)"""
    b_enc: torch.Tensor
    """(d_sae,)"""
    W_dec: torch.Tensor
    """(d_sae, d_model)"""
    b_dec: torch.Tensor
    """(d_model,)"""
    threshold: torch.Tensor | None = None
    """(d_sae,) in units of p, where those below 0 mean 0."""


@dataclass(frozen=True)
class Convention:
    """How another library applies its weights."""

    centred: bool = True
    """b_dec is subtracted before encoding: c is b_dec, else 0."""
    input_scale: float = 1.0
    """s"""
    output_scale: float = 1.0
    """t"""
    unit_decoder: bool = False
    """Norms of decoder rows move into the encoder."""


def folded(
    weights: ForeignWeights,
    convention: Convention,
    kind: str,
    k: int | None = None,
    metadata: Mapping[str, Any] | None = None,
) -> SparseAutoencoder:
    """The dictionary with everything folded in.

    k: of kinds that keep a token's k largest; above d_sae it means d_sae.
    """
    w, threshold, s = weights, weights.threshold, convention.input_scale
    W_enc, b_enc, W_dec, b_dec = w.W_enc, w.b_enc, w.W_dec, w.b_dec
    if threshold is not None:
        threshold = threshold.double().clamp(min=0)
    if convention != Convention():  # else nothing is left to fold
        W_enc, b_enc, W_dec, b_dec = (a.double() for a in (W_enc, b_enc, W_dec, b_dec))
        centre = b_dec if convention.centred else 0
        b_dec = b_dec / convention.output_scale
        b_enc = b_enc + (s * b_dec - centre) @ W_enc
        W_enc, W_dec = W_enc * s, W_dec / convention.output_scale
        if convention.unit_decoder:
            norms = W_dec.norm(dim=1)
            W_enc, b_enc = W_enc * norms, b_enc * norms
            W_dec = W_dec / torch.where(norms > 0, norms, 1)[:, None]
            threshold = None if threshold is None else threshold * norms
    return SparseAutoencoder(
        *(a.float().contiguous() for a in (W_enc, b_enc, W_dec, b_dec)),
        kind=kind,
        k=None if k is None else min(k, W_enc.shape[1]),
        threshold=None if threshold is None else threshold.float(),
        metadata=metadata or {},
    )


def uncentred(sae: SparseAutoencoder) -> torch.Tensor:
    """b_enc of the same encoder without a centre: p = x W_enc + this.  float32, from float64."""
    return (sae.b_enc.double() - sae.b_dec.double() @ sae.W_enc.double()).float()
