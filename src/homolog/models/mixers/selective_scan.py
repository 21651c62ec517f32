"""The selective scan of Mamba-1: its state is a memory for every channel.

    [x, z]       = in_proj(norm(h))                              sites conv_in, gate_in
    u            = SiLU(causal depthwise convolution of x)       conv_taps, conv_out, ssm_input
    [dt', B, C]  = x_proj(u), normed where the model norms them
    dt           = softplus(dt_proj(dt'))                        dt, B, C
    state, y     = selective scan of u, dt, A = -exp(A_log), B, C    A_bar, B_bar, write, state, y
    out          = out_proj((y + D * u) * SiLU(z))               skip, gate, mixer_out

A_log, D and the scan never go below float32.  The recurrence by itself is in
`selective_recurrence.py`.
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
from homolog.models.mixers.selective_recurrence import RECURRENCE, discretise, tapped_scan
from homolog.models.products import linear, project
from homolog.models.scan import ScanInputs, propagate, selective_scan
from homolog.models.taps import NOTHING, Taps
from homolog.models.widening import widened

SELECTION = ("ssm_input", "dt", "B", "C")
# as a dt it decays nothing in float64; what is divided by it stays finite in float32
SMALLEST_STEP = 1e-20
OUTPUT = ("y", "skip", "gate", "mixer_out")


class SelectiveScan(ConvolvedMixer):
    """The mixer of Mamba-1 over the module of transformers.

    norms   of dt', B and C
    """

    kind = "selective scan"
    channelwise = True
    readout = "y"
    sites = (*CONVOLUTION, *SELECTION, *RECURRENCE, *OUTPUT)
    neurons = ("ssm_input", "gate")
    inputs = ("conv_in", "gate_in", *SELECTION)

    def __init__(
        self, layer: int, norm: Norm, module: Any, norms: tuple[Norm, Norm, Norm] | None = None
    ) -> None:
        super().__init__(layer, norm, module.conv1d)
        self.module, self.norms = module, norms

    def __call__(self, h: Residual, context: Context, taps: Taps) -> Residual:
        layer = self.layer
        conv_out, others = self.convolved(h, taps)
        u = taps("ssm_input", layer, self.module.act(conv_out))
        dt, B, C = self._selection(u)
        dt, B, C = taps("dt", layer, dt), taps("B", layer, B), taps("C", layer, C)
        inputs = ScanInputs(widened(u), dt, self.A, B, C)
        y = taps("y", layer, tapped_scan(inputs, layer, taps))
        return self._leave(u, y, others["gate_in"], taps)

    @property
    def A(self) -> Tensor:
        """The continuous state matrix, diagonal and negative, (d_inner, d_state)."""
        return -torch.exp(widened(self.module.A_log))

    def projected(self, h: Tensor) -> tuple[Tensor, Inputs]:
        x, z = linear(self.module.in_proj, self.norm(h)).chunk(2, dim=-1)
        return x, {"gate_in": z}

    def _selection(self, u: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """dt (..., d_inner), B and C (..., d_state) of the SSM input (..., d_inner)."""
        mixer = self.module
        sizes = [mixer.time_step_rank, mixer.ssm_state_size, mixer.ssm_state_size]
        parts = linear(mixer.x_proj, u).split(sizes, dim=-1)
        if self.norms is not None:
            parts = [norm(part) for norm, part in zip(self.norms, parts, strict=True)]
        dt_low, B, C = parts
        step = widened(project(dt_low, mixer.dt_proj.weight)) + widened(mixer.dt_proj.bias)
        return F.softplus(step), widened(B), widened(C)

    def _leave(self, u: Tensor, y: Tensor, z: Tensor, taps: Taps = NOTHING) -> Tensor:
        """What is added to the stream, position by position.

        u: SSM input, y: output of the scan without D-skip, z: the gate's half of the in-projection.
        """
        mixer = self.module
        skip = taps("skip", self.layer, u * widened(mixer.D))
        gated = (y + skip) * taps("gate", self.layer, mixer.act(z))
        out = linear(mixer.out_proj, gated.to(mixer.out_proj.weight.dtype))
        return taps("mixer_out", self.layer, out)

    # --- the protocol

    def written(self, conv_out: Tensor) -> Inputs:
        u = self.module.act(conv_out)
        return dict(zip(SELECTION, (u, *self._selection(u)), strict=True))

    def scan_inputs(self, inputs: Inputs) -> ScanInputs:
        """Of the recurrence, (batch, position, ...)."""
        u, dt, B, C = (inputs[kind] for kind in SELECTION)
        return ScanInputs(widened(u), dt, self.A, B, C)

    def states(self, inputs: Inputs, positions: Sequence[int]) -> Tensor:
        states = selective_scan(*self.scan_inputs(inputs), return_states=positions).states
        assert states is not None
        return states

    def memory(self, inputs: Inputs) -> Tensor:
        return selective_scan(*self.scan_inputs(inputs)).last_state

    def step(self, state: Tensor, at: Inputs) -> Tensor:
        A_bar, _, write = self._discretised(at)
        return A_bar * state + write

    def stepped_change(self, before: Tensor, old: Inputs, new: Inputs) -> Tensor:
        old_A_bar, _, old_write = self._discretised(old)
        A_bar, _, write = self._discretised(new)
        return (A_bar - old_A_bar) * before + write - old_write

    def carry(self, change: Tensor, inputs: Inputs, start: Tensor, stop: int) -> Tensor:
        start = start.expand(change.shape[:-2]) if change.ndim > 3 else start
        return propagate(change, inputs["dt"], self.A, start, stop)

    def replayed(self, inputs: Inputs, old: Inputs, new: Inputs, share: Tensor) -> Tensor:
        """As the base says, by three scans.

        A scan multiplies its input by the step, so that other inputs come with the ratio of steps.
        """
        u, dt, A, B, C = self.scan_inputs(inputs)
        dt = dt.clamp_min(SMALLEST_STEP)
        y = selective_scan(u, dt, A, B, C).y
        for sign, other in ((-1, old), (1, new)):
            ratio = sign * other["dt"] / dt * share.unsqueeze(-1)
            y = y + selective_scan(widened(other["ssm_input"]) * ratio, dt, A, other["B"], C).y
        return y

    def read(self, memory: Tensor, at: Inputs) -> Tensor:
        C = at["C"]
        if memory.ndim == C.ndim:  # one state for all rows
            return torch.einsum("nde,sne->snd", memory, C)
        return (memory * C.unsqueeze(-2)).sum(-1)

    def reading(self, at: Inputs) -> Tensor:
        C = at["C"].unsqueeze(-2)
        return C.expand(*C.shape[:-2], len(self.A), -1)

    def back(self, reading: Tensor, at: Inputs) -> tuple[Tensor, Tensor]:
        """The weight is dt C B: that of the SSM input, without D-skip."""
        dt = at["dt"]
        weight = dt * (reading * at["B"].unsqueeze(-2)).sum(-1)
        return weight, reading * torch.exp(dt.unsqueeze(-1) * self.A)

    def carried(self, inputs: Inputs) -> Tensor:
        return widened(inputs["ssm_input"]).unsqueeze(-1)

    def leave(self, at: Inputs, readout: Tensor) -> Tensor:
        return self._leave(at["ssm_input"], readout, at["gate_in"])

    def _discretised(self, at: Inputs) -> tuple[Tensor, Tensor, Tensor]:
        return discretise(widened(at["ssm_input"]), at["dt"], self.A, at["B"])
