"""Forward passes of dictionary_learning's crosscoders, written from their equations, in float64.

    CrossCoder            f = relu(sum_l x_l E_l + e),   x'_l = f D_l + d_l
    BatchTopKCrossCoder   f of those where n f > threshold, n by code_normalization_id

A state_dict and x (token, stream, d_model) go in; n f and x' (token, stream, d_model) come out.
"""

from __future__ import annotations

import torch


def forward(w: dict[str, torch.Tensor], x: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    w = {name: tensor.double() for name, tensor in w.items()}
    x, mean = x.double(), w.get("activation_mean", torch.tensor(torch.nan))
    normalised = not bool(mean.isnan().any())
    if normalised:
        x = (x - mean) * w["activation_global_scale"]
    D = w["decoder.weight"]
    f = w["encoder.bias"].expand(len(x), -1).clone()
    for stream in range(x.shape[1]):
        f += x[:, stream] @ w["encoder.weight"][stream]
    f = f.clamp(min=0)
    norms = torch.ones(D.shape[1], dtype=torch.float64)
    if "threshold" in w:
        which = int(w.get("code_normalization_id", torch.tensor(1)))
        of_streams = torch.stack([row.norm(dim=1) for row in D])
        norms = {1: of_streams.sum(0), 2: of_streams.norm(dim=0), 4: norms}[which]
        f = torch.where(f * norms > w["threshold"], f, 0)
    x_hat = torch.stack([f @ row + b for row, b in zip(D, w["decoder.bias"], strict=True)], dim=1)
    if normalised:
        x_hat = x_hat / w["activation_global_scale"] + mean
    return f * norms, x_hat
