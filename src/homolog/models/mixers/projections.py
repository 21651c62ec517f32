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
        return of_each(normed, *self.matrix(read), head)


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


def low_rank(maps: Any, x: Tensor) -> Tensor:
    """What two linear maps in turn make of x."""
    first, last = maps
    return linear(last, linear(first, x))


def of_each(x: Tensor, weight: Tensor, bias: Tensor | None, head: int | None) -> Tensor:
    """Of a vector for each head, or of one for `head`; weight (head, d_head, ...)."""
    if head is not None:
        return project(x, weight[head], None if bias is None else bias[head])
    out = torch.einsum("...hm,hdm->...hd", x, weight)
    return out if bias is None else out + bias
