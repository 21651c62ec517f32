"""GPT-2: learned positions, added where tokens are embedded; attention first, then the MLP."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch

from homolog.axes import Residual, Tokens
from homolog.models.decoder import Decoder, Trunk, normed
from homolog.models.mixers.attention import Attention
from homolog.models.mixers.attention_parts import AttentionParts
from homolog.models.mixers.base import Branch
from homolog.models.mixers.projections import FusedInTurn
from homolog.models.mlp import MLP, plain


class GPT2(Decoder):
    """Adapter over `transformers.GPT2LMHeadModel`, whose matrices are stored (input, output).

    `embed` is the token embedding plus that of the position.  Some checkpoints divide the scores by
    the layer, counted from 1.
    """

    architecture = "gpt2"
    trunk = Trunk("transformer.h", "transformer.ln_f")

    def embed(self, tokens: Tokens) -> Residual:
        positions: torch.nn.Embedding = self.hf.transformer.wpe
        return super().embed(tokens) + positions.weight[: tokens.shape[1]]

    def steps(self, layer: int, block: Any) -> Sequence[Sequence[Branch]]:
        attention, mlp = block.attn, block.mlp
        n_heads = self.hf.config.num_attention_heads
        d_head = self.d_model // n_heads
        parts = AttentionParts(
            project=FusedInTurn(attention.c_attn, (n_heads,) * 3, d_head),
            out=attention.c_proj,
            n_heads=n_heads,
            n_kv_heads=n_heads,
            d_head=d_head,
            scale=attention.scaling,
            rotary=False,
        )
        mixer = Attention(layer, normed(block.ln_1), parts)
        return [[mixer], [MLP(layer, normed(block.ln_2), plain(mlp.act, mlp.c_fc), mlp.c_proj)]]
