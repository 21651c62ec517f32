"""OLMo-Hybrid: blocks of the gated delta rule, and every fourth of attention.

    delta rule:  h <- h + mixer(norm(h));      h <- h + mlp(norm'(h))
    attention:   h <- h + norm(attention(h));  h <- h + norm'(mlp(h))

Released models rotate nothing; then there are no rotary tables.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from homolog.models.decoder import Trunk
from homolog.models.llama import AFTER, AFTER_ATTENTION, IN, Llama, hidden_of
from homolog.models.mixers.base import Branch
from homolog.models.mixers.delta_rule import DeltaParts, DeltaRule
from homolog.models.mlp import MLP
from homolog.models.products import linear
from homolog.models.qwen3_next import delta_parts


class OLMoHybrid(Llama):
    """Adapter over `transformers.OlmoHybridForCausalLM`."""

    architecture = "olmo_hybrid"
    norms = AFTER

    @property
    def trunk(self) -> Trunk:  # pyright: ignore[reportIncompatibleVariableOverride]
        rotary = None if self.hf.model.rotary_emb is None else Llama.trunk.rotary
        return Trunk(Llama.trunk.blocks, Llama.trunk.final_norm, rotary)

    def steps(self, layer: int, block: Any) -> Sequence[Sequence[Branch]]:
        if not hasattr(block, "linear_attn"):
            return super().steps(layer, block)
        down, norm = block.mlp.down_proj, self._norm(block, AFTER_ATTENTION)
        return [[self.delta_rule(layer, block)], [MLP(layer, norm, hidden_of(block.mlp), down)]]

    def delta_rule(self, layer: int, block: Any) -> DeltaRule:
        module = block.linear_attn

        def project(h: Tensor) -> tuple[Tensor, Tensor, Tensor, Tensor]:
            x = [linear(part, h) for part in (module.q_proj, module.k_proj, module.v_proj)]
            z, b, a = (linear(part, h) for part in (module.g_proj, module.b_proj, module.a_proj))
            return torch.cat(x, -1), z, b, a

        parts = DeltaParts(
            **delta_parts(module),
            project=project,
            norm=module.o_norm,
            out=module.o_proj,
            beta=2.0 if module.allow_neg_eigval else 1.0,
        )
        return DeltaRule(layer, self._norm(block, IN), parts)
