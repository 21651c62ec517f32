"""Dictionaries that should not match, to compare matches with.

`rotated` turns every direction of a dictionary by one random orthogonal matrix Q about b_dec:

    d_i -> Q d_i  (decoder rows),  w_i -> Q w_i  (encoder columns),  f'(x) = f(b_dec + Q^T (x - b_dec))

Angles between features, norms and sparsity pattern of the weights stay; what is lost is their relation to the
directions that the model writes.  The rotated features still read the same residuals at the same tokens,
through thresholds, so they do correlate with features of the other model: that much of a match any
thresholded directions would give.

Residuals are not isotropic, so after rotation a feature's pre-activation has another spread, and its old
threshold another firing rate: commonly, features tuned to a rare direction fire all the time or never.  The
null of a maximum correlation depends on firing rates, so the control is only fair at equal ones.  Given a
sample of activations, each b_enc is set anew so that the rotated feature fires at the share of tokens at
which the original did (ReLU; ties aside).  With TopK, every token keeps its k features whatever the
thresholds, and single features' rates change.
"""

from __future__ import annotations

import numpy as np
import torch

from homolog.axes import Activations
from homolog.dictionaries.base import SparseAutoencoder
from homolog.dictionaries.seeds import generator


def random_orthogonal(d_model: int, seed: int) -> torch.Tensor:
    """Orthogonal matrix drawn uniformly (Haar): QR of a Gaussian, signs of R's diagonal positive. float64."""
    q, r = np.linalg.qr(generator(seed, "rotation").standard_normal((d_model, d_model)))
    return torch.from_numpy(q * np.sign(np.diag(r)))


def rotated(sae: SparseAutoencoder, seed: int, activations: Activations | None = None) -> SparseAutoencoder:
    """The dictionary with its directions rotated; with `activations` (token, d_model), raw residuals, firing
    rates of a ReLU dictionary are kept (see the module's first lines). 20,000 tokens resolve rates down to 1
    in 20,000.
    """
    rotation = random_orthogonal(sae.d_model, seed)
    W_enc = (rotation @ sae.W_enc.double()).float()
    W_dec = (sae.W_dec.double() @ rotation.T).float()
    b_enc = sae.b_enc
    if activations is not None and sae.kind == "relu":
        b_enc = _thresholds(W_enc, sae, activations)
    made = {**sae.metadata, "control": "rotated", "rotation_seed": seed}
    return SparseAutoencoder(W_enc, b_enc, W_dec, sae.b_dec, kind=sae.kind, k=sae.k, metadata=made)


def _thresholds(W_enc: torch.Tensor, sae: SparseAutoencoder, activations: Activations) -> torch.Tensor:
    """b_enc at which each feature of W_enc fires at as many of the tokens as the original does.

    With n firing tokens, the threshold is half-way between the n-th and (n+1)-th largest pre-activation.
    """
    x = activations.float() - sae.b_dec
    b_enc = sae.b_enc.clone()
    for low in range(0, sae.d_sae, 64):  # 64 features at a time bound the memory
        part = slice(low, low + 64)
        counts = (x @ sae.W_enc[:, part] + sae.b_enc[part] > 0).sum(0)
        ordered = torch.sort(x @ W_enc[:, part], dim=0, descending=True).values
        last = len(x) - 1
        above = ordered.gather(0, (counts - 1).clamp(0, last)[None])[0]
        below = ordered.gather(0, counts.clamp(0, last)[None])[0]
        threshold = torch.where(counts == 0, above + above.abs().clamp(min=1e-6), (above + below) / 2)
        b_enc[part] = -torch.where(counts > last, below - below.abs().clamp(min=1e-6), threshold)
    return b_enc


def firing_like_trained(sae: SparseAutoencoder, activations: Activations, l0: float, seed: int) -> SparseAutoencoder:
    """`sae` with thresholds at which `l0` features a token fire, with the skewed frequencies of trained dictionaries.

    The feature of rank r (the ranks are drawn from `seed`) fires on a share of the tokens proportional to
    (r + 8)^-0.7, at most 0.7.  For rehearsals with dictionaries that were hardly trained; activations: (token, d_model)
    raw residuals, on which the thresholds are set.
    """
    rank = torch.randperm(sae.d_sae, generator=torch.Generator().manual_seed(seed)).double()
    weight = (rank + 8) ** -0.7
    scale = l0 / weight.sum()
    for _ in range(50):
        scale = scale * l0 / (scale * weight).clamp(max=0.7).sum()
    expected = (scale * weight).clamp(max=0.7) * len(activations)
    x, b_enc = activations.float() - sae.b_dec, sae.b_enc.clone()
    for low in range(0, sae.d_sae, 256):  # 256 features at a time bound the memory
        part = slice(low, low + 256)
        ordered = torch.sort(x @ sae.W_enc[:, part], dim=0, descending=True).values
        place = expected[part].ceil().long().clamp(1, len(x) - 1)
        b_enc[part] = -ordered.gather(0, place[None])[0]
    made = {**sae.metadata, "control": "thresholds of a rehearsal"}
    return SparseAutoencoder(sae.W_enc, b_enc, sae.W_dec, sae.b_dec, kind=sae.kind, k=sae.k, metadata=made)
