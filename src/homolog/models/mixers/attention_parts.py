"""What an attention layer is made of, as its family has it: what an adapter says of it."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from transformers.pytorch_utils import Conv1D

from homolog.models.mixers.base import EMBEDDED, Context, Norm, Rotary
from homolog.models.mixers.projections import READS, Projections, Read
from homolog.models.mixers.rotary import rotate
from homolog.models.products import linear
from homolog.models.widening import widened


@dataclass(frozen=True)
class AttentionParts:
    """The parts of a layer.

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
    beside           whether the embeddings are read beside the stream, as its last dimensions
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
    beside: bool = False

    def norm_of(self, read: Read) -> Norm | None:
        """The norm of queries, keys or values before rotary positions."""
        norms, place = self.norms or (), READS.index(read)
        return norms[place] if place < len(norms) else None

    def normed(self, read: Read, x: Tensor) -> Tensor:
        """Queries, keys or values before rotary positions, as projected."""
        norm = self.norm_of(read)
        return x if norm is None else norm(x)

    def rotary_of(self, context: Context) -> Rotary:
        """What rotates queries and keys."""
        return context[self.table] if self.rotary else None

    def embedded_of(self, context: Context) -> Tensor | None:
        """The embeddings that are read beside the stream, (..., d_model)."""
        beside = context[EMBEDDED] if self.beside else None
        return None if beside is None else beside[0]

    def turned(self, read: Read, x: Tensor, rotary: Rotary) -> Tensor:
        """Queries or keys as the scores take them."""
        x, norms = self.turn(x, rotary), self.late_norms
        return x if norms is None else norms[READS.index(read)](x)

    def head_matrix(self) -> tuple[Tensor, Tensor | None]:
        """W_O (head, d_head, d_model), and the bias (d_model,) added to the sum of the heads."""
        weight = self.out.weight if isinstance(self.out, Conv1D) else self.out.weight.t()
        return weight.unflatten(0, (self.n_heads, -1)), self.out.bias

    def by_head(self, z: Tensor) -> Tensor:
        """head_out (..., head, d_model) of z (..., head, d_head), in float32 or wider."""
        return torch.einsum("...hd,hdm->...hm", widened(z), widened(self.head_matrix()[0]))

    def summed(self, heads: Tensor, dtype: torch.dtype) -> Tensor:
        """What heads (..., head, d_model) give together, with the bias."""
        summed, bias = heads.sum(-2), self.out.bias
        return (summed if bias is None else summed + bias).to(dtype)

    def projected(self, z: Tensor) -> Tensor:
        """The same of z (..., head, d_head), by one product."""
        return linear(self.out, z.flatten(-2))
