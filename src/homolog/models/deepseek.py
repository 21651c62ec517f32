"""DeepSeek V2 and V3: keys and values of one latent vector, experts as MLP.

    block:  h <- h + out(attention(norm(h)));  h <- h + mlp(norm'(h))

The last dimensions of queries and keys are rotated, neighbours paired.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from homolog.models.llama import IN, Llama
from homolog.models.mixers.attention import Attention
from homolog.models.mixers.attention_parts import AttentionParts
from homolog.models.mixers.latent_projections import Latent
from homolog.models.mixers.rotary import rotate_last, rotate_last_pairs


class DeepSeekV3(Llama):
    """Adapter over `transformers.DeepseekV3ForCausalLM`."""

    architecture = "deepseek_v3"

    def attention(self, layer: int, block: Any) -> Attention:
        pairs = getattr(self.hf.config, "rope_interleave", True)
        turn = rotate_last_pairs if pairs else rotate_last
        parts = AttentionParts(**latent_parts(block.self_attn), turn=turn)
        return Attention(layer, self._norm(block, IN), parts)


class DeepSeekV2(DeepSeekV3):
    """Adapter over `transformers.DeepseekV2ForCausalLM`, whose tables are complex numbers."""

    architecture = "deepseek_v2"

    def rotary_tables(
        self, module: Any, positions: Tensor, like: Tensor
    ) -> dict[str | None, tuple[Tensor, Tensor]]:
        turns = module(like, positions[None])
        return {None: (torch.cat([turns.real] * 2, -1), torch.cat([turns.imag] * 2, -1))}


def latent_parts(module: Any) -> dict[str, Any]:
    """What a module of attention over a latent vector is made of: of `AttentionParts`."""
    return {
        "project": Latent(module),
        "out": module.o_proj,
        "n_heads": module.num_heads,
        "n_kv_heads": module.num_heads,
        "d_head": module.qk_head_dim,
        "scale": module.scaling,
    }
