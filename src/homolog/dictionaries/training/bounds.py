"""What a step of a control must not move: a frozen encoder, a decoder near its random start.

    freeze_encoder     W_enc stays where it started; biases, thresholds and decoder learn
    decoder_cosine c   a decoder row d with start s, |s| = 1, whose cosine with s fell below c is
                       turned back to the rim of that cone, its length kept:

                           d -> |d| (c s + sqrt(1 - c^2) u),   u = (d - (d s) s) / |d - (d s) s|

which is the nearest row of that length in the cone [Korznikov 2026].  Steps of every engine are
taken as they are, and what they must not have moved is put back, so that no engine knows of it.

Korznikov et al., "Sanity Checks for Sparse Autoencoders: Do SAEs Beat Random Baselines?", 2026,
arXiv 2602.14111.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from homolog.dictionaries.kinds import KindSettings


@dataclass(frozen=True, eq=False)
class Bounds:
    """Where W_enc_T is kept, and around which unit rows W_dec is; each (d_sae, d_model) or None."""

    encoder: Tensor | None
    axes: Tensor | None
    least: float = -1.0

    @classmethod
    def of(cls, config: KindSettings, weights: Any) -> Bounds | None:
        """Around weights at their start, where they lie; None where nothing is held."""
        if not config.freeze_encoder and config.decoder_cosine is None:
            return None
        encoder, axes = (torch.as_tensor(w).clone() for w in (weights.W_enc_T, weights.W_dec))
        if config.decoder_cosine is None:
            return cls(encoder, None)
        axes /= torch.linalg.vector_norm(axes, dim=1, keepdim=True)
        return cls(encoder if config.freeze_encoder else None, axes, config.decoder_cosine)

    def put_back(self, weights: Any) -> None:
        """Undo, in place, what a step should not have done to the weights."""
        if self.encoder is not None:
            torch.as_tensor(weights.W_enc_T).copy_(self.encoder)
        if self.axes is not None:
            into_cone(torch.as_tensor(weights.W_dec), self.axes, self.least)


def into_cone(rows: Tensor, axes: Tensor, least: float) -> None:
    """Turn rows whose cosine with their axis, of length 1, is below `least` to it, in place."""
    length = torch.linalg.vector_norm(rows, dim=1)
    along = (rows * axes).sum(1)
    out = along < least * length
    beside = rows[out] - along[out, None] * axes[out]
    beside /= torch.linalg.vector_norm(beside, dim=1, keepdim=True).clamp(min=1e-30)
    rim = least * axes[out] + math.sqrt(1 - least**2) * beside
    rows[out] = length[out, None] * rim
