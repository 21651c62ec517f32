"""The memory of softmax attention by itself: keys and values, and how queries read them.

    score    = scale * q k, under a soft cap where there is one:  cap * tanh(score / cap)
    pattern  = softmax of the scores over the positions seen (all before, or a window of them), and
               over a sink of the head's own where it has one
    z        = pattern v                                                per head

Query head i reads key and value head i // (n_heads / n_kv_heads).  Scores and pattern are in
float32 or wider: half precision ends at scores of 65,504.  `attention.py` has the mixer around it.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor

from homolog.models.mixers.attention_parts import AttentionParts
from homolog.models.mixers.base import Inputs
from homolog.models.widening import widened


class KeyValues(NamedTuple):
    """Keys, rotated, and values of some positions: (..., prompt, position, kv head, d_head)."""

    key: Tensor
    value: Tensor

    def replaced(self, positions: Tensor, new: Inputs) -> KeyValues:
        """With the keys and values of `new` at one position of each prompt."""
        each = torch.arange(len(positions), device=positions.device)

        def put(read: str, old: Tensor) -> Tensor:
            if read not in new:
                return old
            value = old.expand(*new[read].shape[:-3], *old.shape).clone()
            value[..., each, positions, :, :] = new[read].to(old.dtype)
            return value

        return KeyValues(put("key", self.key), put("value", self.value))


class Reader:
    """How the queries of a layer read keys and values."""

    def __init__(self, parts: AttentionParts) -> None:
        self.parts = parts
        self.shared = parts.n_heads // parts.n_kv_heads

    # --- whole windows

    def sees_all(self, length: int) -> bool:
        """Whether every position of so long a window sees all before it."""
        return self.parts.window is None or self.parts.window >= length

    def pattern(
        self,
        q: Tensor,
        k: Tensor,
        queries: Tensor | None = None,
        removed: Tensor | None = None,
    ) -> Tensor:
        """Softmax of the scores of q and k (batch, head, position, d_head).

        queries  positions of q, all by default;   removed  what else they do not see
        """
        scores = widened(q) @ widened(self.each_head(k)).transpose(-1, -2) * self.parts.scale
        length = scores.shape[-1]
        at = torch.arange(length, device=scores.device)
        unseen = self._unseen((at if queries is None else queries)[:, None] - at)
        unseen = unseen if removed is None else unseen | removed
        return self._softmax(scores, unseen, head_axis=-3)

    def weighed(self, pattern: Tensor, v: Tensor) -> Tensor:
        """z of a pattern and values (batch, head, position, d_head)."""
        return (pattern @ widened(self.each_head(v))).to(v.dtype)

    def each_head(self, x: Tensor) -> Tensor:
        """Keys or values (batch, kv head, position, d_head), once for each query head."""
        return x if self.shared == 1 else x.repeat_interleave(self.shared, dim=1)

    # --- the last position

    def read(self, query: Tensor, memory: KeyValues) -> Tensor:
        """z (..., prompt, head, d_head) of a query (..., prompt, head, d_head)."""
        return self._values(self._seen(self._scores(query, memory.key)), memory.value)

    def reread(self, query: Tensor, memory: KeyValues, positions: Tensor, new: Inputs) -> Tensor:
        """The same when one position of each prompt enters with `new`, from the clean scores.

        One score per prompt is put anew.
        """
        key, value = memory
        positions = positions.to(key.device)
        query, each = widened(query), torch.arange(len(positions), device=key.device)
        if "query" in new:
            at_end = (positions == key.shape[1] - 1)[:, None, None]
            query = torch.where(at_end, widened(new["query"]), query)
        scores = self._scores(query, key)
        if "key" in new:
            own = widened(new["key"]).repeat_interleave(self.shared, -2)
            score = (query * own).sum(-1, keepdim=True) * self.parts.scale
            lead = torch.broadcast_shapes(scores.shape[:-1], score.shape[:-1])
            at = positions[:, None, None].expand(*lead, 1)
            scores = scores.expand(*lead, -1).scatter(-1, at, score.expand(*lead, 1))
        pattern = self._seen(scores)
        z = self._values(pattern, value)
        if "value" in new:
            change = widened(new["value"]) - widened(value[each, positions])
            change = change.repeat_interleave(self.shared, -2)
            at = positions[:, None, None].expand(*pattern.shape[:-1], 1)
            z = z + pattern.gather(-1, at) * change
        return z

    def _scores(self, query: Tensor, key: Tensor) -> Tensor:
        """(..., prompt, head, position), of a query (..., prompt, head, d_head)."""
        grouped = widened(query).unflatten(-2, (self.parts.n_kv_heads, -1))
        scores = torch.einsum("...ngsd,...ntgd->...ngst", grouped, widened(key))
        return scores.flatten(-3, -2) * self.parts.scale

    def _seen(self, scores: Tensor) -> Tensor:
        """The pattern of the last position from its scores (..., head, position)."""
        back = torch.arange(scores.shape[-1] - 1, -1, -1, device=scores.device)
        return self._softmax(scores, self._unseen(back), head_axis=-2)

    def _values(self, pattern: Tensor, value: Tensor) -> Tensor:
        grouped = pattern.unflatten(-2, (self.parts.n_kv_heads, -1))
        return torch.einsum("...ngst,...ntgd->...ngsd", grouped, widened(value)).flatten(-3, -2)

    # --- both

    def _unseen(self, back: Tensor) -> Tensor:
        """Which keys a query does not see, from how many positions before it they stand."""
        unseen = back < 0
        return unseen if self.parts.window is None else unseen | (back >= self.parts.window)

    def _softmax(self, scores: Tensor, unseen: Tensor, head_axis: int) -> Tensor:
        """Pattern of scores, whose last axis is the key's position; without the sink's share."""
        if self.parts.soft_cap is not None:
            scores = torch.tanh(scores / self.parts.soft_cap) * self.parts.soft_cap
        scores = scores.masked_fill(unseen, -torch.inf)
        if self.parts.sinks is None:
            return scores.softmax(-1)
        shape = [1] * scores.ndim
        shape[head_axis] = -1
        sink = widened(self.parts.sinks).to(scores.dtype).view(shape)
        with_sink = torch.cat([scores, sink.expand(*scores.shape[:-1], 1)], -1)
        return with_sink.softmax(-1)[..., :-1]
