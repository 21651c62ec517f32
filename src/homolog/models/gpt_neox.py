"""GPT-NeoX (Pythia): parallel or sequential attention and MLP, rotary positions."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from homolog.models.decoder import Decoder, Trunk, normed
from homolog.models.mixers.attention import Attention
from homolog.models.mixers.attention_parts import AttentionParts
from homolog.models.mixers.base import Branch
from homolog.models.mixers.projections import FusedByHead
from homolog.models.mlp import MLP, plain


class GPTNeoX(Decoder):
    """Adapter over `transformers.GPTNeoXForCausalLM`.

    Its fused projection holds query, key and value head by head.
    """

    architecture = "gpt_neox"
    trunk = Trunk("gpt_neox.layers", "gpt_neox.final_layer_norm", "gpt_neox.rotary_emb")

    def steps(self, layer: int, block: Any) -> Sequence[Sequence[Branch]]:
        config, attention, mlp = self.hf.config, block.attention, block.mlp
        n_heads = config.num_attention_heads
        d_head = self.d_model // n_heads
        parts = AttentionParts(
            project=FusedByHead(attention.query_key_value, n_heads, d_head),
            out=attention.dense,
            n_heads=n_heads,
            n_kv_heads=n_heads,
            d_head=d_head,
            scale=d_head**-0.5,
        )
        mixer = Attention(layer, normed(block.input_layernorm), parts)
        hidden = plain(mlp.act, mlp.dense_h_to_4h)
        local = MLP(layer, normed(block.post_attention_layernorm), hidden, mlp.dense_4h_to_h)
        return [[mixer, local]] if config.use_parallel_residual else [[mixer], [local]]
