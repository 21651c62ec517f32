"""The losses, as pure functions of weights and a batch; differentiable by autograd, on any device.

Training on CPU uses the hand-written gradients of `kernels.py`, which the tests check against these.  x
(token, d_model) is centred and scaled to mean norm sqrt(d_model); W_enc (d_model, d_sae), W_dec (d_sae,
d_model).

ReLU + L1, penalty weighted by decoder norms, so that it cannot be dodged by small f and large W_dec and no
norm has to be constrained [Conerly 2024, "Update on how we train SAEs", transformer-circuits.pub, April]:

    f = relu(x W_enc + b_enc),  x' = f W_dec + b_dec
    L = mean_t( ||x - x'||^2 + l1 * sum_i f_i ||W_dec[i]|| )

TopK, with the auxiliary loss that lets dead features model the error e = x - x' [Gao 2024, arXiv 2406.04093,
2.3, A.2]:

    f = the k largest of relu(x W_enc + b_enc), others 0
    L = mean_t ||x - x'||^2 + weight * min(n_dead / aux_k, 1) * mean_t ||e - z W_dec||^2
    z = the aux_k largest of relu(x W_enc + b_enc) among dead features; e is a constant
"""

from __future__ import annotations

import torch

from homolog.axes import Activations, Features


def relu_features(x: Activations, W_enc: torch.Tensor, b_enc: torch.Tensor) -> Features:
    """relu(x W_enc + b_enc)."""
    return torch.relu(x @ W_enc + b_enc)


def keep_largest(f: Features, k: int) -> Features:
    """Each row's k largest entries, the others 0; among equal ones the lowest index."""
    if k >= f.shape[-1]:
        return f
    order = torch.sort(f, dim=-1, descending=True, stable=True).indices[..., :k]
    return torch.zeros_like(f).scatter(-1, order, f.gather(-1, order))


def topk_features(x: Activations, W_enc: torch.Tensor, b_enc: torch.Tensor, k: int) -> Features:
    """The k largest of relu(x W_enc + b_enc) of each token."""
    return keep_largest(relu_features(x, W_enc, b_enc), k)


def squared_error(x: Activations, x_hat: Activations) -> torch.Tensor:
    """Mean over tokens of the squared error summed over dimensions."""
    return (x - x_hat).pow(2).sum(-1).mean()


def relu_loss(
    x: Activations,
    W_enc: torch.Tensor,
    b_enc: torch.Tensor,
    W_dec: torch.Tensor,
    b_dec: torch.Tensor,
    l1: float,
) -> torch.Tensor:
    """ReLU + L1 weighted by decoder norms; scalar. See the module's first lines."""
    f = relu_features(x, W_enc, b_enc)
    return squared_error(x, f @ W_dec + b_dec) + l1 * (f * W_dec.norm(dim=-1)).sum(-1).mean()


def topk_loss(
    x: Activations,
    W_enc: torch.Tensor,
    b_enc: torch.Tensor,
    W_dec: torch.Tensor,
    b_dec: torch.Tensor,
    k: int,
    dead: torch.Tensor | None = None,
    aux_k: int = 64,
    aux_weight: float = 1 / 32,
) -> torch.Tensor:
    """TopK with auxiliary loss for the features marked in `dead` (d_sae, bool); scalar. See the module's
    first lines."""
    pre = relu_features(x, W_enc, b_enc)
    x_hat = keep_largest(pre, k) @ W_dec + b_dec
    loss = squared_error(x, x_hat)
    if dead is None or not dead.any() or aux_weight == 0:
        return loss
    z = keep_largest(pre * dead, aux_k)
    share = min(int(dead.sum()) / aux_k, 1.0)
    return loss + aux_weight * share * squared_error((x - x_hat).detach(), z @ W_dec)
