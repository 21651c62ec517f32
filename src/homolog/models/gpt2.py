"""GPT-2: learned positions, added where tokens are embedded; attention first, then the MLP."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from homolog.axes import Residual, Tokens
from homolog.models.transformer import READS, Read, Transformer, split_heads


class GPT2(Transformer):
    """Adapter over `transformers.GPT2LMHeadModel`, whose matrices are stored (input, output).

    `embed` is the token embedding plus that of the position.
    """

    architecture = "gpt2"

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.n_heads = self.n_kv_heads = self.hf.config.n_head
        self.d_head = self.d_model // self.n_heads

    def blocks(self) -> Any:
        return self.hf.transformer.h

    def embed(self, tokens: Tokens) -> Residual:
        positions: torch.nn.Embedding = self.hf.transformer.wpe
        return super().embed(tokens) + positions.weight[: tokens.shape[1]]

    def scale(self, layer: int) -> float:
        """The factor of the scores; some checkpoints divide it by the layer, counted from 1."""
        return self.blocks()[layer].attn.scaling

    def attn_norm(self, layer: int, h: Tensor) -> Tensor:
        return self.blocks()[layer].ln_1(h)

    def mlp_norm(self, layer: int, h: Tensor) -> Tensor:
        return self.blocks()[layer].ln_2(h)

    def fused_reads(self, layer: int, normed: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        fused = self.blocks()[layer].attn.c_attn(normed)
        q, k, v = (split_heads(x, self.n_heads) for x in fused.chunk(3, dim=-1))
        return q, k, v

    def read_matrix(self, layer: int, read: Read) -> tuple[Tensor, Tensor | None]:
        fused, place = self.blocks()[layer].attn.c_attn, READS.index(read)
        weight = fused.weight.t().unflatten(0, (3, self.n_heads, self.d_head))[place]
        return weight, fused.bias.view(3, self.n_heads, self.d_head)[place]

    def head_matrix(self, layer: int) -> tuple[Tensor, Tensor | None]:
        out = self.blocks()[layer].attn.c_proj
        return out.weight.unflatten(0, (self.n_heads, self.d_head)), out.bias

    def project_heads(self, layer: int, z: Tensor) -> Tensor:
        return self.blocks()[layer].attn.c_proj(z)

    def mlp_hidden(self, layer: int, normed: Tensor) -> Tensor:
        mlp = self.blocks()[layer].mlp
        return mlp.act(mlp.c_fc(normed))

    def mlp_out(self, layer: int, hidden: Tensor) -> Tensor:
        return self.blocks()[layer].mlp.c_proj(hidden)

    def final_norm(self, h: Residual) -> Residual:
        return self.hf.transformer.ln_f(h)
