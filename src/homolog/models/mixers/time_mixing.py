"""The time mixing of an RWKV-4 block.

x is the normed stream, x' that of the position before (zeros before the window):

    x                                                                 mixer_normed
    [x', x]   what the token shift gives                              shift_taps
    k, v, r = W_k, W_v, W_r of (mix * x + (1 - mix) * x'), each with a mix of its own
                                                                      key, value, gate_in
    write   = e^k (v, 1)                                              write
    S[t]    = e^w S[t-1] + write[t],  w = -exp(time_decay)            state
    y       = (S[t-1] + e^u write[t]): its first over its second      y
    out     = W_o (sigmoid(r) * y)                                    gate, mixer_out

The state of a channel is a numerator and a denominator (d_state 2), both as they are: no exponent
is taken out, so that states are linear in the writes and compare between prompts and positions.
They are float64, which holds keys k between -700 and 700.  A position reads the state before it,
and its own write with the bonus u = time_first beside it; in the protocol the state is therefore
that before and that after, one behind the other.

Source: Peng et al., "RWKV: Reinventing RNNs for the Transformer Era", 2023, equations 11 to 18.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from homolog.axes import Residual
from homolog.models.mixers.base import Context, Inputs, Norm
from homolog.models.mixers.channels import all_states, tapped_states
from homolog.models.mixers.linear_mixer import LinearMixer
from homolog.models.mixers.token_shift import mixed, shifted
from homolog.models.products import linear
from homolog.models.scan.wkv import wkv
from homolog.models.taps import NOTHING, Taps
from homolog.models.widening import widened


class TimeMixing(LinearMixer):
    """Over the module `attention` of a block.  `key` and `value` have one head."""

    kind = "RWKV-4"
    channelwise = True
    readout = "y"
    stream, out = "mixer_in", "mixer_out"
    sites = (
        *("mixer_in", "mixer_normed", "shift_taps", "key", "value", "gate_in"),
        *("write", "state", "y", "gate", "mixer_out"),
    )
    inputs = ("mixer_normed", "key", "value", "gate_in")
    reach = 1
    local, local_taps = "mixer_normed", "shift_taps"

    def __init__(self, layer: int, norm: Norm, module: Any) -> None:
        self.layer, self.norm, self.module = layer, norm, module

    def __call__(self, h: Residual, context: Context, taps: Taps) -> Residual:
        layer = self.layer
        x = taps("mixer_normed", layer, self.norm(taps("mixer_in", layer, h)))
        before = shifted(x)
        if taps.touches("shift_taps", layer):
            before, x = taps("shift_taps", layer, torch.stack([before, x], 2)).unbind(2)
        entered = self._entered(x, before)
        at = {kind: taps(kind, layer, entered[kind]) for kind in self.inputs[1:]}
        return self._leave(taps("y", layer, self._scan(at, taps)), at["gate_in"], taps)

    def _scan(self, at: Inputs, taps: Taps) -> Tensor:
        """y of every position, with what a run reads and edits on the way.

        Where states are neither edited nor learned through, y is made without them.
        """
        kinds, key = ("write", "state"), at["key"]
        learns = torch.is_grad_enabled() and any(
            t.requires_grad for t in (*at.values(), *self.module.parameters())
        )
        edited = taps.edited_positions(kinds, self.layer, key.shape[1])
        alone = not (edited or learns or key.device.type != "cpu")
        if alone and not any(taps.touches(kind, self.layer) for kind in kinds):
            return self._readouts(at)
        states = tapped_states(self._log_decay, self._write(at), None, self.layer, taps)
        if alone:  # reading states must not change a bit of what is computed
            return self._readouts(at)
        found = torch.cat([torch.zeros_like(states[:, :1]), states[:, :-1]], 1)
        return self._read(found, at)

    def _readouts(self, at: Inputs) -> Tensor:
        k, v = (at[kind].squeeze(-2) for kind in ("key", "value"))
        decay, bonus = self._log_decay.squeeze(-1).exp(), self.module.time_first.double().exp()
        return wkv(torch.exp(k.double()), widened(v), decay, bonus)

    @property
    def _log_decay(self) -> Tensor:
        """w, (d_inner, 1)."""
        return -torch.exp(self.module.time_decay.double()).unsqueeze(-1)

    def _entered(self, x: Tensor, before: Tensor) -> Inputs:
        part = self.module
        k = linear(part.key, mixed(x, before, part.time_mix_key))
        v = linear(part.value, mixed(x, before, part.time_mix_value))
        r = linear(part.receptance, mixed(x, before, part.time_mix_receptance))
        values = (x, k.unsqueeze(-2), v.unsqueeze(-2), r)
        return dict(zip(self.inputs, values, strict=True))

    def _write(self, at: Inputs, bonus: Tensor | None = None) -> Tensor:
        """e^k (v, 1), or e^(u + k) (v, 1): (..., d_inner, 2)."""
        k, v = (at[kind].squeeze(-2).double() for kind in ("key", "value"))
        k = k if bonus is None else k + bonus
        return torch.exp(k).unsqueeze(-1) * torch.stack([v, torch.ones_like(v)], -1)

    def _read(self, found: Tensor, at: Inputs) -> Tensor:
        own = self._write(at, self.module.time_first.double())
        numerator, denominator = (found + own).unbind(-1)
        return (numerator / denominator).to(widened(at["value"]).dtype)

    def _leave(self, y: Tensor, r: Tensor, taps: Taps = NOTHING) -> Tensor:
        gated = taps("gate", self.layer, torch.sigmoid(r)) * y
        out = linear(self.module.output, gated.to(self.module.output.weight.dtype))
        return taps("mixer_out", self.layer, out)

    # --- the protocol

    def enter(self, h: Tensor, context: Context) -> Inputs:
        x = self.norm(h)
        return self._entered(x, shifted(x))

    def enter_at(self, h: Tensor, context: Context, past: Tensor | None) -> Inputs:
        assert past is not None
        return self._entered(self.norm(h), past[:, 0])

    def from_local(self, window: Tensor) -> Inputs:
        return self._entered(window[..., -1, :], window[..., 0, :])

    def state_of(self, values: Sequence[Tensor]) -> Tensor:
        return torch.cat([values[0], values[0]], -1)  # the state before it is not asked for

    def states(self, inputs: Inputs, positions: Sequence[int]) -> Tensor:
        after = all_states(self._log_decay, self._write(inputs))
        found = torch.cat([torch.zeros_like(after[:, :1]), after[:, :-1]], 1)
        return torch.cat([found, after], -1)[:, list(positions)]

    def step(self, state: Tensor, at: Inputs) -> Tensor:
        found = state[..., 2:]
        after = torch.exp(self._log_decay) * found + self._write(at)
        return torch.cat([found.expand_as(after), after], -1)

    def carry(self, change: Tensor, inputs: Inputs, start: Tensor, stop: int) -> Tensor:
        after, steps = change[..., 2:], (stop - start.to(change.device))[..., None, None]
        found = after * torch.exp(self._log_decay * (steps - 1).clamp(min=0))
        carried = torch.cat([found, after * torch.exp(self._log_decay * steps)], -1)
        return torch.where(steps == 0, change, carried)

    def read(self, memory: Tensor, at: Inputs) -> Tensor:
        return self._read(memory[..., :2], at)

    def reread(self, inputs: Inputs, positions: Tensor, new: Inputs, end: Inputs) -> Tensor:
        """As the base says; a last position reads with its new key and value."""
        last = (positions == inputs["key"].shape[1] - 1)[:, None, None]
        own = {k: torch.where(last, new.get(k, end[k]), end[k]) for k in ("key", "value")}
        return self.read(self.rewritten(inputs, positions, new), end | own)

    def attention(
        self, inputs: Inputs, queries: Sequence[int], removed: Tensor | None = None
    ) -> Tensor:
        """As the base says, of v channel by channel; weights sum to one.

            alpha[t] = softmax over s of (k[s] + u where s is t, else k[s] + (t - 1 - s) w)

        What is removed is missing in the denominator, too.  Float64.
        """
        k = inputs["key"].squeeze(-2).double().mT.unsqueeze(-2)
        length = k.shape[-1]
        at = torch.tensor([query % length for query in queries], device=k.device)
        back = at[:, None] - torch.arange(length, device=k.device)
        decayed = (back - 1).clamp_min(0) * self._log_decay[..., None]
        own = self.module.time_first.double()[:, None, None]
        unseen = back < 0 if removed is None else (back < 0) | removed
        scores = k + torch.where(back == 0, own, decayed)
        return scores.masked_fill(unseen, -torch.inf).softmax(-1)

    def carried(self, inputs: Inputs) -> Tensor:
        return widened(inputs["value"]).mT

    def leave(self, at: Inputs, readout: Tensor) -> Tensor:
        return self._leave(readout, at["gate_in"])
