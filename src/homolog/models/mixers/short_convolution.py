"""The gated short convolution of LFM2: its memory is what the last K positions wrote.

    [B, C, x] = in_proj(norm(h))                          sites input_gate, gate, value
    write     = B * x                                     conv_in; write, in the newest place
    state[t]  = the last K writes, oldest first           state (d_state is K)
    y         = bias + sum over j of weight[j] * state[t][..., j]      y
    out       = out_proj(C * y)                           mixer_out

A write stays for K positions and then is gone.  The convolution runs over the whole window; where a
run edits write or state, the register is moved position by position from there on.

Source: Liquid AI, "LFM2 Technical Report", 2025, section 2.
"""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from homolog.axes import Residual
from homolog.models.mixers.base import Context, Inputs, Norm
from homolog.models.mixers.convolution import Convolution
from homolog.models.mixers.recurrence import Start, recur
from homolog.models.mixers.shift_register import ShiftRegister
from homolog.models.products import linear
from homolog.models.taps import NOTHING, Taps
from homolog.models.widening import widened


class ShortConvolution(ShiftRegister):
    """The mixer over the module of transformers.  `value` has one head."""

    kind = "short convolution"
    channelwise = True
    readout = "y"
    stream, out = "mixer_in", "mixer_out"
    sites = (
        *("mixer_in", "value", "input_gate", "gate", "conv_in"),
        *("write", "state", "y", "mixer_out"),
    )
    inputs = ("value", "input_gate", "gate")

    def __init__(self, layer: int, norm: Norm, module: Any) -> None:
        self.layer, self.norm, self.module = layer, norm, module
        self.convolution = Convolution(layer, module.conv)
        self.width = self.convolution.width

    def __call__(self, h: Residual, context: Context, taps: Taps) -> Residual:
        layer = self.layer
        entered = self.enter(taps("mixer_in", layer, h), context)
        at = {kind: taps(kind, layer, entered[kind]) for kind in self.inputs}
        x = taps("conv_in", layer, self.newest(at))
        return self._leave(at["gate"], taps("y", layer, self._convolved(x, taps)), taps)

    def _convolved(self, x: Tensor, taps: Taps) -> Tensor:
        layer, length, kinds = self.layer, x.shape[1], ("write", "state")
        if not any(taps.touches(kind, layer) for kind in kinds):
            return self.convolution(x)
        write = taps("write", layer, F.pad(x.unsqueeze(-1), (self.width - 1, 0)))
        states = self.registers(x).contiguous()
        edited = taps.edited_positions(kinds, layer, length)
        if not edited:
            taps("state", layer, states)
            return self.convolution(x)
        start = edited[0]
        early = [p for p in taps.read_positions("state", layer, length) if p < start]
        found = states[:, start - 1] if start else torch.zeros_like(states[:, 0])
        return recur(
            Start(self.convolution(x[:, :start]), states[:, early], found),
            range(start, length),
            lambda t, state: F.pad(state[..., 1:], (0, 1)) + write[:, t],
            lambda _t, state: self._read(state).to(x.dtype),
            layer,
            taps,
        )

    def _read(self, state: Tensor) -> Tensor:
        y = (widened(state) * widened(self.convolution.weight[:, 0])).sum(-1)
        bias = self.module.conv.bias
        return y if bias is None else y + bias

    def _leave(self, gate: Tensor, y: Tensor, taps: Taps = NOTHING) -> Tensor:
        gated = (gate * y).to(self.module.out_proj.weight.dtype)
        return taps("mixer_out", self.layer, linear(self.module.out_proj, gated))

    # --- the protocol

    def enter(self, h: Tensor, context: Context) -> Inputs:
        B, C, x = linear(self.module.in_proj, self.norm(h)).chunk(3, dim=-1)
        return {"value": x.unsqueeze(-2), "input_gate": B, "gate": C}

    def newest(self, at: Inputs) -> Tensor:
        return at["input_gate"] * at["value"].squeeze(-2)

    def read(self, memory: Tensor, at: Inputs) -> Tensor:
        return self._read(memory)

    def reading(self, at: Inputs) -> Tensor:
        weight = widened(self.convolution.weight[:, 0])
        return weight.expand(*at["gate"].shape[:-1], *weight.shape)

    def back(self, reading: Tensor, at: Inputs) -> tuple[Tensor, Tensor]:
        """The weight is that of the tap, times B: that of x, without the bias."""
        weight, before = super().back(reading, at)
        return weight * at["input_gate"], before

    def carried(self, inputs: Inputs) -> Tensor:
        return widened(inputs["value"]).transpose(-1, -2)

    def leave(self, at: Inputs, readout: Tensor) -> Tensor:
        return self._leave(at["gate"], readout)
