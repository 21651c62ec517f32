"""What all decoder Transformers share: one block over the weights of the Hugging Face modules.

    q, k, v   = projections of norm(h), rotated where the architecture rotates
    z         = softmax(q k / sqrt(d_head), causal) v                          per head
    attn_out  = sum over heads of z W_O, and the bias
    parallel:    h <- h + attn_out + MLP(norm'(h))
    sequential:  h <- h + attn_out;  h <- h + MLP(norm'(h))

A site that is neither read nor edited costs nothing: the pattern is formed, heads are projected one
by one and their inputs are split only where a run asks for it.  What is only read is computed
beside the pass, and what an edit (or a gradient) goes through in its place; scores, pattern and
head_out are then in float32 or wider.  Models run in eval mode; dropout is not applied.
"""

from __future__ import annotations

from abc import abstractmethod
from dataclasses import dataclass
from typing import Any, Literal

import torch
import torch.nn.functional as F
from torch import Tensor
from transformers.pytorch_utils import Conv1D

from homolog.axes import Residual
from homolog.models.base import apply_norm, widened
from homolog.models.blockwise import Blockwise
from homolog.models.guards import as_it_was
from homolog.models.products import linear, project
from homolog.models.taps import NOTHING, Taps

Read = Literal["query", "key", "value"]
READS: tuple[Read, ...] = ("query", "key", "value")
Rotary = tuple[Tensor, Tensor] | None  # cosines and sines, (1, position, rotary dimensions)


@dataclass(frozen=True)
class Parts:
    """Where the modules of an architecture lie: dotted names in the model, and in each block.

    heads_out projects the flattened heads, mlp_out what the MLP's nonlinearity leaves.  rotary
    makes tables of positions; None where nothing is rotated.
    """

    blocks: str
    final_norm: str
    attn_norm: str
    heads_out: str
    mlp_norm: str
    mlp_out: str
    rotary: str | None = None


class Transformer(Blockwise):
    """Base of the Transformer adapters.

    Attributes
        n_heads, n_kv_heads   query heads; key and value heads (fewer where heads share them)
        d_head                width of a head
        parallel              whether attention and MLP both read the block's input
    An adapter says where the `parts` of its modules are, and how heads and the MLP read.
    """

    neuron_kinds = ("mlp_hidden",)
    parts: Parts
    parallel = False

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        config = self.hf.config
        self.n_heads = config.num_attention_heads
        self.n_kv_heads = getattr(config, "num_key_value_heads", None) or self.n_heads
        self.d_head = getattr(config, "head_dim", None) or self.d_model // self.n_heads

    def blocks(self) -> Any:
        return self.hf.get_submodule(self.parts.blocks)

    def _part(self, layer: int, name: str) -> Any:
        return self.blocks()[layer].get_submodule(name)

    @property
    def site_kinds(self) -> tuple[str, ...]:  # pyright: ignore[reportIncompatibleVariableOverride]
        middle = () if self.parallel else ("resid_mid",)
        reads = (*(f"{read}_in" for read in READS), *READS)
        attention = (*reads, "pattern", "z", "head_out", "attn_out")
        return ("resid_pre", *attention, *middle, "mlp_in", "mlp_hidden", "mlp_out", "resid")

    def attn_norm(self, layer: int, h: Tensor) -> Tensor:
        """What the heads read of the residual stream."""
        return apply_norm(self._part(layer, self.parts.attn_norm), h)

    def mlp_norm(self, layer: int, h: Tensor) -> Tensor:
        """What the MLP reads of the residual stream."""
        return apply_norm(self._part(layer, self.parts.mlp_norm), h)

    @abstractmethod
    def fused_reads(self, layer: int, normed: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Queries, keys and values of all heads, (..., head, d_head), before rotary positions."""

    @abstractmethod
    def read_matrix(self, layer: int, read: Read) -> tuple[Tensor, Tensor | None]:
        """Weight (head, d_head, d_model) and bias (head, d_head) of reads of the normed stream."""

    def head_matrix(self, layer: int) -> tuple[Tensor, Tensor | None]:
        """W_O (head, d_head, d_model), and the bias (d_model,) added to the sum of the heads."""
        out = self._part(layer, self.parts.heads_out)
        weight = out.weight if isinstance(out, Conv1D) else out.weight.t()
        return weight.unflatten(0, (self.n_heads, self.d_head)), out.bias

    def project_heads(self, layer: int, z: Tensor) -> Tensor:
        """attn_out from z flattened over heads, (..., head * d_head)."""
        return linear(self._part(layer, self.parts.heads_out), z)

    @abstractmethod
    def mlp_hidden(self, layer: int, normed: Tensor) -> Tensor:
        """What the last matrix of the MLP reads."""

    def mlp_out(self, layer: int, hidden: Tensor) -> Tensor:
        """What the MLP writes."""
        return linear(self._part(layer, self.parts.mlp_out), hidden)

    def final_norm(self, h: Residual) -> Residual:
        return apply_norm(self.hf.get_submodule(self.parts.final_norm), h)

    def scale(self, layer: int) -> float:
        """The factor of the attention scores."""
        return self.d_head**-0.5

    def rotate(self, x: Tensor, rotary: Rotary) -> Tensor:
        """x (..., position, head, d_head) with its first dimensions rotated by the position."""
        if rotary is None:
            return x
        cos, sin = (t.unsqueeze(-2) for t in rotary)
        width = cos.shape[-1]
        turned, kept = x[..., :width], x[..., width:]
        first, second = turned.chunk(2, dim=-1)
        turned = turned * cos + torch.cat([-second, first], dim=-1) * sin
        return torch.cat([turned, kept], dim=-1) if kept.shape[-1] else turned

    def block(self, layer: int, h: Residual, context: Rotary, taps: Taps) -> Residual:
        return self.after_attention(layer, h, self._attention(layer, h, context, taps), taps)

    def _attention(self, layer: int, h: Residual, rotary: Rotary, taps: Taps) -> Tensor:
        reads = zip(READS, self._reads(layer, h, taps), strict=True)
        q, k, v = (taps(read, layer, x) for read, x in reads)
        q, k = self.rotate(q, rotary), self.rotate(k, rotary)
        q, k, v = (x.transpose(-3, -2) for x in (q, k, v))  # (batch, head, position, d_head)
        grouped = self.n_kv_heads != self.n_heads
        through = taps.splits(["pattern"], layer, q)
        if through or taps.touches("pattern", layer):
            pattern = taps("pattern", layer, self._pattern(layer, q, k))
        if through:
            z = (pattern @ widened(self._each_head(v))).to(v.dtype)
        else:
            z = F.scaled_dot_product_attention(
                q, k, v, is_causal=True, scale=self.scale(layer), enable_gqa=grouped
            )
        z = taps("z", layer, z.transpose(1, 2))
        through = taps.splits(["head_out"], layer, z)
        if through or taps.touches("head_out", layer):
            weight, bias = self.head_matrix(layer)
            heads = torch.einsum("bphd,hdm->bphm", widened(z), widened(weight))
            heads = taps("head_out", layer, heads)
        if through:
            summed = heads.sum(2)
            return taps("attn_out", layer, (summed if bias is None else summed + bias).to(z.dtype))
        return taps("attn_out", layer, self.project_heads(layer, z.flatten(-2)))

    def _pattern(self, layer: int, q: Tensor, k: Tensor) -> Tensor:
        """Softmax of the scores, in float32 or wider: half precision ends at scores of 65,504."""
        scores = widened(q) @ widened(self._each_head(k)).transpose(-1, -2) * self.scale(layer)
        length = scores.shape[-1]
        future = torch.ones(length, length, dtype=torch.bool, device=scores.device).triu(1)
        return scores.masked_fill(future, -torch.inf).softmax(-1)

    def _each_head(self, x: Tensor) -> Tensor:
        """Keys or values (batch, kv head, position, d_head), once for each query head."""
        shared = self.n_heads // self.n_kv_heads
        return x if shared == 1 else x.repeat_interleave(shared, dim=1)

    def _reads(self, layer: int, h: Residual, taps: Taps) -> tuple[Tensor, ...]:
        """Queries, keys, values: from one projection, or by head where their inputs are passed."""
        kinds = [f"{read}_in" for read in READS]
        through, inputs = taps.splits(kinds, layer, h), []
        for kind, read in zip(kinds, READS, strict=True):
            if through or taps.touches(kind, layer):
                heads = self.n_heads if read == "query" else self.n_kv_heads
                by_head = h.unsqueeze(-2).expand(*h.shape[:-1], heads, h.shape[-1])
                inputs.append(taps(kind, layer, by_head))
        if through:
            return tuple(self.read(layer, *one) for one in zip(READS, inputs, strict=True))
        return self.fused_reads(layer, self.attn_norm(layer, h))

    def read(self, layer: int, read: Read, streams: Tensor, head: int | None = None) -> Tensor:
        """What heads read of residual streams of their own, before rotary positions.

        streams (..., head, d_model) -> (..., head, d_head); with `head` given, (..., d_model) ->
        (..., d_head).
        """
        weight, bias = self.read_matrix(layer, read)
        normed = self.attn_norm(layer, streams)
        if head is not None:
            return project(normed, weight[head], None if bias is None else bias[head])
        out = torch.einsum("...hm,hdm->...hd", normed, weight)
        return out if bias is None else out + bias

    def after_attention(
        self, layer: int, h: Residual, attn_out: Tensor, taps: Taps = NOTHING
    ) -> Residual:
        """The residual stream after the block, from that before it and the attention's output.

        Position by position.
        """
        if self.parallel:
            return self._mlp(layer, h, taps) + attn_out + h
        h = taps("resid_mid", layer, attn_out + h)
        return h + self._mlp(layer, h, taps)

    def _mlp(self, layer: int, h: Residual, taps: Taps) -> Tensor:
        normed = self.mlp_norm(layer, taps("mlp_in", layer, h))
        hidden = taps("mlp_hidden", layer, self.mlp_hidden(layer, normed))
        return taps("mlp_out", layer, self.mlp_out(layer, hidden))

    def context(self, embedded: Residual) -> Any:
        length = embedded.shape[1]
        return self.rotary(torch.arange(length, device=embedded.device)[None], length, embedded)

    def rotary(self, positions: Tensor, length: int, like: Tensor) -> Rotary:
        """Rotary tables of some positions of a window of `length`; None where none is rotated.

        positions (batch, position) -> (batch, position, rotary dimensions) each, in the dtype of
        `like`.  The frequencies of some models follow the window's length, so that the whole
        window's table is made; nothing of it stays in the module.
        """
        if self.parts.rotary is None:
            return None
        module: Any = self.hf.get_submodule(self.parts.rotary)
        with as_it_was(module):
            window = module(like, position_ids=torch.arange(length, device=like.device)[None])
        cos, sin = (table[0, positions] for table in window)
        return cos, sin


def split_heads(x: Tensor, n_heads: int) -> Tensor:
    """(..., head * d_head) -> (..., head, d_head)."""
    return x.unflatten(-1, (n_heads, -1))
