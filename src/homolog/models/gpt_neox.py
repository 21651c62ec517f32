"""GPT-NeoX (Pythia): parallel or sequential attention and MLP, rotary positions."""

from __future__ import annotations

from contextlib import nullcontext
from typing import Any

import torch
from torch import Tensor
from transformers.masking_utils import create_causal_mask

from homolog.axes import Residual
from homolog.models.base import Hooked, LanguageModel, Taps


class GPTNeoX(LanguageModel):
    """Adapter over `transformers.GPTNeoXForCausalLM`."""

    architecture = "gpt_neox"
    site_kinds = ("mlp_hidden", "resid")
    neuron_kinds = ("mlp_hidden",)

    def _blocks(self) -> Any:
        return self.hf.gpt_neox.layers

    def _embedding(self) -> torch.nn.Embedding:
        return self.hf.gpt_neox.embed_in

    def _context(self, embedded: Residual) -> dict[str, Tensor | None]:
        position_ids = torch.arange(embedded.shape[1], device=embedded.device)[None]
        mask = create_causal_mask(
            config=self.hf.config,
            inputs_embeds=embedded,
            attention_mask=None,
            past_key_values=None,
            position_ids=position_ids,
        )
        rotary = self.hf.gpt_neox.rotary_emb(embedded, position_ids=position_ids)
        return {"attention_mask": mask, "position_ids": position_ids, "position_embeddings": rotary}

    def _block(self, layer: int, h: Residual, context: dict[str, Tensor | None], taps: Taps) -> Residual:
        block = self._blocks()[layer]
        hidden = Hooked(block.mlp.act, lambda value: taps("mlp_hidden", layer, value))
        with hidden if taps.touches("mlp_hidden", layer) else nullcontext():
            return block(h, **context)

    def _final_norm(self, h: Residual) -> Residual:
        return self.hf.gpt_neox.final_layer_norm(h)
