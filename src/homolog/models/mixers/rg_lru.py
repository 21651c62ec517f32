"""The real-gated linear recurrent unit of Griffin (RecurrentGemma): a number for every channel.

    x, z     = linear_x(norm(h)), linear_y(norm(h))              sites conv_in, gate_in
    x'       = causal depthwise convolution of x                 conv_taps, conv_out
    r, i     = sigmoid(W_r x' + b_r), sigmoid(W_i x' + b_i)      recurrence_gate, input_gate
    log a    = -8 r softplus(recurrent_param)                    A_bar = a
    write    = sqrt(1 - a^2) i x'                                B_bar = sqrt(1 - a^2) i; write
    state[t] = a[t] state[t-1] + write[t]                        state; y = state
    out      = linear_out(y * act(z))                            gate, mixer_out

W_r and W_i are block-diagonal.  At the window's first position B_bar is i alone.  d_state is 1.
Decays and states never go below float32.

Source: De et al., "Griffin: Mixing Gated Linear Recurrences with Local Attention for Efficient
Language Models", 2024, equations 1 to 4.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from homolog.axes import Residual
from homolog.models.mixers.base import Context, Inputs, Norm
from homolog.models.mixers.channels import all_states, tapped_states
from homolog.models.mixers.convolution import CONVOLUTION, ConvolvedMixer
from homolog.models.products import linear
from homolog.models.scan import linear_carry
from homolog.models.taps import NOTHING, Taps
from homolog.models.widening import widened

FIRST = "first"
"""In the context and in inputs: whether a position is the window's first, (..., 1)."""
GATES = ("recurrence_gate", "input_gate")


class RGLRU(ConvolvedMixer):
    """The recurrent block of RecurrentGemma over the module of transformers."""

    kind = "RG-LRU"
    channelwise = True
    readout = "y"
    sites = (
        *CONVOLUTION,
        *GATES,
        *("A_bar", "B_bar", "write", "state", "y", "gate", "mixer_out"),
    )
    inputs = ("conv_in", "gate_in", "conv_out", *GATES)

    def __init__(self, layer: int, norm: Norm, module: Any) -> None:
        super().__init__(layer, norm, module.conv_1d)
        self.module = module

    def __call__(self, h: Residual, context: Context, taps: Taps) -> Residual:
        layer = self.layer
        x, others = self.convolved(h, taps)
        r, i = (taps(kind, layer, gate) for kind, gate in zip(GATES, self._gates(x), strict=True))
        log_decay = self._log_decay(r)
        factor = input_factor(log_decay, i, _first(context))
        B_bar = taps("B_bar", layer, factor.unsqueeze(-1))
        write = B_bar * widened(x).unsqueeze(-1)
        states = tapped_states(log_decay.unsqueeze(-1), write, "A_bar", layer, taps)
        return self._leave(taps("y", layer, states.squeeze(-1)), others["gate_in"], taps)

    def projected(self, h: Tensor) -> tuple[Tensor, Inputs]:
        normed = self.norm(h)
        z = linear(self.module.linear_y, normed)
        return linear(self.module.linear_x, normed), {"gate_in": z}

    def _gates(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """The recurrence gate and the input gate of the convolution's output (..., d_inner)."""
        unit = self.module.rg_lru
        blocks = x.unflatten(-1, (unit.num_attention_heads, -1))

        def gate(weight: Tensor, bias: Tensor) -> Tensor:
            product = torch.einsum("...hi,hij->...hj", blocks, weight) + bias
            return torch.sigmoid(widened(product)).flatten(-2)

        return (
            gate(unit.recurrent_gate_weight, unit.recurrent_gate_bias),
            gate(unit.input_gate_weight, unit.input_gate_bias),
        )

    def _log_decay(self, r: Tensor) -> Tensor:
        return -8.0 * r * F.softplus(widened(self.module.rg_lru.recurrent_param))

    def _leave(self, y: Tensor, z: Tensor, taps: Taps = NOTHING) -> Tensor:
        gated = y * taps("gate", self.layer, self.module.act_fn(z))
        out = linear(self.module.linear_out, gated.to(self.module.linear_out.weight.dtype))
        return taps("mixer_out", self.layer, out)

    # --- the protocol

    def written(self, conv_out: Tensor) -> Inputs:
        """What a position writes by its convolution's output (..., d_inner)."""
        return {"conv_out": conv_out} | dict(zip(GATES, self._gates(conv_out), strict=True))

    def prepared(self, values: Inputs, context: Context) -> Inputs:
        """With whether a position is the window's first."""
        first, like = _first(context), next(iter(values.values()))
        return values | {FIRST: first.expand(*like.shape[:-1], 1)}

    def states(self, inputs: Inputs, positions: Sequence[int]) -> Tensor:
        return all_states(*self._recurrence(inputs))[:, list(positions)]

    def step(self, state: Tensor, at: Inputs) -> Tensor:
        log_decay, write = self._recurrence(at)
        return torch.exp(log_decay) * state + write

    def carry(self, change: Tensor, inputs: Inputs, start: Tensor, stop: int) -> Tensor:
        log_decay = self._log_decay(inputs["recurrence_gate"])[:, :, None, None]
        channels = change.squeeze(-1)[..., None, None, :]
        return linear_carry(channels, log_decay, start, stop)[..., 0, 0, :].unsqueeze(-1)

    def _recurrence(self, inputs: Inputs) -> tuple[Tensor, Tensor]:
        """log a and the write, (..., d_inner, 1)."""
        log_decay = self._log_decay(inputs["recurrence_gate"])
        B_bar = input_factor(log_decay, inputs["input_gate"], inputs[FIRST])
        return log_decay.unsqueeze(-1), (B_bar * widened(inputs["conv_out"])).unsqueeze(-1)

    def read(self, memory: Tensor, at: Inputs) -> Tensor:
        return memory.squeeze(-1)

    def reading(self, at: Inputs) -> Tensor:
        return torch.ones_like(at["recurrence_gate"])

    def back(self, reading: Tensor, at: Inputs) -> tuple[Tensor, Tensor]:
        """The weight is B_bar: that of the convolution's output."""
        log_decay = self._log_decay(at["recurrence_gate"])
        B_bar = input_factor(log_decay, at["input_gate"], at[FIRST])
        return reading * B_bar, reading * torch.exp(log_decay)

    def carried(self, inputs: Inputs) -> Tensor:
        return widened(inputs["conv_out"]).unsqueeze(-1)

    def leave(self, at: Inputs, readout: Tensor) -> Tensor:
        return self._leave(readout, at["gate_in"])


def input_factor(log_decay: Tensor, input_gate: Tensor, first: Tensor) -> Tensor:
    """B_bar of log a and i (..., d_inner); first (..., 1)."""
    rest = -torch.expm1(2 * log_decay)  # 1 - a^2, whose root alone has no gradient at 0
    root = (rest + torch.finfo(rest.dtype).tiny).sqrt()
    return torch.where(first, 1.0, root) * input_gate


def _first(context: Context) -> Tensor:
    table = context[FIRST]
    assert table is not None
    return table[0]
