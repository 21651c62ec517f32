"""The losses, as pure functions of weights and a batch; differentiable by autograd, on any device.

Training uses the gradients written by hand in `training`, which the tests check against these.  x
(token, d_model) is centred and scaled to mean norm sqrt(d_model); W_enc (d_model, d_sae), W_dec
(d_sae, d_model); p = x W_enc + b_enc; x' = f W_dec + b_dec; means are over tokens.

ReLU + L1, penalty weighted by decoder norms, so that it cannot be dodged by small f and large W_dec
and no norm has to be constrained [Conerly 2024, "Update on how we train SAEs",
transformer-circuits.pub, April]; or plain, for decoders whose rows are held at norm 1 [Bricken
2023, "Towards Monosemanticity", transformer-circuits.pub]:

    f = relu(p),   L = mean ||x - x'||^2 + l1 * mean sum_i f_i ||W_dec[i]||        (plain: without ||W_dec[i]||)

TopK, with the auxiliary loss that lets dead features model the error e = x - x' [Gao 2024, arXiv
2406.04093, 2.3, A.2], and BatchTopK, which keeps the n k largest of n tokens together [Bussmann
2024, arXiv 2412.06410]:

    f = the k largest of relu(p), others 0
    L = mean ||x - x'||^2 + weight * min(n_dead / aux_k, 1) * mean ||e - z W_dec||^2
    z = the aux_k largest of relu(p) among dead features; e is a constant

JumpReLU, with straight-through estimates for the thresholds t [Rajamanoharan 2024b, arXiv
2407.14435]; the thresholds are learned directly and kept at 0 or above, rather than their
logarithms, which Adam hardly moves:

    f = p H(p - t),   L = mean ||x - x'||^2 + l0 * mean sum_i H(p_i - t_i)         H: 1 above 0, else 0
    df/dt := -(t / width) K((p - t) / width),   dH(p - t)/dt := -(1 / width) K((p - t) / width),   dH(p - t)/dp := 0
    K: 1 between -1/2 and 1/2, else 0

Gated, whose frozen twin trains the choosing half without moving the decoder [Rajamanoharan 2024a,
arXiv 2404.16014]:

    c = x W_enc + b_gate,  m = exp(r_mag) (x W_enc) + b_mag,   f = H(c) relu(m)
    L = mean ||x - x'||^2 + l1 * mean sum_i relu(c_i) ||W_dec[i]|| + mean ||x - (relu(c) W_dec + b_dec)||^2
                                                                     W_dec and b_dec constant in the
                                                                     last term
"""

from __future__ import annotations

from typing import Any

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


def jump(p: torch.Tensor, threshold: torch.Tensor, bandwidth: float) -> torch.Tensor:
    """p where it exceeds its threshold, else 0, with the straight-through gradient for the
    threshold.
    """
    return _Jump.apply(p, threshold, bandwidth)  # type: ignore[return-value]


def step(p: torch.Tensor, threshold: torch.Tensor, bandwidth: float) -> torch.Tensor:
    """1 where p exceeds its threshold, else 0, with the straight-through gradient for the
    threshold.
    """
    return _Step.apply(p, threshold, bandwidth)  # type: ignore[return-value]


class _Jump(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any, p: torch.Tensor, threshold: torch.Tensor, bandwidth: float
    ) -> torch.Tensor:
        ctx.save_for_backward(p, threshold)
        ctx.bandwidth = bandwidth
        return p * (p > threshold)

    @staticmethod
    def backward(ctx: Any, *grads: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor, None]:
        p, threshold = ctx.saved_tensors
        near = _near(p, threshold, ctx.bandwidth)
        return (
            grads[0] * (p > threshold),
            -(grads[0] * near * threshold / ctx.bandwidth).sum(0),
            None,
        )


class _Step(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any, p: torch.Tensor, threshold: torch.Tensor, bandwidth: float
    ) -> torch.Tensor:
        ctx.save_for_backward(p, threshold)
        ctx.bandwidth = bandwidth
        return (p > threshold).to(p)

    @staticmethod
    def backward(ctx: Any, *grads: torch.Tensor) -> tuple[None, torch.Tensor, None]:
        p, threshold = ctx.saved_tensors
        return None, -(grads[0] * _near(p, threshold, ctx.bandwidth) / ctx.bandwidth).sum(0), None


def _near(p: torch.Tensor, threshold: torch.Tensor, bandwidth: float) -> torch.Tensor:
    """K((p - t) / width)."""
    return ((p - threshold).abs() < bandwidth / 2).to(p)


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
    weighted: bool = True,
) -> torch.Tensor:
    """ReLU + L1, weighted by decoder norms or plain; scalar. See the module's first lines."""
    f = relu_features(x, W_enc, b_enc)
    penalty = (f * W_dec.norm(dim=-1) if weighted else f).sum(-1).mean()
    return squared_error(x, f @ W_dec + b_dec) + l1 * penalty


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
    whole_batch: bool = False,
) -> torch.Tensor:
    """TopK, or BatchTopK (`whole_batch`), with auxiliary loss for the features marked in `dead`
    (d_sae, bool); scalar.

    See the module's first lines.
    """
    pre = relu_features(x, W_enc, b_enc)
    f = (
        keep_largest(pre.reshape(1, -1), k * len(x)).reshape(pre.shape)
        if whole_batch
        else keep_largest(pre, k)
    )
    x_hat = f @ W_dec + b_dec
    loss = squared_error(x, x_hat)
    if dead is None or not dead.any() or aux_weight == 0:
        return loss
    z = keep_largest(pre * dead, aux_k)
    share = min(int(dead.sum()) / aux_k, 1.0)
    return loss + aux_weight * share * squared_error((x - x_hat).detach(), z @ W_dec)


def jumprelu_loss(
    x: Activations,
    W_enc: torch.Tensor,
    b_enc: torch.Tensor,
    threshold: torch.Tensor,
    W_dec: torch.Tensor,
    b_dec: torch.Tensor,
    l0: float,
    bandwidth: float,
) -> torch.Tensor:
    """JumpReLU with a penalty on the number of active features; threshold (d_sae,); scalar. See the
    first lines.
    """
    p = x @ W_enc + b_enc
    x_hat = jump(p, threshold, bandwidth) @ W_dec + b_dec
    return squared_error(x, x_hat) + l0 * step(p, threshold, bandwidth).sum(-1).mean()


def gated_loss(
    x: Activations,
    W_enc: torch.Tensor,
    b_gate: torch.Tensor,
    r_mag: torch.Tensor,
    b_mag: torch.Tensor,
    W_dec: torch.Tensor,
    b_dec: torch.Tensor,
    l1: float,
) -> torch.Tensor:
    """Gated; b_gate, r_mag, b_mag (d_sae,); scalar. See the module's first lines."""
    product = x @ W_enc
    chosen = torch.relu(product + b_gate)
    f = (chosen > 0) * torch.relu(torch.exp(r_mag) * product + b_mag)
    penalty = (chosen * W_dec.norm(dim=-1)).sum(-1).mean()
    frozen = squared_error(x, chosen @ W_dec.detach() + b_dec.detach())
    return squared_error(x, f @ W_dec + b_dec) + l1 * penalty + frozen


def fold_gated(
    W_enc: torch.Tensor, b_gate: torch.Tensor, r_mag: torch.Tensor, b_mag: torch.Tensor
) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """W_enc, b_enc and threshold of the same features as one half with a threshold [Rajamanoharan
    2024a, 3.3].

    c > 0 is m > b_mag - exp(r_mag) b_gate, since exp(r_mag) > 0: f = m where m > max(b_mag -
    exp(r_mag) b_gate, 0).
    """
    scale = torch.exp(r_mag)
    return W_enc * scale, b_mag, torch.relu(b_mag - scale * b_gate)
