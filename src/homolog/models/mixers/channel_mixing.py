"""The channel mixing of an RWKV-4 block, where others have an MLP.

Its memory is the position before alone; x is the normed stream, x' that of the position before:

    x, x'                                                             mlp_normed, mlp_shifted
    hidden  = relu(W_k (mix * x + (1 - mix) * x'))^2                  mlp_hidden
    out     = sigmoid(W_r (mix' * x + (1 - mix') * x')) * W_v hidden  mlp_gate, mlp_out

Source: Peng et al., "RWKV: Reinventing RNNs for the Transformer Era", 2023, equations 11 to 18.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from homolog.axes import Residual
from homolog.models.mixers.base import Context, Inputs, Norm
from homolog.models.mixers.shift_register import ShiftRegister
from homolog.models.mixers.token_shift import mixed, shifted
from homolog.models.products import linear
from homolog.models.taps import NOTHING, Taps
from homolog.models.widening import widened


class ChannelMixing(ShiftRegister):
    """Over the module `feed_forward` of a block: what an MLP is, but for the position before."""

    kind = "channel mixing"
    readout = "mlp_shifted"
    stream, out = "mlp_in", "mlp_out"
    sites = ("mlp_in", "mlp_normed", "mlp_shifted", "mlp_gate", "mlp_hidden", "mlp_out")
    neurons = ("mlp_hidden",)
    inputs = ("mlp_normed",)
    state = write = "mlp_normed"
    width = 2

    def __init__(self, layer: int, norm: Norm, module: Any) -> None:
        self.layer, self.norm, self.module = layer, norm, module

    def __call__(self, h: Residual, context: Context, taps: Taps) -> Residual:
        x = taps("mlp_normed", self.layer, self.norm(taps("mlp_in", self.layer, h)))
        return self._leave(x, taps("mlp_shifted", self.layer, shifted(x)), taps)

    def _leave(self, x: Tensor, before: Tensor, taps: Taps = NOTHING) -> Tensor:
        part, layer = self.module, self.layer
        gate = torch.sigmoid(linear(part.receptance, mixed(x, before, part.time_mix_receptance)))
        hidden = F.relu(linear(part.key, mixed(x, before, part.time_mix_key))).square()
        gate, hidden = taps("mlp_gate", layer, gate), taps("mlp_hidden", layer, hidden)
        return taps("mlp_out", layer, gate * linear(part.value, hidden))

    def enter(self, h: Tensor, context: Context) -> Inputs:
        return {"mlp_normed": self.norm(h)}

    def state_kinds(self, position: int) -> list[tuple[str, int]]:
        return [("mlp_normed", p) for p in (position - 1, position) if p >= 0]

    def state_of(self, values: Sequence[Tensor]) -> Tensor:
        missing = [torch.zeros_like(values[0])] * (self.width - len(values))
        return torch.stack([*missing, *values], -1)

    def newest(self, at: Inputs) -> Tensor:
        return at["mlp_normed"]

    def read(self, memory: Tensor, at: Inputs) -> Tensor:
        return memory[..., 0]

    def reading(self, at: Inputs) -> Tensor:
        x = widened(at["mlp_normed"])
        return torch.stack([torch.ones_like(x[..., :1]), torch.zeros_like(x[..., :1])], -1)

    def carried(self, inputs: Inputs) -> Tensor:
        return widened(inputs["mlp_normed"]).unsqueeze(-2)

    def leave(self, at: Inputs, readout: Tensor) -> Tensor:
        return self._leave(at["mlp_normed"], readout)
