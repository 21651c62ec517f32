"""GPT-2: learned positions, added where tokens are embedded; attention first, then the MLP."""

from __future__ import annotations

import torch
from torch import Tensor

from homolog.axes import Residual, Tokens
from homolog.models.products import linear
from homolog.models.transformer import READS, Parts, Read, Transformer, split_heads


class GPT2(Transformer):
    """Adapter over `transformers.GPT2LMHeadModel`, whose matrices are stored (input, output).

    `embed` is the token embedding plus that of the position.
    """

    architecture = "gpt2"
    parts = Parts(
        blocks="transformer.h",
        final_norm="transformer.ln_f",
        attn_norm="ln_1",
        heads_out="attn.c_proj",
        mlp_norm="ln_2",
        mlp_out="mlp.c_proj",
    )

    def embed(self, tokens: Tokens) -> Residual:
        positions: torch.nn.Embedding = self.hf.transformer.wpe
        return super().embed(tokens) + positions.weight[: tokens.shape[1]]

    def scale(self, layer: int) -> float:
        """The factor of the scores; some checkpoints divide it by the layer, counted from 1."""
        return self.blocks()[layer].attn.scaling

    def fused_reads(self, layer: int, normed: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        fused = linear(self.blocks()[layer].attn.c_attn, normed)
        q, k, v = (split_heads(x, self.n_heads) for x in fused.chunk(3, dim=-1))
        return q, k, v

    def read_matrix(self, layer: int, read: Read) -> tuple[Tensor, Tensor | None]:
        fused, place = self.blocks()[layer].attn.c_attn, READS.index(read)
        weight = fused.weight.t().unflatten(0, (3, self.n_heads, self.d_head))[place]
        return weight, fused.bias.view(3, self.n_heads, self.d_head)[place]

    def mlp_hidden(self, layer: int, normed: Tensor) -> Tensor:
        mlp = self.blocks()[layer].mlp
        return mlp.act(linear(mlp.c_fc, normed))
