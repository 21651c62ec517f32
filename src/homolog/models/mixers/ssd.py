"""The state space duality (SSD) of Mamba-2: heads that share one decay for all their channels.

    [z, xBC, dt'] = in_proj(norm(h)), times a vector where there is one    gate_in, conv_in
    [x, B, C]     = SiLU(causal depthwise convolution of xBC)    conv_taps, conv_out
    dt            = softplus(dt' + dt_bias), within limits       ssm_input, head_dt, B, C
    decay         = exp(dt * A), A = -exp(A_log)                 decay: one for each head
    write         = dt * x B^T                                   write
    state         = decay * (state before) + write               state
    y             = state C                                      y
    inner         = norm((y + D * x) * SiLU(z))                  skip, gate
    out           = out_proj(inner)                              mixer_out

d_inner = head * d_v value channels; all heads of a group share B and C, which hold the d_state
dimensions of all groups, one after the other.  Some models norm before they gate, some do not norm.
Decays, states and the norm never go below float32.  The scan holds the states of those positions
alone that a run reads.  Where it edits decay, write or state, that layer runs the plain recurrence
from the first edited position on.
Source: Dao and Gu, "Transformers are SSMs", 2024, sections 3 and 7.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from homolog.axes import Residual
from homolog.models.mixers.base import Context, Inputs, Norm
from homolog.models.mixers.convolution import CONVOLUTION, ConvolvedMixer
from homolog.models.mixers.recurrence import Start, recur
from homolog.models.mixers.ssd_recurrence import SSDInputs, scale_heads
from homolog.models.products import linear
from homolog.models.taps import NOTHING, Taps
from homolog.models.widening import widened

SELECTION = ("ssm_input", "head_dt", "B", "C")
RECURRENCE = ("decay", "write", "state")
OUTPUT = ("y", "skip", "gate", "mixer_out")


class SSD(ConvolvedMixer):
    """The mixer of Mamba-2 over the module of transformers.

    after   what is done to the output before it is added
    """

    kind = "SSD"
    readout = "y"
    sites = (*CONVOLUTION, *SELECTION, *RECURRENCE, *OUTPUT)
    neurons = ("ssm_input", "gate")
    inputs = ("conv_in", "gate_in", *SELECTION)

    def __init__(self, layer: int, norm: Norm, module: Any, after: Norm | None = None) -> None:
        super().__init__(layer, norm, module.conv1d)
        self.module, self.after = module, after
        self.heads, self.groups = module.num_heads, module.n_groups

    def __call__(self, h: Residual, context: Context, taps: Taps) -> Residual:
        layer = self.layer
        conv_out, others = self.convolved(h, taps)
        values = others | self.written(conv_out)
        inputs = self.driven_by({kind: taps(kind, layer, values[kind]) for kind in SELECTION})
        y = taps("y", layer, self._scan(inputs, taps))
        return self._leave(inputs.x, y, others["gate_in"], taps)

    def driven_by(self, inputs: Inputs) -> SSDInputs:
        """The recurrence of what positions enter with."""
        x, dt, B, C = (inputs[kind] for kind in SELECTION)
        return SSDInputs(x, dt, B, C, -torch.exp(widened(self.module.A_log)), self.groups)

    def projected(self, h: Tensor) -> tuple[Tensor, Inputs]:
        mixer = self.module
        projected = linear(mixer.in_proj, self.norm(h))
        if hasattr(mixer, "mup_vector"):
            projected = projected * mixer.mup_vector.view(-1)
        sizes = [mixer.intermediate_size, self.convolution.weight.shape[0], self.heads]
        z, conv_in, dt = projected.split(sizes, dim=-1)
        step = F.softplus(widened(dt) + widened(mixer.dt_bias))
        return conv_in, {"gate_in": z, "head_dt": step.clamp(*mixer.time_step_limit)}

    def _leave(self, x: Tensor, y: Tensor, z: Tensor, taps: Taps = NOTHING) -> Tensor:
        """What is added to the stream, position by position; y without the skip D * x."""
        mixer = self.module
        skip = taps("skip", self.layer, x * widened(mixer.D).repeat_interleave(mixer.head_dim))
        gate = taps("gate", self.layer, F.silu(widened(z)))
        if isinstance(mixer.norm, torch.nn.Identity):
            inner = (y + skip) * gate
        elif getattr(mixer.norm, "norm_before_gate", False):
            inner = self._normed(y + skip) * gate
        else:
            inner = self._normed((y + skip) * gate)
        out = linear(mixer.out_proj, inner.to(mixer.out_proj.weight.dtype))
        return taps("mixer_out", self.layer, out if self.after is None else self.after(out))

    def _normed(self, x: Tensor) -> Tensor:
        """x over the root of its mean square in each group, times the norm's weight."""
        norm, by_group = self.module.norm, x.unflatten(-1, (self.groups, -1))
        scale = torch.rsqrt(by_group.pow(2).mean(-1, keepdim=True) + norm.variance_epsilon)
        return widened(norm.weight) * (by_group * scale).flatten(-2)

    def _scan(self, inputs: SSDInputs, taps: Taps) -> Tensor:
        layer, length = self.layer, inputs.x.shape[1]
        edited = taps.edited_positions(RECURRENCE, layer, length)
        if edited:
            return self._recur(inputs, edited[0], taps)
        if taps.touches("decay", layer):
            taps("decay", layer, inputs.decay)
        if at := taps.read_positions("write", layer, length):
            taps.store("write", layer, at, inputs.at(at).write, length)
        wanted = taps.read_positions("state", layer, length)
        y, _, states = inputs.scan(wanted)
        if states is not None:
            taps.store("state", layer, wanted, states, length)
        return y

    def _recur(self, inputs: SSDInputs, start: int, taps: Taps) -> Tensor:
        """y of the plain recurrence, with edits in it from `start` on; up to there of the scan."""
        layer, length = self.layer, inputs.x.shape[1]
        decay, write = taps("decay", layer, inputs.decay), None
        if taps.touches("write", layer):  # else it is formed position by position: it is large
            write = taps("write", layer, inputs.write)
        early = [p for p in taps.read_positions("state", layer, length) if p < start]
        y, last, states = inputs.at(slice(start)).scan(early)

        def step(t: int, state: Tensor) -> Tensor:
            written = inputs.at(t).write if write is None else write[:, t]
            return scale_heads(state, decay[:, t]) + written

        def read(t: int, state: Tensor) -> Tensor:
            return inputs.at(t).read(state)

        return recur(Start(y, states, last), range(start, length), step, read, layer, taps)

    # --- the protocol

    def written(self, conv_out: Tensor) -> Inputs:
        """x, B and C of the convolution's output."""
        mixer, d_state = self.module, self.groups * self.module.ssm_state_size
        sizes = [mixer.intermediate_size, d_state, d_state]
        x, B, C = mixer.act(conv_out).split(sizes, dim=-1)
        return {"ssm_input": x, "B": widened(B), "C": widened(C)}

    def states(self, inputs: Inputs, positions: Sequence[int]) -> Tensor:
        states = self.driven_by(inputs).scan(positions)[2]
        assert states is not None
        return states

    def memory(self, inputs: Inputs) -> Tensor:
        return self.driven_by(inputs).scan()[1]

    def step(self, state: Tensor, at: Inputs) -> Tensor:
        return self.driven_by(at).step(state)

    def stepped_change(self, before: Tensor, old: Inputs, new: Inputs) -> Tensor:
        was, now = self.driven_by(old), self.driven_by(new)
        return scale_heads(before, now.decay - was.decay) + now.write - was.write

    def carry(self, change: Tensor, inputs: Inputs, start: Tensor, stop: int) -> Tensor:
        return self.driven_by(inputs).carry(change, start, stop)

    def read(self, memory: Tensor, at: Inputs) -> Tensor:
        return self.driven_by(at).read(memory)

    def reading(self, at: Inputs) -> Tensor:
        return self.driven_by(at).each_head(at["C"])

    def back(self, reading: Tensor, at: Inputs) -> tuple[Tensor, Tensor]:
        """The weight is dt C B: that of x, head by head."""
        driven = self.driven_by(at)
        weight = driven.dt * (reading * driven.each_head(driven.B)).sum(-1)
        return weight, reading * driven.decay.unsqueeze(-1)

    def carried(self, inputs: Inputs) -> Tensor:
        return widened(inputs["ssm_input"]).unflatten(-1, (self.heads, -1))

    def leave(self, at: Inputs, readout: Tensor) -> Tensor:
        return self._leave(at["ssm_input"], readout, at["gate_in"])
