"""Llama: root-mean-square norms, rotary positions, shared key and value heads, a gated MLP.

mlp_hidden = act(gate_proj(x)) * up_proj(x);  mlp_out = down_proj(mlp_hidden)
"""

from __future__ import annotations

from torch import Tensor

from homolog.models.products import linear
from homolog.models.transformer import Parts, Read, Transformer, split_heads


class Llama(Transformer):
    """Adapter over `transformers.LlamaForCausalLM`.

    Query head i reads key and value head i // (n_heads / n_kv_heads).  Rotary scaling is that of
    the module.
    """

    architecture = "llama"
    parts = Parts(
        blocks="model.layers",
        final_norm="model.norm",
        rotary="model.rotary_emb",
        attn_norm="input_layernorm",
        heads_out="self_attn.o_proj",
        mlp_norm="post_attention_layernorm",
        mlp_out="mlp.down_proj",
    )

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

    def mlp_hidden(self, layer: int, normed: Tensor) -> Tensor:
        mlp = self.blocks()[layer].mlp
        return mlp.act_fn(linear(mlp.gate_proj, normed)) * linear(mlp.up_proj, normed)
