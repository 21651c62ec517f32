"""RecurrentGemma (Griffin): recurrent blocks and, in turn, blocks with attention to a window.

block:  h <- h + mixer(norm(h));  h <- h + down(act(gate(norm'(h))) * up(norm'(h)))
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from homolog.axes import Logits, Residual, Tokens
from homolog.models.decoder import Decoder, Trunk, normed
from homolog.models.llama import attention_parts, hidden_of
from homolog.models.mixers.attention import Attention
from homolog.models.mixers.attention_parts import AttentionParts
from homolog.models.mixers.base import Branch, Context, Mixer
from homolog.models.mixers.rg_lru import FIRST, RGLRU
from homolog.models.mlp import MLP


class RecurrentGemma(Decoder):
    """Adapter over `transformers.RecurrentGemmaForCausalLM`.

    Blocks of attention have rotary tables of their own, all the same.
    """

    architecture = "recurrent_gemma"

    @property
    def trunk(self) -> Trunk:  # pyright: ignore[reportIncompatibleVariableOverride]
        kinds = self.hf.config.layers_block_type
        attending = [layer for layer, kind in enumerate(kinds) if kind == "sliding_attention"]
        tables = [f"model.layers.{layer}.temporal_block.rotary_emb" for layer in attending]
        return Trunk("model.layers", "model.final_norm", tables[0] if tables else None)

    def steps(self, layer: int, block: Any) -> Sequence[Sequence[Branch]]:
        mlp = block.mlp_block
        local = MLP(layer, normed(block.channel_pre_norm), hidden_of(mlp), mlp.down_proj)
        return [[self._mixer(layer, block)], [local]]

    def _mixer(self, layer: int, block: Any) -> Mixer:
        norm, module = normed(block.temporal_pre_norm), block.temporal_block
        if not hasattr(module, "q_proj"):
            return RGLRU(layer, norm, module)
        return Attention(
            layer, norm, AttentionParts(**attention_parts(self.hf.config, module, layer))
        )

    def context_at(self, positions: Tensor, length: int, embedded: Tensor) -> Context:
        """Also where the window begins: the first write is not scaled."""
        first = (positions == 0).unsqueeze(-1)
        return {**super().context_at(positions, length, embedded), FIRST: (first, ~first)}

    def embed(self, tokens: Tokens) -> Residual:
        embedded = super().embed(tokens)
        return embedded * self.hf.get_buffer("model.normalizer").to(embedded.dtype)

    def logits(self, h: Residual) -> Logits:
        cap = self.hf.config.logits_soft_cap
        return torch.tanh(super().logits(h) / cap) * cap
