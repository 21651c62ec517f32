"""Every convention of other libraries comes down to the form of `SparseAutoencoder`, exactly.

Their encoder and decoder, s and t being the scales by which they multiply inputs and outputs:

    p = (s x - c) W_enc + b_enc,   f = activation(p),   x' = (f W_dec + b_dec) / t

Ours, with b = b_dec / t:

    p = (x - b) s W_enc + b_enc + (s b - c) W_enc,   x' = f W_dec / t + b

p and f are the same numbers, so thresholds and k stay.  c is b_dec where they subtract it before
encoding, else 0. `unit_decoder` moves the norms n of the decoder's rows into the encoder: p and f
are then n times theirs, and so are thresholds.  For TopK that is another choice of features, unless
they choose by n p too.

A gated encoder is one with a threshold first (`losses.fold_gated`).  All in float64, rounded to
float32 once.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch

from homolog.dictionaries.base import Kind, SparseAutoencoder


def folded(
    W_enc: torch.Tensor,
    b_enc: torch.Tensor,
    W_dec: torch.Tensor,
    b_dec: torch.Tensor,
    *,
    kind: Kind,
    k: int | None = None,
    threshold: torch.Tensor | None = None,
    centre: torch.Tensor | None = None,
    input_scale: float = 1.0,
    output_scale: float = 1.0,
    unit_decoder: bool = False,
    metadata: Mapping[str, Any] | None = None,
) -> SparseAutoencoder:
    """The dictionary with the centre (c; None is 0), scales (s, t) and decoder norms folded in.

    W_enc (d_model, d_sae), b_enc (d_sae,), W_dec (d_sae, d_model), b_dec (d_model,), threshold
    (d_sae,) in units of p, where those below 0 mean 0.  Any float dtype.  A k above d_sae means
    d_sae: all features may be active.
    """
    if threshold is not None:
        threshold = threshold.double().clamp(min=0)
    if not (centre is b_dec and input_scale == output_scale == 1 and not unit_decoder):
        W_enc, b_enc, W_dec, b_dec = (w.double() for w in (W_enc, b_enc, W_dec, b_dec))
        b_dec = b_dec / output_scale
        offset = input_scale * b_dec
        b_enc = b_enc + (offset if centre is None else offset - centre.double()) @ W_enc
        W_enc, W_dec = W_enc * input_scale, W_dec / output_scale
        if unit_decoder:
            norms = W_dec.norm(dim=1)
            W_enc, b_enc = W_enc * norms, b_enc * norms
            W_dec = W_dec / torch.where(norms > 0, norms, 1)[:, None]
            threshold = None if threshold is None else threshold * norms
    k = None if k is None else min(k, W_enc.shape[1])
    weights = (w.float().contiguous() for w in (W_enc, b_enc, W_dec, b_dec))
    return SparseAutoencoder(
        *weights,
        kind=kind,
        k=k,
        threshold=None if threshold is None else threshold.float(),
        metadata=metadata or {},
    )


def uncentred(sae: SparseAutoencoder) -> torch.Tensor:
    """b_enc of the same encoder without a centre: p = x W_enc + this.  float32, from float64."""
    return (sae.b_enc.double() - sae.b_dec.double() @ sae.W_enc.double()).float()
