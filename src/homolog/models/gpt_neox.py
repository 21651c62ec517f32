"""GPT-NeoX (Pythia): parallel or sequential attention and MLP, rotary positions."""

from __future__ import annotations

from torch import Tensor

from homolog.models.products import linear
from homolog.models.transformer import READS, Parts, Read, Transformer


class GPTNeoX(Transformer):
    """Adapter over `transformers.GPTNeoXForCausalLM`.

    Its fused projection holds query, key and value head by head.
    """

    architecture = "gpt_neox"
    parts = Parts(
        blocks="gpt_neox.layers",
        final_norm="gpt_neox.final_layer_norm",
        rotary="gpt_neox.rotary_emb",
        attn_norm="input_layernorm",
        heads_out="attention.dense",
        mlp_norm="post_attention_layernorm",
        mlp_out="mlp.dense_4h_to_h",
    )

    @property
    def parallel(self) -> bool:  # pyright: ignore[reportIncompatibleVariableOverride]
        return self.hf.config.use_parallel_residual

    def fused_reads(self, layer: int, normed: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        fused = linear(self.blocks()[layer].attention.query_key_value, normed)
        q, k, v = fused.unflatten(-1, (self.n_heads, 3 * self.d_head)).chunk(3, dim=-1)
        return q, k, v

    def read_matrix(self, layer: int, read: Read) -> tuple[Tensor, Tensor | None]:
        fused, place = self.blocks()[layer].attention.query_key_value, READS.index(read)
        shape = (self.n_heads, 3, self.d_head)
        bias = None if fused.bias is None else fused.bias.view(shape)[:, place]
        return fused.weight.unflatten(0, shape)[:, place], bias

    def mlp_hidden(self, layer: int, normed: Tensor) -> Tensor:
        mlp = self.blocks()[layer].mlp
        return mlp.act(linear(mlp.dense_h_to_4h, normed))
