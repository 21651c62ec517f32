"""Kimi Linear: blocks of the delta rule with a decay for every key channel, and some of attention.

    block:  h <- h + mixer(norm(h));  h <- h + mlp(norm'(h))

Attention makes keys and values of one latent vector, and rotates nothing.  An MLP may be one of
experts.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from homolog.models.decoder import Trunk
from homolog.models.deepseek import latent_parts
from homolog.models.llama import IN, Llama
from homolog.models.mixers.attention import Attention
from homolog.models.mixers.attention_parts import AttentionParts
from homolog.models.mixers.base import Branch
from homolog.models.mixers.delta_rule import DeltaParts, DeltaRule
from homolog.models.products import linear


class KimiLinear(Llama):
    """Adapter over `transformers.KimiLinearForCausalLM`."""

    architecture = "kimi_linear"
    trunk = Trunk("model.layers", "model.norm")

    def steps(self, layer: int, block: Any) -> Sequence[Sequence[Branch]]:
        recurrent = hasattr(block.self_attn, "forget_gate")
        mixer = self.delta_rule(layer, block) if recurrent else self.attention(layer, block)
        return [[mixer], [self.mlp(layer, block)]]

    def attention(self, layer: int, block: Any) -> Attention:
        parts = AttentionParts(**latent_parts(block.self_attn), rotary=False)
        return Attention(layer, self._norm(block, IN), parts)

    def delta_rule(self, layer: int, block: Any) -> DeltaRule:
        module = block.self_attn
        forget = module.forget_gate

        def project(h: Tensor) -> tuple[Tensor, Tensor, Tensor, Tensor]:
            x = [linear(part, h) for part in (module.q_proj, module.k_proj, module.v_proj)]
            z = linear(module.g_b_proj, linear(module.g_a_proj, h))
            a = linear(forget.f_b_proj, linear(forget.f_a_proj, h))
            return torch.cat(x, -1), z, linear(module.b_proj, h), a

        parts = DeltaParts(
            project=project,
            conv=module.conv1d,
            act=module.activation,
            n_heads=module.num_heads,
            n_key_heads=module.num_heads,
            d_key=module.head_dim,
            A_log=forget.A_log,
            dt_bias=forget.dt_bias,
            norm=module.o_norm,
            out=module.o_proj,
        )
        return DeltaRule(layer, self._norm(block, IN), parts)
