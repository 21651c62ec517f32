"""A trained dictionary of raw residuals: mean, scale and decoder norms folded in, exactly.

All in float64.

With x' = (x - mean) s as training saw it, decoder norms n and c = b_dec / s + mean:

    f_raw_i = f_i n_i / s, the length feature i adds;   W_dec_raw = W_dec / n;   b_dec_raw = c
    p n / s = (x - c) W_enc n + (b_enc + b_dec W_enc) n / s;   a threshold t becomes t n / s

Where a token's k largest are kept norms are 1, so that their order does not change.
"""

from __future__ import annotations

import json
import math
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch

from homolog.dictionaries.base import SparseAutoencoder
from homolog.dictionaries.finite import refuse_not_finite
from homolog.dictionaries.training.state import SaeState, TrainingDivergedError
from homolog.errors import InputError


@dataclass(frozen=True, eq=False)
class Normalisation:
    """x' = (x - mean) * scale has mean 0 and mean norm sqrt(d_model)."""

    mean: torch.Tensor
    """(d_model,) float32."""
    scale: float
    variance: float
    """Mean squared norm of x'."""

    def apply(self, raw: torch.Tensor) -> torch.Tensor:
        """x' in float32 of raw activations (token, d_model), any float dtype."""
        x = raw.float().sub_(self.mean) if raw.dtype != torch.float32 else raw - self.mean
        return x.mul_(self.scale)


def estimate_normalisation(sample: torch.Tensor, where: str = "activations") -> Normalisation:
    """Mean and scale of a sample of activations (token, d_model), in float64."""
    refuse_not_finite(sample, where)
    x = sample.double()
    mean = x.mean(0)
    norms = (x - mean).norm(dim=1)
    if float(norms.mean()) == 0:
        remedy = "Check the layer and the corpus."
        raise InputError(where, "constant", "activations must vary", remedy)
    scale = math.sqrt(x.shape[1]) / float(norms.mean())
    return Normalisation(mean.float(), scale, float((norms * scale).pow(2).mean()))


def fold(state: SaeState, normal: Normalisation, made: dict[str, Any]) -> SparseAutoencoder:
    """The dictionary of raw residuals, with facts `made`; TrainingDivergedError if not finite."""
    if not np.isfinite(state.weights.flat).all():
        message = state.where(state.training.n_steps, "a weight is not a finite number")
        raise TrainingDivergedError(message)
    config, w, s = state.config, state.weights, normal.scale
    arrays = w.W_enc_T.T, w.W_dec, w.b_dec, w.vectors
    W_enc, W_dec, b_dec, vectors = (torch.from_numpy(a.astype(np.float64)) for a in arrays)
    named = {"W_enc": W_enc} | dict(zip(state.vectors, vectors, strict=True))
    W_enc, b_enc, threshold = state.kind.encoder(config, named, float(state.scalars[1]))
    norms = W_dec.norm(dim=1)
    W_dec = torch.where(norms[:, None] > 0, W_dec / norms[:, None], W_dec)
    if state.unit:
        norms = torch.ones_like(norms)
    _, label, layer = state.names
    facts = {
        **made,
        "config": state.config_found,
        "label": label,
        "layer": layer,
        "tokens_trained": state.training.n_steps * state.training.batch,
        "activation_scale": s,
    }
    return SparseAutoencoder(
        (W_enc * norms).float(),
        ((b_enc + b_dec @ W_enc) * norms / s).float(),
        W_dec.float(),
        (b_dec / s + normal.mean.double()).float(),
        kind=config.kind,
        k=state.k if state.kind.form == "k" else None,
        threshold=None if threshold is None else (threshold * norms / s).float(),
        metadata=json.loads(json.dumps(facts)),
    )
