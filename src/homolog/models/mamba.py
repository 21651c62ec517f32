"""Mamba-1: the mixer's forward over the Hugging Face module's weights, with our scan for its loop.

    [x, z]       = in_proj(RMSNorm(h))                               sites conv_in, gate_in
    u            = SiLU(causal depthwise convolution of x)           conv_taps, conv_out, ssm_input
    [dt', B, C]  = x_proj(u);  dt = softplus(dt_proj(dt'))           dt, B, C
    state, y     = selective scan of u, dt, A = -exp(A_log), B, C    A_bar, B_bar, write, state, y
    h           <- h + out_proj((y + D * u) * SiLU(z))               skip, gate, mixer_out
The residual stream stays in float32 when the configuration says so, and A_log, D and the scan never
go below float32.

The scan never holds the state of every position unless a run reads it.  Where a run edits A_bar,
B_bar, write or state, that layer runs the plain recurrence from the first edited position on, and
the scan up to there.
"""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from homolog.axes import Residual
from homolog.models.base import apply_norm, widened
from homolog.models.blockwise import Blockwise
from homolog.models.products import linear, project
from homolog.models.scan import ScanInputs, selective_scan
from homolog.models.taps import NOTHING, Taps

CONVOLUTION = ("mixer_in", "conv_in", "gate_in", "conv_taps", "conv_out")
SELECTION = ("ssm_input", "dt", "B", "C")
# sites with a state of every channel at every position
RECURRENCE = ("A_bar", "B_bar", "write", "state")
OUTPUT = ("y", "skip", "gate", "mixer_out")


class Mamba(Blockwise):
    """Adapter over `transformers.MambaForCausalLM`."""

    architecture = "mamba"
    site_kinds = ("resid_pre", *CONVOLUTION, *SELECTION, *RECURRENCE, *OUTPUT, "resid")
    neuron_kinds = ("ssm_input", "gate")

    def blocks(self) -> Any:
        return self.hf.backbone.layers

    @property
    def conv_width(self) -> int:
        """Taps of the convolution: the current position, and those before it that it reads."""
        return int(self.mixer(0).conv1d.weight.shape[-1])

    def block(self, layer: int, h: Residual, context: None, taps: Taps) -> Residual:
        x, z = self.halves(layer, taps("mixer_in", layer, h))
        x, z = taps("conv_in", layer, x), taps("gate_in", layer, z)
        conv_out = taps("conv_out", layer, self._convolve(layer, x, taps))
        u = taps("ssm_input", layer, self.mixer(layer).act(conv_out))
        dt, B, C = self.selection(layer, u)
        dt, B, C = taps("dt", layer, dt), taps("B", layer, B), taps("C", layer, C)
        inputs = ScanInputs(widened(u), dt, self.A(layer), B, C)
        y = taps("y", layer, self._scan(layer, inputs, taps))
        return self.after_scan(layer, h, u, y, z, taps)

    def mixer(self, layer: int) -> Any:
        """The Hugging Face mixer of a block."""
        return self.blocks()[layer].mixer

    def halves(self, layer: int, h: Tensor) -> tuple[Tensor, Tensor]:
        """conv_in and gate_in (..., d_inner) of a residual stream (..., d_model)."""
        block = self.blocks()[layer]
        normed = apply_norm(block.norm, h.to(block.norm.weight.dtype))
        x, z = linear(block.mixer.in_proj, normed).chunk(2, dim=-1)
        return x, z

    def _convolve(self, layer: int, x: Tensor, taps: Taps) -> Tensor:
        conv = self.mixer(layer).conv1d
        through = taps.splits(["conv_taps"], layer, x)
        if through or taps.touches("conv_taps", layer):
            width = conv.weight.shape[-1]
            padded = F.pad(x, (0, 0, width - 1, 0))
            parts = [padded[:, j : j + x.shape[1]] * conv.weight[:, 0, j] for j in range(width)]
            added = taps("conv_taps", layer, torch.stack(parts, dim=2))
        if not through:
            return causal_conv(x, conv.weight, conv.bias)
        out = widened(added).sum(2)
        return (out if conv.bias is None else out + conv.bias).to(x.dtype)

    def selection(self, layer: int, u: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """dt (..., d_inner), B and C (..., d_state) of the SSM input (..., d_inner)."""
        mixer = self.mixer(layer)
        sizes = [mixer.time_step_rank, mixer.ssm_state_size, mixer.ssm_state_size]
        dt_low, B, C = linear(mixer.x_proj, u).split(sizes, dim=-1)
        step = widened(project(dt_low, mixer.dt_proj.weight)) + widened(mixer.dt_proj.bias)
        return F.softplus(step), widened(B), widened(C)

    def output_matrix(self, layer: int, u: Tensor) -> Tensor:
        """C (..., d_state) alone, of the SSM input."""
        mixer = self.mixer(layer)
        return widened(project(u, mixer.x_proj.weight[-mixer.ssm_state_size :]))

    def A(self, layer: int) -> Tensor:
        """The continuous state matrix, diagonal and negative, (d_inner, d_state)."""
        return -torch.exp(widened(self.mixer(layer).A_log))

    def after_scan(
        self, layer: int, h: Residual, u: Tensor, y: Tensor, z: Tensor, taps: Taps = NOTHING
    ) -> Residual:
        """The residual stream after the block from that before it, position by position.

        u: SSM input, y: output of the scan without D-skip, z: the gate's half of the in-projection.
        """
        block = self.blocks()[layer]
        mixer = block.mixer
        skip = taps("skip", layer, u * widened(mixer.D))
        gated = (y + skip) * taps("gate", layer, mixer.act(z))
        out = linear(mixer.out_proj, gated.to(mixer.out_proj.weight.dtype))
        out = taps("mixer_out", layer, out)
        return (widened(h) if block.residual_in_fp32 else h) + out

    def _scan(self, layer: int, inputs: ScanInputs, taps: Taps) -> Tensor:
        length = inputs.u.shape[1]
        edited = taps.edited_positions(RECURRENCE, layer, length)
        if edited:
            return self._recur(layer, inputs, edited[0], taps)
        self._read_discretised(layer, inputs, taps)
        wanted = taps.read_positions("state", layer, length)
        result = selective_scan(*inputs, return_states=wanted or False)
        if result.states is not None:
            taps.store("state", layer, wanted, result.states, length)
        return result.y

    def _read_discretised(self, layer: int, inputs: ScanInputs, taps: Taps) -> None:
        length = inputs.u.shape[1]
        for part, kind in enumerate(RECURRENCE[:3]):
            if at := taps.read_positions(kind, layer, length):
                u, dt, A, B, _ = inputs.at(at)
                taps.store(kind, layer, at, discretise(u, dt, A, B)[part], length)

    def _recur(self, layer: int, inputs: ScanInputs, start: int, taps: Taps) -> Tensor:
        """y of the plain recurrence, with edits in it from `start` on; up to there of the scan."""
        u, dt, A, B, C = inputs
        length = u.shape[1]
        A_bar, B_bar, _ = discretise(u, dt, A, B)
        A_bar, B_bar = taps("A_bar", layer, A_bar), taps("B_bar", layer, B_bar)
        write = taps("write", layer, B_bar * u.unsqueeze(-1))
        wanted = taps.read_positions("state", layer, length)
        early = [p for p in wanted if p < start]
        first = selective_scan(*inputs.at(slice(start)), return_states=early or False)
        states = [] if first.states is None else list(first.states.unbind(1))
        state, ys = first.last_state, [first.y]
        for t in range(start, length):
            state = taps.at("state", layer, t, length, A_bar[:, t] * state + write[:, t])
            ys.append((state * C[:, t, None]).sum(-1)[:, None])
            if t in wanted:
                states.append(state)
        if wanted:
            taps.store("state", layer, wanted, torch.stack(states, 1), length)
        return torch.cat(ys, 1)

    def final_norm(self, h: Residual) -> Residual:
        return apply_norm(self.hf.backbone.norm_f, h)


def discretise(u: Tensor, dt: Tensor, A: Tensor, B: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """A_bar = exp(dt A), B_bar = dt B and the write B_bar u, (..., d_inner, d_state) each.

    u and dt (..., d_inner), A (d_inner, d_state), B (..., d_state).
    """
    B_bar = dt.unsqueeze(-1) * B.unsqueeze(-2)
    return torch.exp(dt.unsqueeze(-1) * A), B_bar, B_bar * u.unsqueeze(-1)


def causal_conv(x: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
    """Depthwise causal convolution.

    out[t, d] = bias[d] + sum over j of weight[d, 0, j] * x[t - (K - 1) + j, d]

    x (batch, position, d_inner), weight (d_inner, 1, K).  A sum of K shifted products: on a CPU
    several times as fast as the grouped convolution, with the same additions.
    """
    kernel, length = weight.shape[-1], x.shape[1]
    padded = F.pad(x, (0, 0, kernel - 1, 0))
    out = padded[:, :length] * weight[:, 0, 0]
    for j in range(1, kernel):
        out = torch.addcmul(out, padded[:, j : j + length], weight[:, 0, j])
    return out if bias is None else out + bias
