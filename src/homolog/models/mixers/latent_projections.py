"""Multi-head latent attention: keys and values that are stored as one short vector."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from homolog.models.mixers.projections import Projections, Read, of_each
from homolog.models.products import linear
from homolog.models.widening import apply_norm


class Latent(Projections):
    """Keys and values of one short vector that all heads share [DeepSeek-AI 2024, section 2.1].

    c, r     = W_a x                       r: the part of the keys that all heads have
    key_h    = [K_h norm(c), r]
    value_h  = V_h norm(c)
    query_h  = Q_h x, or Q_h norm(W_q x)

    Source: "DeepSeek-V2", 2024.  module: as `DeepseekV3Attention` of transformers.
    """

    def __init__(self, module: Any) -> None:
        self._module = module
        self._widths = [module.qk_nope_head_dim, module.v_head_dim]

    def __call__(self, normed: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        by_head = (self._module.num_heads, -1)
        x, last = self._before_query(normed)
        q = linear(last, x).unflatten(-1, by_head)
        c, r = self._shared(normed)
        k, v = linear(self._module.kv_b_proj, c).unflatten(-1, by_head).split(self._widths, -1)
        return q, torch.cat([k, r.unsqueeze(-2).expand(*k.shape[:-1], -1)], -1), v

    def of_streams(self, read: Read, normed: Tensor, head: int | None = None) -> Tensor:
        by_head = (self._module.num_heads, -1)
        if read == "query":
            x, last = self._before_query(normed)
            return of_each(x, last.weight.unflatten(0, by_head), None, head)
        c, r = self._shared(normed)
        key, value = self._module.kv_b_proj.weight.unflatten(0, by_head).split(self._widths, 1)
        if read == "value":
            return of_each(c, value, None, head)
        return torch.cat([of_each(c, key, None, head), r], -1)

    def _before_query(self, normed: Tensor) -> tuple[Tensor, Any]:
        """What the queries' last matrix reads, and its module."""
        module = self._module
        if module.q_lora_rank is None:
            return normed, module.q_proj
        return apply_norm(module.q_a_layernorm, linear(module.q_a_proj, normed)), module.q_b_proj

    def _shared(self, normed: Tensor) -> tuple[Tensor, Tensor]:
        """What keys and values are made of, normed; and the part of the keys as it is."""
        widths = [self._module.kv_lora_rank, self._module.qk_rope_head_dim]
        c, r = linear(self._module.kv_a_proj_with_mqa, normed).split(widths, -1)
        return apply_norm(self._module.kv_a_layernorm, c), r
