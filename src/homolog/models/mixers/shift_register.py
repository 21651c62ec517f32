"""Memories of the last positions: each keeps what the last few wrote, and moves it on.

    state[t][..., j] = written[t - (K - 1) + j]

The oldest is forgotten, so that a change is gone after K positions.
"""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor

from homolog.models.mixers.base import Inputs
from homolog.models.mixers.linear_mixer import LinearMixer


class ShiftRegister(LinearMixer):
    """A mixer with such a memory, (..., channel, K).

    width   K: the position at hand and those before it
    """

    width: int

    @abstractmethod
    def newest(self, at: Inputs) -> Tensor:
        """What positions write, (..., channel)."""

    def states(self, inputs: Inputs, positions: Sequence[int]) -> Tensor:
        return self.registers(self.newest(inputs))[:, list(positions)]

    def registers(self, written: Tensor) -> Tensor:
        """The states of all positions of (batch, position, channel); a view."""
        return F.pad(written, (0, 0, self.width - 1, 0)).unfold(1, self.width, 1)

    def step(self, state: Tensor, at: Inputs) -> Tensor:
        kept, newest = state[..., 1:], self.newest(at).unsqueeze(-1)
        shape = torch.broadcast_shapes(kept.shape[:-1], newest.shape[:-1])
        return torch.cat([kept.expand(*shape, -1), newest.expand(*shape, 1)], -1)

    def back(self, reading: Tensor, at: Inputs) -> tuple[Tensor, Tensor]:
        return reading[..., -1], F.pad(reading[..., :-1], (1, 0))

    def carry(self, change: Tensor, inputs: Inputs, start: Tensor, stop: int) -> Tensor:
        place = torch.arange(self.width, device=change.device)
        source = place + (stop - start.to(change.device))[..., None, None]
        moved = change.gather(-1, source.clamp(max=self.width - 1).expand_as(change))
        return torch.where(source < self.width, moved, 0)
