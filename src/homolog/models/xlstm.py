"""xLSTM: a matrix memory in every block, and a gated MLP.

block:  h <- h + mLSTM(norm(h));  h <- h + down(SiLU(gate(norm'(h))) * up(norm'(h)))
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor
from torch.nn.functional import silu

from homolog.axes import Logits, Residual
from homolog.models.decoder import Decoder, Trunk
from homolog.models.mixers.base import Branch, Norm
from homolog.models.mixers.mlstm import MLSTM
from homolog.models.mlp import MLP, gated, gated_fused


class XLSTM(Decoder):
    """Adapter over `transformers.xLSTMForCausalLM`."""

    architecture = "xlstm"
    trunk = Trunk("backbone.blocks", "backbone.out_norm")

    def steps(self, layer: int, block: Any) -> Sequence[Sequence[Branch]]:
        part = block.ffn
        if self.hf.config.weight_mode == "fused":
            hidden = gated_fused(silu, part.proj_up_gate_z)
        else:
            hidden = gated(silu, part.proj_up_gate, part.proj_up)
        mlp = MLP(layer, rms(block.norm_ffn), hidden, part.proj_down)
        return [[MLSTM(layer, rms(block.norm_mlstm), block.mlstm_layer)], [mlp]]

    def final_norm(self, h: Residual) -> Residual:
        return rms(self.hf.backbone.out_norm)(h)

    def logits(self, h: Residual) -> Logits:
        cap = self.hf.config.output_logit_soft_cap
        return torch.tanh(super().logits(h) / cap) * cap


def rms(norm: Any) -> Norm:
    """A root-mean-square norm that may have a bias; in float64 it does not round."""

    def normed(h: Tensor) -> Tensor:
        if h.dtype != torch.float64:
            return norm(h)
        scaled = h * torch.rsqrt(h.pow(2).mean(-1, keepdim=True) + norm.eps) * norm.weight
        return scaled if norm.bias is None else scaled + norm.bias

    return normed
