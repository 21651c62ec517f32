"""GPT-NeoX (Pythia): parallel or sequential attention and MLP, rotary positions."""

from __future__ import annotations

from typing import Any

from torch import Tensor

from homolog.axes import Residual
from homolog.models.products import linear
from homolog.models.transformer import READS, Read, Transformer


class GPTNeoX(Transformer):
    """Adapter over `transformers.GPTNeoXForCausalLM`.

    Its fused projection holds query, key and value head by head.
    """

    architecture = "gpt_neox"

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        config = self.hf.config
        self.n_heads = self.n_kv_heads = config.num_attention_heads
        self.d_head = config.hidden_size // config.num_attention_heads
        self.parallel = config.use_parallel_residual

    def blocks(self) -> Any:
        return self.hf.gpt_neox.layers

    def rotary_module(self) -> Any:
        return self.hf.gpt_neox.rotary_emb

    def attn_norm(self, layer: int, h: Tensor) -> Tensor:
        return self.blocks()[layer].input_layernorm(h)

    def mlp_norm(self, layer: int, h: Tensor) -> Tensor:
        return self.blocks()[layer].post_attention_layernorm(h)

    def fused_reads(self, layer: int, normed: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        fused = linear(self.blocks()[layer].attention.query_key_value, normed)
        q, k, v = fused.unflatten(-1, (self.n_heads, 3 * self.d_head)).chunk(3, dim=-1)
        return q, k, v

    def read_matrix(self, layer: int, read: Read) -> tuple[Tensor, Tensor | None]:
        fused, place = self.blocks()[layer].attention.query_key_value, READS.index(read)
        shape = (self.n_heads, 3, self.d_head)
        bias = None if fused.bias is None else fused.bias.view(shape)[:, place]
        return fused.weight.unflatten(0, shape)[:, place], bias

    def head_matrix(self, layer: int) -> tuple[Tensor, Tensor | None]:
        dense = self.blocks()[layer].attention.dense
        return dense.weight.t().unflatten(0, (self.n_heads, self.d_head)), dense.bias

    def project_heads(self, layer: int, z: Tensor) -> Tensor:
        return linear(self.blocks()[layer].attention.dense, z)

    def mlp_hidden(self, layer: int, normed: Tensor) -> Tensor:
        mlp = self.blocks()[layer].mlp
        return mlp.act(linear(mlp.dense_h_to_4h, normed))

    def mlp_out(self, layer: int, hidden: Tensor) -> Tensor:
        return linear(self.blocks()[layer].mlp.dense_4h_to_h, hidden)

    def final_norm(self, h: Residual) -> Residual:
        return self.hf.gpt_neox.final_layer_norm(h)
