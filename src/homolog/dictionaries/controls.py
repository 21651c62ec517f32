"""Dictionaries that should not match: the same activations read in other directions.

`rotated` turns every direction of a dictionary by one random orthogonal matrix Q about b_dec:

    d_i -> Q d_i  (decoder rows),   w_i -> Q w_i  (encoder columns)
    f'(x) = f(b_dec + Q^T (x - b_dec))

Angles between features, norms and sparsity pattern of the weights stay; what is lost is their
relation to the directions that the model writes.  The rotated features still read the same
residuals at the same tokens, through thresholds, so they do correlate with features of the other
model: that much of a match any thresholded directions would give.  `random_directions` keeps no
angles either: unit vectors drawn one by one.

Residuals are not isotropic, so after rotation a feature's pre-activation has another spread, and
its old threshold another firing rate: commonly, features tuned to a rare direction fire all the
time or never.  The null of a maximum correlation depends on firing rates, so a control is only fair
at equal ones.  Given a sample of activations, each b_enc is set anew so that the feature fires at
as many of them, n, as the original did (ties aside):

    b_enc = threshold - (z_(n) + z_(n+1)) / 2       z_(n): the n-th largest of (x_t - b_dec) w
                                                    threshold: 0 where there is none

Thresholds stay, and with them the least value of an active feature.  Where a token keeps its k
largest, it does so whatever the biases, and single features' rates change.
"""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import torch

from homolog.axes import Activations
from homolog.dictionaries.base import SparseAutoencoder
from homolog.dictionaries.coding import Coder
from homolog.dictionaries.kinds import carrier
from homolog.dictionaries.seeds import generator
from homolog.errors import InputError

_ENTRIES = 1 << 21  # projections that are sorted at once


def random_orthogonal(d_model: int, seed: int) -> torch.Tensor:
    """Orthogonal matrix drawn uniformly (Haar), float64.

    QR of a Gaussian, signs of R's diagonal positive.
    """
    q, r = np.linalg.qr(generator(seed, "rotation").standard_normal((d_model, d_model)))
    return torch.from_numpy(q * np.sign(np.diag(r)))


def rotated(
    sae: SparseAutoencoder, seed: int, activations: Activations | None = None
) -> SparseAutoencoder:
    """The dictionary with its directions rotated.

    With `activations` (token, d_model), raw residuals, the firing rates of its features are kept,
    unless a token keeps its k largest (see the module's first lines).  20,000 tokens resolve rates
    down to 1 in 20,000.
    """
    rotation = random_orthogonal(sae.d_model, seed)
    W_enc = (rotation @ sae.W_enc.double()).float()
    W_dec = (sae.W_dec.double() @ rotation.T).float()
    b_enc = sae.b_enc
    if activations is not None and sae.k is None:
        b_enc = _biases(sae, W_enc, activations, _counts(sae, activations))
    made = _made(sae, control="rotated", rotation_seed=seed)
    return replace(sae, W_enc=W_enc, b_enc=b_enc, W_dec=W_dec, metadata=made)


def random_directions(
    sae: SparseAutoencoder, seed: int, activations: Activations
) -> SparseAutoencoder:
    """Unit vectors drawn uniformly, one per feature of `sae`, each firing as often as that one.

    activations: (token, d_model) raw residuals, on which the rates are matched.  Encoder and
    decoder are the same directions about b_dec; kind and thresholds are those of `sae`, but instead
    of keeping k of a token the dictionary is a plain one, where rates can be set.
    """
    rng = generator(seed, "random directions")
    W_dec = torch.from_numpy(rng.standard_normal((sae.d_sae, sae.d_model)))
    W_dec = (W_dec / W_dec.norm(dim=1, keepdim=True)).float()
    W_enc = W_dec.T.contiguous()
    b_enc = _biases(sae, W_enc, activations, _counts(sae, activations))
    kind = sae.kind if sae.k is None else carrier("plain").name
    made = _made(sae, control="random directions", directions_seed=seed)
    return replace(sae, W_enc=W_enc, b_enc=b_enc, W_dec=W_dec, kind=kind, k=None, metadata=made)


def firing_like_trained(
    sae: SparseAutoencoder, activations: Activations, l0: float, seed: int
) -> SparseAutoencoder:
    """`sae` with biases at which `l0` features fire per token, as skewed as in trained ones.

    The feature of rank r (the ranks are drawn from `seed`) fires on a share of the tokens
    proportional to (r + 8)^-0.7, at most 0.7.  Of these the k largest are left, where there is a k.
    For rehearsals with dictionaries that were hardly trained; activations: (token, d_model) raw
    residuals, on which the biases are set.
    """
    rank = torch.randperm(sae.d_sae, generator=torch.Generator().manual_seed(seed)).double()
    weight = (rank + 8) ** -0.7
    scale = l0 / weight.sum()
    for _ in range(50):
        scale = scale * l0 / (scale * weight).clamp(max=0.7).sum()
    expected = (scale * weight).clamp(max=0.7) * len(activations)
    counts = expected.ceil().long().clamp(1, len(activations) - 1)
    b_enc = _biases(sae, sae.W_enc, activations, counts)
    made = _made(sae, control="thresholds of a rehearsal")
    return replace(sae, b_enc=b_enc, metadata=made)


def _made(sae: SparseAutoencoder, **facts: Any) -> dict[str, Any]:
    """Metadata of a control: those of its original, less the quality, which is not its own."""
    return {name: value for name, value in sae.metadata.items() if name != "quality"} | facts


def _counts(sae: SparseAutoencoder, activations: Activations) -> torch.Tensor:
    """At how many tokens each feature fires: (d_sae,) int64."""
    return torch.from_numpy(Coder(sae, activations.device).counts(activations))


def _biases(
    sae: SparseAutoencoder, W_enc: torch.Tensor, activations: Activations, counts: torch.Tensor
) -> torch.Tensor:
    """b_enc (d_sae,) at which each feature of W_enc fires at `counts` (d_sae,) of the tokens.

    For a feature that fires at none, or at all, the bias is as far from firing at one, or not at
    one, as the extreme token is from the centre.
    """
    if len(activations) < 2:
        requirement = "firing rates need at least two tokens"
        raise InputError("activations", len(activations), requirement, "Give a sample.")
    x, last = activations.float() - sae.b_dec, len(activations) - 1
    cut = torch.empty(W_enc.shape[1], dtype=torch.float64)
    step = max(1, _ENTRIES // len(x))
    for low in range(0, len(cut), step):
        part = slice(low, low + step)
        n = counts[part]
        ordered = torch.sort(x @ W_enc[:, part], dim=0, descending=True).values.double()
        above = ordered.gather(0, (n - 1).clamp(0, last)[None])[0]
        below = ordered.gather(0, n.clamp(0, last)[None])[0]
        between = torch.where(n == 0, above + above.abs().clamp(min=1e-6), (above + below) / 2)
        cut[part] = torch.where(n > last, below - below.abs().clamp(min=1e-6), between)
    if sae.threshold is None:
        return -cut.float()
    # of infinity, no bias makes it fire
    return torch.where(sae.threshold.isinf(), 0, sae.threshold.double() - cut).float()
