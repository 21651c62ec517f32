"""Softmax attention: a memory of keys and values, read by queries.

    q, k, v  = projections of norm(h), normed where the model norms them, rotated where it rotates
    pattern  = softmax of the scores of q and k
    z        = pattern v                                                per head
    out      = sum over heads of (z, times a gate where there is one) W_O, and the bias

A site that is neither read nor edited costs nothing: the pattern is formed, heads are projected one
by one and their inputs are split only where a run asks for it.  What is only read is computed
beside the pass, and what an edit (or a gradient) goes through in its place; pattern and head_out
are then in float32 or wider.

The layer's parts are in `attention_parts.py`, the memory and how it is read in
`attention_memory.py`, a head by itself in `one_head.py`.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor

from homolog.axes import Residual
from homolog.models.mixers.attention_memory import KeyValues, Reader
from homolog.models.mixers.attention_parts import AttentionParts
from homolog.models.mixers.base import Context, Inputs, Mixer, Norm
from homolog.models.mixers.projections import READS, Read
from homolog.models.taps import Taps
from homolog.models.widening import widened

GATE, BESIDE = "head_gate", "embed_in"


class Attention(Mixer):
    """Softmax attention of one block."""

    kind = "attention"
    readout = "z"
    stream, out = "query_in", "attn_out"

    def __init__(self, layer: int, norm: Norm, parts: AttentionParts) -> None:
        self.layer, self.norm, self.parts = layer, norm, parts
        self.n_heads, self.n_kv_heads = parts.n_heads, parts.n_kv_heads
        self.reader = Reader(parts)
        reads = (*(f"{read}_in" for read in READS), *READS)
        gate = () if parts.gate is None else (GATE,)
        self.beside = BESIDE if parts.beside else None
        beside = (BESIDE,) if parts.beside else ()
        self.sites = (*beside, *reads, *gate, "pattern", "z", "head_out", "attn_out")
        self.inputs = (*READS, *gate)

    @property
    def additive(self) -> bool:
        """Whether what the heads project to is added to the stream as it is."""
        return self.parts.after is None

    @property
    def leaves_alone(self) -> bool:
        return self.parts.gate is None

    def __call__(self, h: Residual, context: Context, taps: Taps) -> Residual:
        layer, parts, reader = self.layer, self.parts, self.reader
        embedded = parts.embedded_of(context)
        if embedded is not None:
            embedded = taps(BESIDE, layer, embedded)
        normed, q, k, v = self._reads(h, embedded, taps)
        q, k, v = (taps(read, layer, x) for read, x in zip(READS, (q, k, v), strict=True))
        rotary = parts.rotary_of(context)
        q, k = parts.turned("query", q, rotary), parts.turned("key", k, rotary)
        q, k, v = (x.transpose(-3, -2) for x in (q, k, v))
        through = taps.splits(["pattern"], layer, q)
        if through or taps.touches("pattern", layer):
            pattern = taps("pattern", layer, reader.pattern(q, k))
        if through:
            z = reader.weighed(pattern, v)
        elif not reader.sees_all(h.shape[1]) or parts.soft_cap or parts.sinks is not None:
            z = reader.weighed(reader.pattern(q, k), v)
        else:
            grouped = self.n_kv_heads != self.n_heads
            z = F.scaled_dot_product_attention(
                q, k, v, is_causal=True, scale=parts.scale, enable_gqa=grouped
            )
        z = taps("z", layer, z.transpose(1, 2))
        if parts.gate is not None:
            z = z * taps(GATE, layer, parts.gate(normed))
        through = taps.splits(["head_out"], layer, z)
        if through or taps.touches("head_out", layer):
            heads = taps("head_out", layer, parts.by_head(z))
        out = parts.summed(heads, z.dtype) if through else parts.projected(z)
        return taps("attn_out", layer, out if parts.after is None else parts.after(out))

    def _reads(self, h: Residual, embedded: Tensor | None, taps: Taps) -> tuple[Tensor, ...]:
        """Normed stream, queries, keys, values: by head where their inputs are passed."""
        kinds = [f"{read}_in" for read in READS]
        through, inputs = taps.splits(kinds, self.layer, h), []
        for kind, read in zip(kinds, READS, strict=True):
            if through or taps.touches(kind, self.layer):
                heads = self.n_heads if read == "query" else self.n_kv_heads
                by_head = h.unsqueeze(-2).expand(*h.shape[:-1], heads, h.shape[-1])
                inputs.append(taps(kind, self.layer, by_head))
        normed = self._normed(h, embedded)
        if through:
            by_read = zip(READS, inputs, strict=True)
            return normed, *(self.read_streams(read, x, embedded) for read, x in by_read)
        q, k, v = self.parts.project(normed)
        each = zip(READS, (q, k, v), strict=True)
        return normed, *(self.parts.normed(read, x) for read, x in each)

    def _normed(self, h: Tensor, embedded: Tensor | None) -> Tensor:
        """The norm of streams (..., d_model), with the embeddings beside them if they are read."""
        if embedded is not None:
            h = torch.cat([h, embedded.expand_as(h)], -1)
        return self.norm(h)

    def read_streams(
        self, read: Read, streams: Tensor, embedded: Tensor | None, head: int | None = None
    ) -> Tensor:
        """What heads read of residual streams of their own, before rotary positions.

        streams (..., head, d_model) -> (..., head, d_head); with `head` given, (..., d_model) ->
        (..., d_head).  embedded (..., d_model): what is read beside all of them.
        """
        if embedded is not None and head is None:
            embedded = embedded.unsqueeze(-2)
        normed, of = self._normed(streams, embedded), self.parts.project.of_streams
        if head is None:
            return self.parts.normed(read, of(read, normed))
        if self.parts.norm_of(read) is None:
            return of(read, normed, head)
        heads = self.n_heads if read == "query" else self.n_kv_heads
        by_head = normed.unsqueeze(-2).expand(*normed.shape[:-1], heads, -1)
        return self.parts.normed(read, of(read, by_head))[..., head, :]

    # --- the protocol

    def enter(self, h: Tensor, context: Context) -> Inputs:
        normed = self._normed(h, self.parts.embedded_of(context))
        each = zip(READS, self.parts.project(normed), strict=True)
        values: Inputs = {read: self.parts.normed(read, x) for read, x in each}
        if self.parts.gate is not None:
            values[GATE] = self.parts.gate(normed)
        return self.prepared(values, context)

    def prepared(self, values: Inputs, context: Context) -> Inputs:
        rotary = self.parts.rotary_of(context)
        turned = {r: self.parts.turned(r, values[r], rotary) for r in READS[:2] if r in values}
        return values | turned

    def memory(self, inputs: Inputs) -> KeyValues:
        return KeyValues(inputs["key"], inputs["value"])

    def read(self, memory: KeyValues, at: Inputs) -> Tensor:
        """z (..., prompt, head, d_head) of the last position."""
        return self.reader.read(at["query"], memory)

    def rewritten(self, inputs: Inputs, positions: Tensor, new: Inputs) -> KeyValues:
        return self.memory(inputs).replaced(positions, new)

    def reread(self, inputs: Inputs, positions: Tensor, new: Inputs, end: Inputs) -> Tensor:
        """As the base says; a last position reads with its new query."""
        return self.reader.reread(end["query"], self.memory(inputs), positions, new)

    def attention(
        self, inputs: Inputs, queries: Sequence[int], removed: Tensor | None = None
    ) -> Tensor:
        """As the base says: the pattern.  Of weights that are all removed it is NaN."""
        key = inputs["key"]
        at = torch.tensor([query % key.shape[1] for query in queries], device=key.device)
        q, k = inputs["query"][:, at].transpose(1, 2), key.transpose(1, 2)
        return self.reader.pattern(q, k, at, removed)

    def carried(self, inputs: Inputs) -> Tensor:
        return widened(inputs["value"]).repeat_interleave(self.reader.shared, dim=-2)

    def leave(self, at: Inputs, readout: Tensor) -> Tensor:
        z = readout.to(self.parts.out.weight.dtype)
        out = self.parts.projected(z if self.parts.gate is None else z * at[GATE])
        return out if self.parts.after is None else self.parts.after(out)

    def leave_heads(
        self, at: Inputs, readout: Tensor, heads: Sequence[int], new: Tensor, out: Tensor
    ) -> Tensor:
        chosen = list(heads)
        change = new - readout[:, chosen].transpose(0, 1)
        if self.parts.gate is not None:
            change = change * at[GATE][:, chosen].transpose(0, 1)
        if self.additive:
            weight = self.parts.head_matrix()[0][chosen]
            return out + torch.bmm(change.to(weight.dtype), weight)
        rows = readout.expand(len(chosen), *readout.shape).clone()
        rows[torch.arange(len(chosen)), :, chosen] = new.to(rows.dtype)
        return self.leave(at, rows)
