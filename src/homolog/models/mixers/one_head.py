"""One query head of an attention layer, with the key and value head that it reads."""

from __future__ import annotations

from dataclasses import replace

from torch import Tensor

from homolog.models.mixers.attention import Attention
from homolog.models.mixers.base import Context, Inputs
from homolog.models.mixers.projections import READS


class OneHead(Attention):
    """An attention layer of that head alone, for the paths that end in it."""

    def __init__(self, whole: Attention, head: int) -> None:
        sinks = whole.parts.sinks
        own = None if sinks is None else sinks[head : head + 1]
        parts = replace(whole.parts, n_heads=1, n_kv_heads=1, sinks=own)
        super().__init__(whole.layer, whole.norm, parts)
        shared = head * whole.n_kv_heads // whole.n_heads
        self.whole, self.heads = whole, {"query": head, "key": shared, "value": shared}

    def enter(self, h: Tensor, context: Context) -> Inputs:
        of, embedded = self.whole.read_streams, self.parts.embedded_of(context)
        each = {read: of(read, h, embedded, self.heads[read]) for read in READS}
        return self.prepared({read: x.unsqueeze(-2) for read, x in each.items()}, context)

    def narrowed(self, inputs: Inputs) -> Inputs:
        """Those of this head, from what all heads enter with."""
        return {r: inputs[r][..., i : i + 1, :] for r, i in self.heads.items() if r in inputs}
