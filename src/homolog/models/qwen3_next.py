"""Qwen3-Next and Qwen3.5: three blocks of the gated delta rule to one of attention.

    block:  h <- h + mixer(norm(h));  h <- h + mlp(norm'(h))

Attention multiplies what its heads read by a gate that the queries' matrix gives beside the
queries; queries and keys are normed, and rotated in part.  Norms multiply with 1 + weight.  An MLP
may be one of experts.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from homolog.models.llama import IN, Llama, attention_parts
from homolog.models.mixers.attention import Attention
from homolog.models.mixers.attention_parts import AttentionParts
from homolog.models.mixers.base import Branch
from homolog.models.mixers.delta_rule import DeltaParts, DeltaRule
from homolog.models.mixers.projections import WithGate
from homolog.models.products import linear


class Qwen3Next(Llama):
    """Adapter over `transformers.Qwen3NextForCausalLM`."""

    architecture = "qwen3_next"

    def steps(self, layer: int, block: Any) -> Sequence[Sequence[Branch]]:
        recurrent = hasattr(block, "linear_attn")
        mixer = self.delta_rule(layer, block) if recurrent else self.attention(layer, block)
        return [[mixer], [self.mlp(layer, block)]]

    def attention(self, layer: int, block: Any) -> Attention:
        module = block.self_attn
        project = WithGate(module.q_proj, module.k_proj, module.v_proj, module.head_dim)
        parts = attention_parts(self.hf.config, module, layer)
        parts = parts | {"project": project, "gate": project.gate}
        return Attention(layer, self._norm(block, IN), AttentionParts(**parts))

    def delta_rule(self, layer: int, block: Any) -> DeltaRule:
        module = block.linear_attn

        def project(h: Tensor) -> tuple[Tensor, Tensor, Tensor, Tensor]:
            return self.project(module, h)

        parts = DeltaParts(
            **delta_parts(module), project=project, norm=module.norm, out=module.out_proj
        )
        return DeltaRule(layer, self._norm(block, IN), parts)

    def project(self, module: Any, h: Tensor) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        """What is convolved, and the inputs of gate, beta and decay; in the module key by key."""
        keys, width = module.num_k_heads, module.head_k_dim
        both = linear(module.in_proj_qkvz, h).unflatten(-1, (keys, -1))
        values = (both.shape[-1] - 2 * width) // 2
        q, k, v, z = (x.flatten(-2) for x in both.split([width, width, values, values], -1))
        rates = linear(module.in_proj_ba, h).unflatten(-1, (keys, -1))
        b, a = (x.flatten(-2) for x in rates.chunk(2, -1))
        return torch.cat([q, k, v], -1), z, b, a


class Qwen3_5(Qwen3Next):
    """Adapter over the text model of Qwen3.5, which has no experts and a matrix for each part."""

    architecture = "qwen3_5_text"

    def project(self, module: Any, h: Tensor) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        maps = (module.in_proj_qkv, module.in_proj_z, module.in_proj_b, module.in_proj_a)
        x, z, b, a = (linear(part, h) for part in maps)
        return x, z, b, a


class Qwen3_5MoE(Qwen3_5):
    """The same with experts."""

    architecture = "qwen3_5_moe_text"


def delta_parts(module: Any) -> dict[str, Any]:
    """What modules of the delta rule name alike: arguments of `DeltaParts`."""
    return {
        "conv": module.conv1d,
        "act": module.activation,
        "n_heads": module.num_v_heads,
        "n_key_heads": module.num_k_heads,
        "d_key": module.head_k_dim,
        "A_log": module.A_log,
        "dt_bias": module.dt_bias,
    }
