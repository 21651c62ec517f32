"""What all decoder Transformers share: one block, written once over the weights of the Hugging Face modules.

    q, k, v   = projections of norm(h), rotated where the architecture rotates
    z         = softmax(q k / sqrt(d_head), causal) v                          per head
    attn_out  = sum over heads of z W_O, and the bias
    parallel:    h <- h + attn_out + MLP(norm'(h))
    sequential:  h <- h + attn_out;  h <- h + MLP(norm'(h))

A site that is neither read nor edited costs nothing: the pattern is formed, heads are projected one by one and their
inputs are split only where a run asks for it.  Models run in eval mode; dropout is not applied.
"""

from __future__ import annotations

from abc import abstractmethod
from typing import Any, Literal

import torch
import torch.nn.functional as F
from torch import Tensor

from homolog.axes import Residual
from homolog.models.base import NOTHING, Taps
from homolog.models.blockwise import Blockwise
from homolog.models.products import project

Read = Literal["query", "key", "value"]
READS: tuple[Read, ...] = ("query", "key", "value")
Rotary = tuple[Tensor, Tensor] | None  # cosines and sines, (1, position, rotary dimensions)


class Transformer(Blockwise):
    """Base of the Transformer adapters.

    Attributes
        n_heads, n_kv_heads   query heads; key and value heads (fewer where heads share them)
        d_head                width of a head
        parallel              whether attention and MLP both read the block's input
    """

    neuron_kinds = ("mlp_hidden",)
    n_heads: int
    n_kv_heads: int
    d_head: int
    parallel = False

    @property
    def site_kinds(self) -> tuple[str, ...]:  # pyright: ignore[reportIncompatibleVariableOverride]
        middle = () if self.parallel else ("resid_mid",)
        first = ("resid_pre", "query_in", "key_in", "value_in", "query", "key", "value", "pattern", "z", "head_out")
        return (*first, "attn_out", *middle, "mlp_in", "mlp_hidden", "mlp_out", "resid")

    @abstractmethod
    def attn_norm(self, layer: int, h: Tensor) -> Tensor: ...

    @abstractmethod
    def mlp_norm(self, layer: int, h: Tensor) -> Tensor: ...

    @abstractmethod
    def _fused_reads(self, layer: int, normed: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Queries, keys and values of all heads, (..., head, d_head) each, before rotary positions."""

    @abstractmethod
    def read_matrix(self, layer: int, read: Read) -> tuple[Tensor, Tensor | None]:
        """Weight (head, d_head, d_model) and bias (head, d_head) with which the heads read the normed stream."""

    @abstractmethod
    def head_matrix(self, layer: int) -> tuple[Tensor, Tensor | None]:
        """W_O (head, d_head, d_model) and the bias (d_model,) added once to the sum of the heads."""

    @abstractmethod
    def _project_heads(self, layer: int, z: Tensor) -> Tensor:
        """attn_out from z flattened over heads, (..., head * d_head)."""

    @abstractmethod
    def _mlp_hidden(self, layer: int, normed: Tensor) -> Tensor: ...

    @abstractmethod
    def _mlp_out(self, layer: int, hidden: Tensor) -> Tensor: ...

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

    def _block(self, layer: int, h: Residual, context: Rotary, taps: Taps) -> Residual:
        return self.after_attention(layer, h, self._attention(layer, h, context, taps), taps)

    def _attention(self, layer: int, h: Residual, rotary: Rotary, taps: Taps) -> Tensor:
        q, k, v = (taps(read, layer, x) for read, x in zip(READS, self._reads(layer, h, taps), strict=True))
        q, k = self.rotate(q, rotary), self.rotate(k, rotary)
        q, k, v = (x.transpose(-3, -2) for x in (q, k, v))  # (batch, head, position, d_head)
        grouped = self.n_kv_heads != self.n_heads
        if taps.touches("pattern", layer):
            if grouped:
                k, v = (x.repeat_interleave(self.n_heads // self.n_kv_heads, dim=1) for x in (k, v))
            z = taps("pattern", layer, self._pattern(layer, q, k)).to(v.dtype) @ v
        else:
            z = F.scaled_dot_product_attention(q, k, v, is_causal=True, scale=self.scale(layer), enable_gqa=grouped)
        z = taps("z", layer, z.transpose(1, 2))
        if taps.touches("head_out", layer):
            weight, bias = self.head_matrix(layer)
            heads = taps("head_out", layer, torch.einsum("bphd,hdm->bphm", z, weight)).sum(2)
            return taps("attn_out", layer, heads if bias is None else heads + bias)
        return taps("attn_out", layer, self._project_heads(layer, z.flatten(-2)))

    def _pattern(self, layer: int, q: Tensor, k: Tensor) -> Tensor:
        scores = q @ k.transpose(-1, -2) * self.scale(layer)
        length = scores.shape[-1]
        future = torch.ones(length, length, dtype=torch.bool, device=scores.device).triu(1)
        wide = torch.float64 if scores.dtype == torch.float64 else torch.float32
        return scores.masked_fill(future, -torch.inf).softmax(-1, dtype=wide).to(q.dtype)

    def _reads(self, layer: int, h: Residual, taps: Taps) -> tuple[Tensor, ...]:
        """Queries, keys, values: from one fused projection, or head by head where their inputs are read or edited."""
        kinds = [f"{read}_in" for read in READS]
        if not taps.touches_any(kinds, layer):
            return self._fused_reads(layer, self.attn_norm(layer, h))
        found = []
        for kind, read in zip(kinds, READS, strict=True):
            heads = self.n_heads if read == "query" else self.n_kv_heads
            value = taps(kind, layer, h.unsqueeze(-2).expand(*h.shape[:-1], heads, h.shape[-1]))
            found.append(self.read(layer, read, value))
        return tuple(found)

    def read(self, layer: int, read: Read, streams: Tensor, head: int | None = None) -> Tensor:
        """What heads read of residual streams of their own, before rotary positions.

        streams (..., head, d_model) -> (..., head, d_head); with `head` given, (..., d_model) -> (..., d_head).
        """
        weight, bias = self.read_matrix(layer, read)
        normed = self.attn_norm(layer, streams)
        if head is not None:
            return project(normed, weight[head], None if bias is None else bias[head])
        out = torch.einsum("...hm,hdm->...hd", normed, weight)
        return out if bias is None else out + bias

    def after_attention(self, layer: int, h: Residual, attn_out: Tensor, taps: Taps = NOTHING) -> Residual:
        """The residual stream after the block, from that before it and the attention's output, position by position."""
        if self.parallel:
            return self._mlp(layer, h, taps) + attn_out + h
        h = taps("resid_mid", layer, attn_out + h)
        return h + self._mlp(layer, h, taps)

    def _mlp(self, layer: int, h: Residual, taps: Taps) -> Tensor:
        normed = self.mlp_norm(layer, taps("mlp_in", layer, h))
        return taps("mlp_out", layer, self._mlp_out(layer, taps("mlp_hidden", layer, self._mlp_hidden(layer, normed))))

    def _context(self, embedded: Residual) -> Any:
        return self.rotary(torch.arange(embedded.shape[1], device=embedded.device)[None], embedded)

    def rotary(self, positions: Tensor, like: Tensor) -> Rotary:
        """Rotary tables of `positions` (batch, position) in the dtype of `like`; None where nothing is rotated."""
        return None


def split_heads(x: Tensor, n_heads: int) -> Tensor:
    """(..., head * d_head) -> (..., head, d_head)."""
    return x.unflatten(-1, (n_heads, -1))
