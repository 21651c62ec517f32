"""Mamba-1: the mixer's own forward over the weights of the Hugging Face module, with our scan in place of its loop.

    [x, z]       = in_proj(RMSNorm(h))
    u            = SiLU(causal depthwise convolution of x)           site ssm_input
    [dt', B, C]  = x_proj(u);  dt = softplus(dt_proj(dt'))
    y            = selective scan of u, dt, A = -exp(A_log), B, C   (see `scan.py`)
    h           <- h + out_proj((y + D * u) * SiLU(z))               SiLU(z): site gate
The residual stream stays in float32 when the configuration says so, and A_log, D and the scan are in float32 always.
"""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from homolog.axes import Residual
from homolog.models.base import LanguageModel, Taps
from homolog.models.scan import selective_scan


class Mamba(LanguageModel):
    """Adapter over `transformers.MambaForCausalLM`."""

    architecture = "mamba"
    site_kinds = ("ssm_input", "gate", "resid")
    neuron_kinds = ("ssm_input", "gate")

    def _blocks(self) -> Any:
        return self.hf.backbone.layers

    def _embedding(self) -> torch.nn.Embedding:
        return self.hf.backbone.embeddings

    def _context(self, embedded: Residual) -> None:
        return None

    def _block(self, layer: int, h: Residual, context: None, taps: Taps) -> Residual:
        block = self._blocks()[layer]
        mixer = block.mixer
        normed = block.norm(h.to(block.norm.weight.dtype))
        residual = h.float() if block.residual_in_fp32 else h
        x, z = mixer.in_proj(normed).chunk(2, dim=-1)
        u = taps("ssm_input", layer, mixer.act(causal_conv(x, mixer.conv1d.weight, mixer.conv1d.bias)))
        sizes = [mixer.time_step_rank, mixer.ssm_state_size, mixer.ssm_state_size]
        dt_low, B, C = mixer.x_proj(u).split(sizes, dim=-1)
        dt = F.softplus(F.linear(dt_low, mixer.dt_proj.weight).float() + mixer.dt_proj.bias.float())
        A = -torch.exp(mixer.A_log.float())
        y = selective_scan(u.float(), dt, A, B.float(), C.float()).y + u * mixer.D.float()
        gated = y * taps("gate", layer, mixer.act(z))
        return residual + mixer.out_proj(gated.to(mixer.out_proj.weight.dtype))

    def _final_norm(self, h: Residual) -> Residual:
        norm = self.hf.backbone.norm_f
        return norm(h)


def causal_conv(x: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
    """Depthwise causal convolution: out[t, d] = bias[d] + sum over j of weight[d, 0, j] * x[t - (K - 1) + j, d].

    x (batch, position, d_inner), weight (d_inner, 1, K).  A sum of K shifted products: on a CPU several times as
    fast as the grouped convolution, with the same additions.
    """
    kernel, length = weight.shape[-1], x.shape[1]
    padded = F.pad(x, (0, 0, kernel - 1, 0))
    out = padded[:, :length] * weight[:, 0, 0]
    for j in range(1, kernel):
        out = torch.addcmul(out, padded[:, j : j + length], weight[:, 0, j])
    return out if bias is None else out + bias
