"""The local part that most recurrent mixers have: a causal depthwise convolution.

    out[t, d] = bias[d] + sum over j of weight[d, 0, j] * x[t - (K - 1) + j, d]

Tap j reads the position K - 1 - j before.
"""

from __future__ import annotations

from abc import abstractmethod
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from homolog.models.mixers.base import Context, Inputs, Norm
from homolog.models.mixers.linear_mixer import LinearMixer
from homolog.models.taps import Taps
from homolog.models.widening import widened

CONVOLUTION = ("mixer_in", "conv_in", "gate_in", "conv_taps", "conv_out")
"""The sites of a convolved mixer up to there."""


class Convolution:
    """Over the weights of a module like torch.nn.Conv1d, with one group per channel."""

    def __init__(self, layer: int, conv: Any) -> None:
        self.layer, self._conv = layer, conv

    @property
    def weight(self) -> Tensor:
        """(channel, 1, K)."""
        return self._conv.weight

    @property
    def width(self) -> int:
        """K: the current position, and those before it that are read."""
        return int(self.weight.shape[-1])

    def __call__(self, x: Tensor) -> Tensor:
        """x (batch, position, channel), from the window's start."""
        return causal_conv(x, self.weight, self._conv.bias)

    def tapped(self, x: Tensor, taps: Taps) -> Tensor:
        """The same, through the site conv_taps where a run asks for it."""
        through = taps.splits(["conv_taps"], self.layer, x)
        if through or taps.touches("conv_taps", self.layer):
            added = taps("conv_taps", self.layer, self.by_tap(x))
        if not through:
            return self(x)
        out = widened(added).sum(2)
        return (out if self._conv.bias is None else out + self._conv.bias).to(x.dtype)

    def by_tap(self, x: Tensor) -> Tensor:
        """What each tap adds, (batch, position, tap, channel)."""
        padded = F.pad(x, (0, 0, self.width - 1, 0))
        parts = [padded[:, j : j + x.shape[1]] * self.weight[:, 0, j] for j in range(self.width)]
        return torch.stack(parts, dim=2)

    def at(self, x: Tensor, past: Tensor) -> Tensor:
        """The output at one position of each prompt.

        x (..., prompt, channel); past (prompt, K - 1, channel): what stands before, in order.
        """
        earlier = torch.zeros_like(past[:, 0]) if self.width > 1 else x.new_zeros(())
        for j in range(self.width - 1):
            earlier = earlier + self.weight[:, 0, j] * past[:, j]
        if self._conv.bias is not None:
            earlier = earlier + self._conv.bias
        return earlier + x * self.weight[:, 0, -1]


class ConvolvedMixer(LinearMixer):
    """A linear mixer whose local part is a convolution.

    conv   the convolution's module
    """

    stream, out = "mixer_in", "mixer_out"
    local: str = "conv_in"
    local_taps, local_out = "conv_taps", "conv_out"

    def __init__(self, layer: int, norm: Norm, conv: Any) -> None:
        self.layer, self.norm = layer, norm
        self.convolution = Convolution(layer, conv)
        self.reach = self.convolution.width - 1

    @abstractmethod
    def projected(self, h: Tensor) -> tuple[Tensor, Inputs]:
        """What is convolved (..., channel), and what else of the inputs the stream gives."""

    @abstractmethod
    def written(self, conv_out: Tensor) -> Inputs:
        """What of a position's inputs its convolution's output (..., channel) gives."""

    def convolved(self, h: Tensor, taps: Taps) -> tuple[Tensor, Inputs]:
        """In a pass: the convolution's output, and what else of the inputs the stream gives."""
        layer = self.layer
        x, others = self.projected(taps("mixer_in", layer, h))
        x, z = taps("conv_in", layer, x), taps("gate_in", layer, others["gate_in"])
        return taps("conv_out", layer, self.convolution.tapped(x, taps)), others | {"gate_in": z}

    def enter(self, h: Tensor, context: Context) -> Inputs:
        x, others = self.projected(h)
        return self._entered(x, others, self.convolution(x), context)

    def enter_at(self, h: Tensor, context: Context, past: Tensor | None) -> Inputs:
        x, others = self.projected(h)
        assert past is not None
        return self._entered(x, others, self.convolution.at(x, past), context)

    def _entered(self, x: Tensor, others: Inputs, conv_out: Tensor, context: Context) -> Inputs:
        return self.prepared({self.local: x} | others | self.written(conv_out), context)

    def from_local(self, window: Tensor) -> Inputs:
        return self.written(self.convolution(window)[..., -1, :])


def causal_conv(x: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
    """Depthwise causal convolution of x (batch, position, channel) by weight (channel, 1, K).

    A sum of K shifted products: on a CPU several times as fast as the grouped convolution, with the
    same additions.
    """
    kernel, length = weight.shape[-1], x.shape[1]
    padded = F.pad(x, (0, 0, kernel - 1, 0))
    out = padded[:, :length] * weight[:, 0, 0]
    for j in range(1, kernel):
        out.addcmul_(padded[:, j : j + length], weight[:, 0, j])
    return out if bias is None else out.add_(bias)
