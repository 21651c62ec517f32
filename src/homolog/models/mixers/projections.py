"""Where attention's queries, keys and values come from: the layouts of projections.

Each gives all heads' queries, keys and values at once, and one of the three by head.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence
from typing import Any, Literal

import torch
from torch import Tensor
from transformers.pytorch_utils import Conv1D

from homolog.models.products import linear, project
from homolog.models.widening import apply_norm

Read = Literal["query", "key", "value"]
READS: tuple[Read, ...] = ("query", "key", "value")


class Projections(ABC):
    """Queries, keys and values of the normed stream, before norms and rotary positions."""

    @abstractmethod
    def __call__(self, normed: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """(..., d_model) -> three of (..., head, d_head)."""

    @abstractmethod
    def of_streams(self, read: Read, normed: Tensor, head: int | None = None) -> Tensor:
        """One of the three, of a normed stream for each head.

        normed (..., head, d_model) -> (..., head, d_head); with `head` given, (..., d_model) ->
        (..., d_head).
        """


class LinearProjections(Projections):
    """Three linear maps of the normed stream, however their matrices are laid out."""

    @abstractmethod
    def matrix(self, read: Read) -> tuple[Tensor, Tensor | None]:
        """Weight (head, d_head, d_model) and bias (head, d_head) of one of the three."""

    def of_streams(self, read: Read, normed: Tensor, head: int | None = None) -> Tensor:
        return _of_streams(normed, *self.matrix(read), head)


class Separate(LinearProjections):
    """A linear map for each of the three."""

    def __init__(self, query: Any, key: Any, value: Any, d_heads: Sequence[int]) -> None:
        self._maps, self._d_heads = (query, key, value), d_heads

    def __call__(self, normed: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        each = zip(self._maps, self._d_heads, strict=True)
        q, k, v = (linear(m, normed).unflatten(-1, (-1, d)) for m, d in each)
        return q, k, v

    def matrix(self, read: Read) -> tuple[Tensor, Tensor | None]:
        place = READS.index(read)
        module, shape = self._maps[place], (-1, self._d_heads[place])
        bias = None if module.bias is None else module.bias.unflatten(0, shape)
        return module.weight.unflatten(0, shape), bias


class Adapted(Separate):
    """A linear map for each, which several blocks share, and what one block adds to it.

    lows   what is added to each: two linear maps in turn, as of a torch.nn.Sequential
    """

    def __init__(
        self, query: Any, key: Any, value: Any, lows: Sequence[Any], d_heads: Sequence[int]
    ) -> None:
        super().__init__(query, key, value, d_heads)
        self._lows = lows

    def __call__(self, normed: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        shared = zip(super().__call__(normed), self._lows, self._d_heads, strict=True)
        q, k, v = (x + low_rank(low, normed).unflatten(-1, (-1, d)) for x, low, d in shared)
        return q, k, v

    def matrix(self, read: Read) -> tuple[Tensor, Tensor | None]:
        place = READS.index(read)
        weight, bias = super().matrix(read)
        first, last = self._lows[place]
        return weight + (last.weight @ first.weight).view_as(weight), bias


class WithGate(Separate):
    """A linear map for each; that of the queries gives a query and a gate for head 0, 1, ..."""

    def __init__(self, query: Any, key: Any, value: Any, d_head: int) -> None:
        super().__init__(query, key, value, (d_head,) * 3)

    def __call__(self, normed: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        _, key, value = self._maps
        k, v = (linear(m, normed).unflatten(-1, (-1, self._d_heads[0])) for m in (key, value))
        return self._of(0, normed), k, v

    def gate(self, normed: Tensor) -> Tensor:
        """What multiplies the heads, (..., head, d_head)."""
        return self._of(1, normed).sigmoid()

    def matrix(self, read: Read) -> tuple[Tensor, Tensor | None]:
        return self._half(0) if read == "query" else super().matrix(read)

    def _of(self, half: int, normed: Tensor) -> Tensor:
        weight, bias = self._half(half)
        flat = project(normed, weight.flatten(0, 1), None if bias is None else bias.flatten())
        return flat.unflatten(-1, weight.shape[:2])

    def _half(self, half: int) -> tuple[Tensor, Tensor | None]:
        query, shape = self._maps[0], (-1, 2, self._d_heads[0])
        bias = None if query.bias is None else query.bias.unflatten(0, shape)[:, half]
        return query.weight.unflatten(0, shape)[:, half], bias


class FusedByHead(LinearProjections):
    """One linear map: query, key and value of head 0, of head 1, ..."""

    def __init__(self, fused: Any, n_heads: int, d_head: int) -> None:
        self._fused, self._n_heads, self._d_head = fused, n_heads, d_head

    def __call__(self, normed: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        fused = linear(self._fused, normed)
        q, k, v = fused.unflatten(-1, (self._n_heads, 3 * self._d_head)).chunk(3, dim=-1)
        return q, k, v

    def matrix(self, read: Read) -> tuple[Tensor, Tensor | None]:
        place, shape = READS.index(read), (self._n_heads, 3, self._d_head)
        bias = None if self._fused.bias is None else self._fused.bias.view(shape)[:, place]
        return self._fused.weight.unflatten(0, shape)[:, place], bias


class FusedInTurn(LinearProjections):
    """One linear map: all queries, then all keys, then all values."""

    def __init__(self, fused: Any, heads: Sequence[int], d_head: int) -> None:
        self._fused, self._d_head = fused, d_head
        self._sizes = [n * d_head for n in heads]

    def __call__(self, normed: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        three = linear(self._fused, normed).split(self._sizes, dim=-1)
        q, k, v = (x.unflatten(-1, (-1, self._d_head)) for x in three)
        return q, k, v

    def matrix(self, read: Read) -> tuple[Tensor, Tensor | None]:
        place, shape = READS.index(read), (-1, self._d_head)
        weight, bias = self._fused.weight, self._fused.bias
        weight = weight.t() if isinstance(self._fused, Conv1D) else weight
        own = weight.split(self._sizes)[place].unflatten(0, shape)
        return own, None if bias is None else bias.split(self._sizes)[place].unflatten(0, shape)


class Latent(Projections):
    """Keys and values of one short vector that all heads share [DeepSeek-AI 2024, section 2.1].

    c, r     = W_a x                       r: the part of the keys that all heads have
    key_h    = [K_h norm(c), r]
    value_h  = V_h norm(c)
    query_h  = Q_h x, or Q_h norm(W_q x)

    Source: "DeepSeek-V2", 2024.  module: as `DeepseekV3Attention` of transformers.
    """

    def __init__(self, module: Any) -> None:
        self._module = module
        self._widths = [module.qk_nope_head_dim, module.v_head_dim]

    def __call__(self, normed: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        by_head = (self._module.num_heads, -1)
        x, last = self._before_query(normed)
        q = linear(last, x).unflatten(-1, by_head)
        c, r = self._shared(normed)
        k, v = linear(self._module.kv_b_proj, c).unflatten(-1, by_head).split(self._widths, -1)
        return q, torch.cat([k, r.unsqueeze(-2).expand(*k.shape[:-1], -1)], -1), v

    def of_streams(self, read: Read, normed: Tensor, head: int | None = None) -> Tensor:
        by_head = (self._module.num_heads, -1)
        if read == "query":
            x, last = self._before_query(normed)
            return _of_streams(x, last.weight.unflatten(0, by_head), None, head)
        c, r = self._shared(normed)
        key, value = self._module.kv_b_proj.weight.unflatten(0, by_head).split(self._widths, 1)
        if read == "value":
            return _of_streams(c, value, None, head)
        return torch.cat([_of_streams(c, key, None, head), r], -1)

    def _before_query(self, normed: Tensor) -> tuple[Tensor, Any]:
        """What the queries' last matrix reads, and its module."""
        module = self._module
        if module.q_lora_rank is None:
            return normed, module.q_proj
        return apply_norm(module.q_a_layernorm, linear(module.q_a_proj, normed)), module.q_b_proj

    def _shared(self, normed: Tensor) -> tuple[Tensor, Tensor]:
        """What keys and values are made of, normed; and the part of the keys as it is."""
        widths = [self._module.kv_lora_rank, self._module.qk_rope_head_dim]
        c, r = linear(self._module.kv_a_proj_with_mqa, normed).split(widths, -1)
        return apply_norm(self._module.kv_a_layernorm, c), r


def low_rank(maps: Any, x: Tensor) -> Tensor:
    """What two linear maps in turn make of x."""
    first, last = maps
    return linear(last, linear(first, x))


def _of_streams(x: Tensor, weight: Tensor, bias: Tensor | None, head: int | None) -> Tensor:
    """Of a vector for each head, or of one for `head`; weight (head, d_head, ...)."""
    if head is not None:
        return project(x, weight[head], None if bias is None else bias[head])
    out = torch.einsum("...hm,hdm->...hd", x, weight)
    return out if bias is None else out + bias
