"""The gated delta rule: what the state holds under a key moves towards the position's value.

    [q', k', v'], z, b, a   = projections of norm(h)                   conv_in, gate_in
    q, k, v  = act(causal depthwise convolution of q', k', v')         conv_taps, conv_out
               q and k of length one, by head                          query, key, value
    beta     = sigmoid(b), times 2 where the model has it so           beta
    decay    = exp(-exp(A_log) * softplus(a + dt_bias))                decay, or key_decay
    S'       = decay * S[t-1]
    write    = beta k (v - S'^T k)^T                                   write
    S[t]     = S' + write                                              state
    y        = S[t]^T q / sqrt(d_key)                                  y
    out      = W_O (norm(y) * gate(z)),  norm by head                  gate, mixer_out

S is (d_key, d_value) for each head; heads of v share heads of q and k in turn.  The decay is one
for each head (Qwen3-Next, Qwen3.5, OLMo-Hybrid), or for each of its key channels (Kimi Linear).
As a site the state is (d_inner, d_state): d_inner the value channels of all heads, d_state a head's
key channels.  Recurrence, decay and norm never go below float32.  The scan never holds the state of
every position unless a run reads it or a write.  Where a run edits decay, write or state, that
layer runs the plain recurrence from the first edited position on, and the scan up to there.

The recurrence by itself is in `delta_recurrence.py`; sources are those of `scan/delta.py`.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor
from transformers.activations import ACT2FN

from homolog.axes import Residual
from homolog.models.mixers.base import Context, Inputs, Norm
from homolog.models.mixers.convolution import CONVOLUTION, ConvolvedMixer
from homolog.models.mixers.delta_recurrence import DeltaInputs, of_length_one
from homolog.models.mixers.recurrence import recur
from homolog.models.products import linear
from homolog.models.taps import NOTHING, Taps
from homolog.models.widening import widened

HEADS = ("query", "key", "value")
OUTPUT = ("write", "state", "y", "gate", "mixer_out")


@dataclass(frozen=True)
class DeltaParts:
    """What a layer of the gated delta rule is made of, as its family has it.

    project          of the normed stream: what is convolved (queries, keys and values of all heads
                     in turn), and the inputs of gate, beta and decay
    conv, act        the convolution's module, and the name of what is done to its output
    n_heads, n_key_heads    heads of values, and of queries and keys
    d_key            width of a query and a key
    A_log, dt_bias   of each head; dt_bias of each key channel where the decay is
    norm             of what a head reads out, with the name of the gate's `activation`
    out              the module that projects the flattened heads
    beta             the largest one
    """

    project: Callable[[Tensor], tuple[Tensor, Tensor, Tensor, Tensor]]
    conv: Any
    act: str
    n_heads: int
    n_key_heads: int
    d_key: int
    A_log: Tensor
    dt_bias: Tensor
    norm: Any
    out: Any
    beta: float = 1.0


class DeltaRule(ConvolvedMixer):
    """The gated delta rule of one block."""

    kind = "delta rule"
    readout = "y"

    def __init__(self, layer: int, norm: Norm, parts: DeltaParts) -> None:
        super().__init__(layer, norm, parts.conv)
        self.parts = parts
        self.by_channel = parts.dt_bias.numel() != parts.n_heads
        self.decay = "key_decay" if self.by_channel else "decay"
        self.sites = (*CONVOLUTION, *HEADS, "beta", self.decay, *OUTPUT)
        self.inputs = ("conv_in", "gate_in", "beta", self.decay, *HEADS)

    def __call__(self, h: Residual, context: Context, taps: Taps) -> Residual:
        layer = self.layer
        conv_out, others = self.convolved(h, taps)
        values = others | self.written(conv_out)
        inputs = {kind: taps(kind, layer, values[kind]) for kind in (*HEADS, "beta", self.decay)}
        return self._leave(taps("y", layer, self._scan(inputs, taps)), others["gate_in"], taps)

    def projected(self, h: Tensor) -> tuple[Tensor, Inputs]:
        x, z, b, a = self.parts.project(self.norm(h))
        return x, {"gate_in": z} | self._rates(b, a)

    def written(self, conv_out: Tensor) -> Inputs:
        """Queries, keys and values (..., head, width) of the convolution's output."""
        parts = self.parts
        keys = parts.n_key_heads * parts.d_key
        three = ACT2FN[parts.act](conv_out).split([keys, keys, conv_out.shape[-1] - 2 * keys], -1)
        heads = (parts.n_key_heads, parts.n_key_heads, parts.n_heads)
        q, k, v = (x.unflatten(-1, (n, -1)) for x, n in zip(three, heads, strict=True))
        return {"query": of_length_one(widened(q)), "key": of_length_one(widened(k)), "value": v}

    def _rates(self, b: Tensor, a: Tensor) -> Inputs:
        """beta (..., head), and the decay (..., head) or (..., head, d_key)."""
        parts = self.parts
        rate = widened(parts.A_log).flatten().exp()
        step = F.softplus(widened(a) + widened(parts.dt_bias))
        if self.by_channel:
            rate, step = rate[:, None], step.unflatten(-1, (parts.n_heads, -1))
        return {"beta": widened(b).sigmoid() * parts.beta, self.decay: torch.exp(-rate * step)}

    def _leave(self, y: Tensor, z: Tensor, taps: Taps = NOTHING) -> Tensor:
        """What is added to the stream, position by position; z: the gate's input."""
        norm = self.parts.norm
        heads = y.unflatten(-1, (self.parts.n_heads, -1))
        length = torch.rsqrt(heads.pow(2).mean(-1, keepdim=True) + norm.variance_epsilon)
        normed = (widened(norm.weight) * (heads * length)).flatten(-2)
        gated = normed * taps("gate", self.layer, ACT2FN[norm.activation](widened(z)))
        out = linear(self.parts.out, gated.to(self.parts.out.weight.dtype))
        return taps("mixer_out", self.layer, out)

    # --- the recurrence

    def _scan(self, inputs: Inputs, taps: Taps) -> Tensor:
        """y (batch, position, d_inner), with what a run reads and edits on the way."""
        layer, drive = self.layer, self._drive(inputs)
        length = drive.key.shape[1]
        edited = taps.edited_positions((self.decay, "write", "state"), layer, length)
        stop = edited[0] if edited else length
        read, written = (taps.read_positions(kind, layer, length) for kind in ("state", "write"))
        first, writes = drive.until(stop, read, written)

        def step(t: int, state: Tensor) -> Tensor:
            decayed = drive.at(t).decayed(state)
            write = taps.at("write", layer, t, length, drive.at(t).write(decayed))
            if t in written:
                writes.append(write)
            return decayed + write

        if edited:
            steps = range(stop, length)
            y = recur(first, steps, step, lambda t, state: drive.at(t).read(state), layer, taps)
        else:
            y = first.readouts
            if first.states is not None:
                taps.store("state", layer, read, first.states, length)
        if writes:
            taps.store("write", layer, written, torch.stack(writes, 1), length)
        return y

    def _drive(self, at: Inputs) -> DeltaInputs:
        decay = at[self.decay] if self.by_channel else at[self.decay].unsqueeze(-1)
        return DeltaInputs(at["query"], at["key"], at["value"], at["beta"], decay)

    # --- the protocol

    def states(self, inputs: Inputs, positions: Sequence[int]) -> Tensor:
        states = self._drive(inputs).scan(positions)[2]
        assert states is not None
        return states

    def memory(self, inputs: Inputs) -> Tensor:
        return self._drive(inputs).scan()[1]

    def step(self, state: Tensor, at: Inputs) -> Tensor:
        return self._drive(at).step(state)

    def stepped_change(self, before: Tensor, old: Inputs, new: Inputs) -> Tensor:
        was, becomes = self._drive(old), self._drive(new)
        old_decayed, decayed = was.decayed(before), becomes.decayed(before)
        return decayed - old_decayed + (becomes.write(decayed) - was.write(old_decayed))

    def carry(self, change: Tensor, inputs: Inputs, start: Tensor, stop: int) -> Tensor:
        return self._drive(inputs).carry(change, start, stop)

    def read(self, memory: Tensor, at: Inputs) -> Tensor:
        return self._drive(at).read(memory)

    def reading(self, at: Inputs) -> Tensor:
        return self._drive(at).reading()

    def back(self, reading: Tensor, at: Inputs) -> tuple[Tensor, Tensor]:
        return self._drive(at).back(reading)

    def carried(self, inputs: Inputs) -> Tensor:
        return widened(inputs["value"])

    def leave(self, at: Inputs, readout: Tensor) -> Tensor:
        return self._leave(readout, at["gate_in"])
