"""The last position replayed with everything that moves information held at its clean value.

Path patching asks what a change at one sender does to the logits when no other part that reads
other positions (an attention head, a scan) may react to it [Wang 2025; Goldowsky-Dill et al.,
"Localizing Model Behavior with Path Patching", 2023].  Then only what each position computes from
its own residual stream is recomputed, and only at the last position, where the logits are read: for
a Transformer the MLPs, for a Mamba the in-projection, the current convolution tap, the gate, D-skip
and C.  So a patched pass is a walk of one vector a prompt through the blocks after the sender, and
all senders of a model walk together: the rows of a batch, joining at their own block.

    rows of a sender in block l:   h <- block l with the sender's value changed
    for every later block:         h <- block with its held values
    logits = unembed(norm(h))

This is exact: nothing is approximated, and no token is run twice.
"""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any, TypeVar

import torch
from torch import Tensor

from homolog.errors import InputError
from homolog.models.base import LanguageModel
from homolog.models.tokens import TokensLike, as_tokens

LOGITS_AT_ONCE = 2**24  # values of patched logits in memory at a time
Advance = Callable[[int, Tensor], Tensor]
"""Gives the residual stream after a block, the rest held, from the block's index and the stream
before it (sender, prompt, d_model).
"""
_Paths = TypeVar("_Paths", bound="Replay")


@dataclass(frozen=True)
class Patched:
    """Logits at the last position with a sender patched: (sender, prompt, vocabulary)."""

    senders: tuple[str, ...]
    logits: Tensor


@dataclass(frozen=True)
class PatchedRows:
    """Rows that leave block `layer`: `h` (sender, prompt, d_model) is the stream after it."""

    layer: int
    senders: tuple[str, ...]
    h: Tensor


class Replay:
    """Clean values of some prompts at the last position, and the walk that holds them.

    model             the model
    tokens, corrupt   clean and corrupt prompts, (prompt, position) each
    logits            clean logits at the last position (prompt, vocabulary)
    """

    model: LanguageModel
    tokens: Tensor
    corrupt: Tensor
    logits: Tensor

    def __init__(self, model: Any, clean: TokensLike, corrupt: TokensLike) -> None:
        self.model = model.plain  # the prompts hold what they begin with
        self.tokens, self.corrupt = as_tokens(clean, "clean"), as_tokens(corrupt, "corrupt")
        check_pairs(self.tokens, self.corrupt)
        # what questions found out about the clean prompts, for later questions
        self._of_clean: dict[Any, Any] = {}
        self._of_corrupt: dict[Any, Any] = {}

    def against(self: _Paths, corrupt: TokensLike) -> _Paths:
        """The same with other corrupt prompts; what is known of the clean ones is shared."""
        other = copy.copy(self)
        other.corrupt, other._of_corrupt = as_tokens(corrupt, "corrupt"), {}
        check_pairs(self.tokens, other.corrupt)
        return other

    def to_logits(self, starts: Sequence[PatchedRows], advance: Advance) -> Iterator[Patched]:
        """Walk all rows to the end; yields them by block, a few senders at a time."""
        if not starts:
            return
        ordered = sorted(starts, key=lambda start: start.layer)
        senders: tuple[str, ...] = ()
        rows = ordered[0].h[:0]
        waiting = list(ordered)
        for layer in range(ordered[0].layer, self.model.n_layers):
            if len(rows):
                rows = advance(layer, rows)
            while waiting and waiting[0].layer == layer:
                start = waiting.pop(0)
                senders, rows = (*senders, *start.senders), torch.cat([rows, start.h])
        step = max(1, LOGITS_AT_ONCE // self.logits.numel())
        for first in range(0, len(rows), step):
            some = slice(first, first + step)
            yield Patched(senders[some], self.model.logits(rows[some]))


def check_pairs(clean: Tensor, corrupt: Tensor) -> None:
    """InputError unless both are (prompt, position) of one shape."""
    if clean.shape != corrupt.shape or clean.ndim != 2:
        requirement = f"clean prompts are {tuple(clean.shape)}"
        remedy = "Give both as (prompt, position), of one shape."
        raise InputError("corrupt", tuple(corrupt.shape), requirement, remedy)
