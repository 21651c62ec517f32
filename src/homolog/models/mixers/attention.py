"""Softmax attention: a memory of keys and values, read by queries.

    q, k, v  = projections of norm(h), normed where the model norms them, rotated where it rotates
    score    = scale * q k, under a soft cap where there is one:  cap * tanh(score / cap)
    pattern  = softmax of the scores over the positions seen (all before, or a window of them), and
               over a sink of the head's own where it has one
    z        = pattern v                                                per head
    out      = sum over heads of (z, times a gate where there is one) W_O, and the bias

Query head i reads key and value head i // (n_heads / n_kv_heads).  A site that is neither read nor
edited costs nothing: the pattern is formed, heads are projected one by one and their inputs are
split only where a run asks for it.  What is only read is computed beside the pass, and what an edit
(or a gradient) goes through in its place; scores, pattern and head_out are then in float32 or
wider.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor
from transformers.pytorch_utils import Conv1D

from homolog.axes import Residual
from homolog.models.mixers.base import Context, Inputs, Mixer, Norm, Rotary
from homolog.models.mixers.projections import READS, Projections, Read
from homolog.models.mixers.rotary import rotate
from homolog.models.products import linear
from homolog.models.taps import Taps
from homolog.models.widening import widened

GATE = "head_gate"


@dataclass(frozen=True)
class AttentionParts:
    """What an attention layer is made of, as its family has it.

    project          queries, keys and values of the normed stream
    out              the module that projects the flattened heads
    n_heads, n_kv_heads, d_head   d_head of queries and keys
    scale            factor of the scores
    rotary, table, turn     whether queries and keys are rotated, by which of the context's tables,
                     and how
    window           how many positions a query sees, its own among them; None: all
    soft_cap         of the scores
    sinks            (head,): the score of each head's sink
    norms            of queries, keys and, where there are three, values (..., head, d_head), before
                     rotary positions
    late_norms       of queries and keys once rotated
    gate             what the heads are multiplied with, (..., head, d_value), of the normed stream
    after            what is done to the output before it is added: a norm, a factor
    """

    project: Projections
    out: Any
    n_heads: int
    n_kv_heads: int
    d_head: int
    scale: float
    rotary: bool = True
    table: str | None = None
    turn: Callable[[Tensor, Rotary], Tensor] = rotate
    window: int | None = None
    soft_cap: float | None = None
    sinks: Tensor | None = None
    norms: tuple[Norm, ...] | None = None
    late_norms: tuple[Norm, Norm] | None = None
    gate: Callable[[Tensor], Tensor] | None = None
    after: Norm | None = None


class KeyValues(NamedTuple):
    """Keys, rotated, and values of some positions: (..., prompt, position, kv head, d_head)."""

    key: Tensor
    value: Tensor


class Attention(Mixer):
    """Softmax attention of one block."""

    kind = "attention"
    readout = "z"
    stream, out = "query_in", "attn_out"

    def __init__(self, layer: int, norm: Norm, parts: AttentionParts) -> None:
        self.layer, self.norm, self.parts = layer, norm, parts
        self.n_heads, self.n_kv_heads = parts.n_heads, parts.n_kv_heads
        reads = (*(f"{read}_in" for read in READS), *READS)
        gate = () if parts.gate is None else (GATE,)
        self.sites = (*reads, *gate, "pattern", "z", "head_out", "attn_out")
        self.inputs = (*READS, *gate)

    @property
    def additive(self) -> bool:
        """Whether what the heads project to is added to the stream as it is."""
        return self.parts.after is None

    @property
    def leaves_alone(self) -> bool:
        return self.parts.gate is None

    def __call__(self, h: Residual, context: Context, taps: Taps) -> Residual:
        layer, parts = self.layer, self.parts
        normed, q, k, v = self._reads(h, taps)
        q, k, v = (taps(read, layer, x) for read, x in zip(READS, (q, k, v), strict=True))
        rotary = self._rotary(context)
        q, k = self._turned("query", q, rotary), self._turned("key", k, rotary)
        q, k, v = (x.transpose(-3, -2) for x in (q, k, v))
        through = taps.splits(["pattern"], layer, q)
        if through or taps.touches("pattern", layer):
            pattern = taps("pattern", layer, self._pattern(q, k))
        if through:
            z = (pattern @ widened(self._each_head(v))).to(v.dtype)
        elif self._narrowed(h.shape[1]) or parts.soft_cap or parts.sinks is not None:
            z = (self._pattern(q, k) @ widened(self._each_head(v))).to(v.dtype)
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
            heads = taps("head_out", layer, self.by_head(z))
        out = self._summed(heads, z.dtype) if through else self._project(z)
        return taps("attn_out", layer, out if parts.after is None else parts.after(out))

    def _reads(self, h: Residual, taps: Taps) -> tuple[Tensor, ...]:
        """Normed stream, queries, keys, values: by head where their inputs are passed."""
        kinds = [f"{read}_in" for read in READS]
        through, inputs = taps.splits(kinds, self.layer, h), []
        for kind, read in zip(kinds, READS, strict=True):
            if through or taps.touches(kind, self.layer):
                heads = self.n_heads if read == "query" else self.n_kv_heads
                by_head = h.unsqueeze(-2).expand(*h.shape[:-1], heads, h.shape[-1])
                inputs.append(taps(kind, self.layer, by_head))
        normed = self.norm(h)
        if through:
            return normed, *(self.read_streams(*one) for one in zip(READS, inputs, strict=True))
        q, k, v = self.parts.project(normed)
        each = zip(READS, (q, k, v), strict=True)
        return normed, *(self._normed(read, x) for read, x in each)

    def _norm_of(self, read: Read) -> Norm | None:
        norms, place = self.parts.norms or (), READS.index(read)
        return norms[place] if place < len(norms) else None

    def _normed(self, read: Read, x: Tensor) -> Tensor:
        norm = self._norm_of(read)
        return x if norm is None else norm(x)

    def _turned(self, read: Read, x: Tensor, rotary: Rotary) -> Tensor:
        """Queries or keys as the scores take them."""
        x, norms = self.parts.turn(x, rotary), self.parts.late_norms
        return x if norms is None else norms[READS.index(read)](x)

    def read_streams(self, read: Read, streams: Tensor, head: int | None = None) -> Tensor:
        """What heads read of residual streams of their own, before rotary positions.

        streams (..., head, d_model) -> (..., head, d_head); with `head` given, (..., d_model) ->
        (..., d_head).
        """
        normed, of = self.norm(streams), self.parts.project.of_streams
        if head is None:
            return self._normed(read, of(read, normed))
        if self._norm_of(read) is None:
            return of(read, normed, head)
        heads = self.n_heads if read == "query" else self.n_kv_heads
        by_head = normed.unsqueeze(-2).expand(*normed.shape[:-1], heads, -1)
        return self._normed(read, of(read, by_head))[..., head, :]

    def _rotary(self, context: Context) -> Rotary:
        return context[self.parts.table] if self.parts.rotary else None

    def _narrowed(self, length: int) -> bool:
        """Whether some position of so long a window does not see all before it."""
        return self.parts.window is not None and self.parts.window < length

    # --- scores

    def _pattern(
        self,
        q: Tensor,
        k: Tensor,
        queries: Tensor | None = None,
        removed: Tensor | None = None,
    ) -> Tensor:
        """Softmax of the scores, in float32 or wider: half precision ends at scores of 65,504.

        queries  positions of q, all by default;   removed  what else they do not see
        """
        scores = widened(q) @ widened(self._each_head(k)).transpose(-1, -2) * self.parts.scale
        length = scores.shape[-1]
        at = torch.arange(length, device=scores.device)
        unseen = self._unseen((at if queries is None else queries)[:, None] - at)
        unseen = unseen if removed is None else unseen | removed
        return self._softmax(scores, unseen, head_axis=-3)

    def _unseen(self, back: Tensor) -> Tensor:
        """Which keys a query does not see, from how many positions before it they stand."""
        unseen = back < 0
        return unseen if self.parts.window is None else unseen | (back >= self.parts.window)

    def _softmax(self, scores: Tensor, unseen: Tensor | None, head_axis: int) -> Tensor:
        """Pattern of scores, whose last axis is the key's position; without the sink's share."""
        if self.parts.soft_cap is not None:
            scores = torch.tanh(scores / self.parts.soft_cap) * self.parts.soft_cap
        if unseen is not None:
            scores = scores.masked_fill(unseen, -torch.inf)
        if self.parts.sinks is None:
            return scores.softmax(-1)
        shape = [1] * scores.ndim
        shape[head_axis] = -1
        sink = widened(self.parts.sinks).to(scores.dtype).view(shape)
        with_sink = torch.cat([scores, sink.expand(*scores.shape[:-1], 1)], -1)
        return with_sink.softmax(-1)[..., :-1]

    def _each_head(self, x: Tensor) -> Tensor:
        """Keys or values (batch, kv head, position, d_head), once for each query head."""
        shared = self.n_heads // self.n_kv_heads
        return x if shared == 1 else x.repeat_interleave(shared, dim=1)

    # --- heads to the stream

    def head_matrix(self) -> tuple[Tensor, Tensor | None]:
        """W_O (head, d_head, d_model), and the bias (d_model,) added to the sum of the heads."""
        out = self.parts.out
        weight = out.weight if isinstance(out, Conv1D) else out.weight.t()
        return weight.unflatten(0, (self.n_heads, -1)), out.bias

    def by_head(self, z: Tensor) -> Tensor:
        """head_out (..., head, d_model) of z (..., head, d_head), in float32 or wider."""
        return torch.einsum("...hd,hdm->...hm", widened(z), widened(self.head_matrix()[0]))

    def _summed(self, heads: Tensor, dtype: torch.dtype) -> Tensor:
        summed, bias = heads.sum(-2), self.head_matrix()[1]
        return (summed if bias is None else summed + bias).to(dtype)

    def _project(self, z: Tensor) -> Tensor:
        return linear(self.parts.out, z.flatten(-2))

    # --- the protocol

    def enter(self, h: Tensor, context: Context) -> Inputs:
        normed = self.norm(h)
        each = zip(READS, self.parts.project(normed), strict=True)
        values: Inputs = {read: self._normed(read, x) for read, x in each}
        if self.parts.gate is not None:
            values[GATE] = self.parts.gate(normed)
        return self.prepared(values, context)

    def prepared(self, values: Inputs, context: Context) -> Inputs:
        rotary = self._rotary(context)
        turned = {r: self._turned(r, values[r], rotary) for r in READS[:2] if r in values}
        return values | turned

    def memory(self, inputs: Inputs) -> KeyValues:
        return KeyValues(inputs["key"], inputs["value"])

    def read(self, memory: KeyValues, at: Inputs) -> Tensor:
        """z (..., prompt, head, d_head) of the last position."""
        scores = self._scores(at["query"], memory.key)
        return self._values(self._seen(scores), memory.value)

    def _scores(self, query: Tensor, key: Tensor) -> Tensor:
        """(..., prompt, head, position), of a query (..., prompt, head, d_head)."""
        grouped = widened(query).unflatten(-2, (self.n_kv_heads, -1))
        scores = torch.einsum("...ngsd,...ntgd->...ngst", grouped, widened(key))
        return scores.flatten(-3, -2) * self.parts.scale

    def _seen(self, scores: Tensor) -> Tensor:
        """The pattern of the last position from its scores (..., head, position)."""
        back = torch.arange(scores.shape[-1] - 1, -1, -1, device=scores.device)
        return self._softmax(scores, self._unseen(back), head_axis=-2)

    def _values(self, pattern: Tensor, value: Tensor) -> Tensor:
        grouped = pattern.unflatten(-2, (self.n_kv_heads, -1))
        return torch.einsum("...ngst,...ntgd->...ngsd", grouped, widened(value)).flatten(-3, -2)

    def rewritten(self, inputs: Inputs, positions: Tensor, new: Inputs) -> KeyValues:
        each = torch.arange(len(positions), device=positions.device)

        def put(read: str) -> Tensor:
            old = inputs[read]
            if read not in new:
                return old
            value = old.expand(*new[read].shape[:-3], *old.shape).clone()
            value[..., each, positions, :, :] = new[read].to(old.dtype)
            return value

        return KeyValues(put("key"), put("value"))

    def reread(self, inputs: Inputs, positions: Tensor, new: Inputs, end: Inputs) -> Tensor:
        """As the base says, from the clean scores, of which one per prompt is put anew."""
        key, value = inputs["key"], inputs["value"]
        positions = positions.to(key.device)
        query, each = widened(end["query"]), torch.arange(len(positions), device=key.device)
        if "query" in new:
            at_end = (positions == key.shape[1] - 1)[:, None, None]
            query = torch.where(at_end, widened(new["query"]), query)
        scores = self._scores(query, key)
        if "key" in new:
            shared = self.n_heads // self.n_kv_heads
            own = widened(new["key"]).repeat_interleave(shared, -2)
            score = (query * own).sum(-1, keepdim=True) * self.parts.scale
            lead = torch.broadcast_shapes(scores.shape[:-1], score.shape[:-1])
            at = positions[:, None, None].expand(*lead, 1)
            scores = scores.expand(*lead, -1).scatter(-1, at, score.expand(*lead, 1))
        pattern = self._seen(scores)
        z = self._values(pattern, value)
        if "value" in new:
            change = widened(new["value"]) - widened(value[each, positions])
            change = change.repeat_interleave(self.n_heads // self.n_kv_heads, -2)
            at = positions[:, None, None].expand(*pattern.shape[:-1], 1)
            z = z + pattern.gather(-1, at) * change
        return z

    def attention(
        self, inputs: Inputs, queries: Sequence[int], removed: Tensor | None = None
    ) -> Tensor:
        """As the base says: the pattern.  Of weights that are all removed it is NaN."""
        key = inputs["key"]
        at = torch.tensor([query % key.shape[1] for query in queries], device=key.device)
        q, k = inputs["query"][:, at].transpose(1, 2), key.transpose(1, 2)
        return self._pattern(q, k, at, removed)

    def carried(self, inputs: Inputs) -> Tensor:
        shared = self.n_heads // self.n_kv_heads
        return widened(inputs["value"]).repeat_interleave(shared, dim=-2)

    def leave(self, at: Inputs, readout: Tensor) -> Tensor:
        z = readout.to(self.parts.out.weight.dtype)
        out = self._project(z if self.parts.gate is None else z * at[GATE])
        return out if self.parts.after is None else self.parts.after(out)

    def leave_heads(
        self, at: Inputs, readout: Tensor, heads: Sequence[int], new: Tensor, out: Tensor
    ) -> Tensor:
        chosen = list(heads)
        change = new - readout[:, chosen].transpose(0, 1)
        if self.parts.gate is not None:
            change = change * at[GATE][:, chosen].transpose(0, 1)
        if self.additive:
            weight = self.head_matrix()[0][chosen]
            return out + torch.bmm(change.to(weight.dtype), weight)
        rows = readout.expand(len(chosen), *readout.shape).clone()
        rows[torch.arange(len(chosen)), :, chosen] = new.to(rows.dtype)
        return self.leave(at, rows)

    def of_head(self, head: int) -> OneHead:
        """This head alone, with the key and value head that it reads: `enter` and what reads."""
        return OneHead(self, head)


class OneHead(Attention):
    """One query head of an attention layer, for the paths that end in it."""

    def __init__(self, whole: Attention, head: int) -> None:
        super().__init__(whole.layer, whole.norm, whole.parts)
        self.whole, self.head = whole, head
        self.own = head * whole.n_kv_heads // whole.n_heads
        self.n_heads = self.n_kv_heads = 1

    def enter(self, h: Tensor, context: Context) -> Inputs:
        heads = {"query": self.head, "key": self.own, "value": self.own}
        values = {r: self.whole.read_streams(r, h, heads[r]).unsqueeze(-2) for r in READS}
        return self.prepared(values, context)

    def narrowed(self, inputs: Inputs) -> Inputs:
        """Those of this head, from what all heads enter with."""
        heads = {"query": self.head, "key": self.own, "value": self.own}
        return {r: inputs[r][..., i : i + 1, :] for r, i in heads.items() if r in inputs}

    def _softmax(self, scores: Tensor, unseen: Tensor | None, head_axis: int) -> Tensor:
        if self.parts.sinks is None:
            return super()._softmax(scores, unseen, head_axis)
        before = scores.shape[head_axis]
        assert before == 1
        wide = scores.expand(*scores.shape[:head_axis], self.whole.n_heads, scores.shape[-1])
        pattern = super()._softmax(wide, unseen, head_axis)
        return pattern.narrow(head_axis, self.head, 1)
