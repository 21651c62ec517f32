"""Llama: root-mean-square norms, rotary positions, shared key and value heads, a gated MLP.

mlp_hidden = act(gate_proj(x)) * up_proj(x);  mlp_out = down_proj(mlp_hidden)
"""

from __future__ import annotations

from typing import Any

from torch import Tensor

from homolog.axes import Residual
from homolog.models.base import rms_norm
from homolog.models.products import linear
from homolog.models.transformer import Read, Transformer, split_heads


class Llama(Transformer):
    """Adapter over `transformers.LlamaForCausalLM`.

    Query head i reads key and value head i // (n_heads / n_kv_heads).  Rotary scaling is that of
    the module.
    """

    architecture = "llama"

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        config = self.hf.config
        self.n_heads, self.n_kv_heads = config.num_attention_heads, config.num_key_value_heads
        self.d_head = config.head_dim

    def blocks(self) -> Any:
        return self.hf.model.layers

    def rotary_module(self) -> Any:
        return self.hf.model.rotary_emb

    def attn_norm(self, layer: int, h: Tensor) -> Tensor:
        return rms_norm(self.blocks()[layer].input_layernorm, h)

    def mlp_norm(self, layer: int, h: Tensor) -> Tensor:
        return rms_norm(self.blocks()[layer].post_attention_layernorm, h)

    def fused_reads(self, layer: int, normed: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        attn, kv = self.blocks()[layer].self_attn, self.n_kv_heads
        q, k, v = (linear(read, normed) for read in (attn.q_proj, attn.k_proj, attn.v_proj))
        return split_heads(q, self.n_heads), split_heads(k, kv), split_heads(v, kv)

    def read_matrix(self, layer: int, read: Read) -> tuple[Tensor, Tensor | None]:
        attn = self.blocks()[layer].self_attn
        projection = {"query": attn.q_proj, "key": attn.k_proj, "value": attn.v_proj}[read]
        bias = projection.bias
        weight = projection.weight.unflatten(0, (-1, self.d_head))
        return weight, None if bias is None else bias.unflatten(0, (-1, self.d_head))

    def head_matrix(self, layer: int) -> tuple[Tensor, Tensor | None]:
        out = self.blocks()[layer].self_attn.o_proj
        return out.weight.t().unflatten(0, (self.n_heads, self.d_head)), out.bias

    def project_heads(self, layer: int, z: Tensor) -> Tensor:
        return linear(self.blocks()[layer].self_attn.o_proj, z)

    def mlp_hidden(self, layer: int, normed: Tensor) -> Tensor:
        mlp = self.blocks()[layer].mlp
        return mlp.act_fn(linear(mlp.gate_proj, normed)) * linear(mlp.up_proj, normed)

    def mlp_out(self, layer: int, hidden: Tensor) -> Tensor:
        return linear(self.blocks()[layer].mlp.down_proj, hidden)

    def final_norm(self, h: Residual) -> Residual:
        return rms_norm(self.hf.model.norm, h)
