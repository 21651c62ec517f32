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

Sources: those of `scan/delta.py`, which has the recurrence.
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
from homolog.models.mixers.convolution import Convolution, ConvolvedMixer
from homolog.models.mixers.recurrence import Start, recur
from homolog.models.products import linear
from homolog.models.scan import ScanResult, delta_carry, delta_scan
from homolog.models.taps import NOTHING, Taps
from homolog.models.widening import widened

CONVOLUTION = ("mixer_in", "conv_in", "gate_in", "conv_taps", "conv_out")
HEADS = ("query", "key", "value")
OUTPUT = ("write", "state", "y", "gate", "mixer_out")
LENGTH_EPS = 1e-6  # of all families' kernels


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
    stream, out = "mixer_in", "mixer_out"

    def __init__(self, layer: int, norm: Norm, parts: DeltaParts) -> None:
        self.layer, self.norm, self.parts = layer, norm, parts
        self.convolution = Convolution(layer, parts.conv)
        self.reach = self.convolution.width - 1
        self.by_channel = parts.dt_bias.numel() != parts.n_heads
        self.decay = "key_decay" if self.by_channel else "decay"
        self.sites = (*CONVOLUTION, *HEADS, "beta", self.decay, *OUTPUT)
        self.inputs = ("conv_in", "gate_in", *HEADS, "beta", self.decay)

    def __call__(self, h: Residual, context: Context, taps: Taps) -> Residual:
        layer = self.layer
        x, z, b, a = self.parts.project(self.norm(taps("mixer_in", layer, h)))
        x, z = taps("conv_in", layer, x), taps("gate_in", layer, z)
        conv_out = taps("conv_out", layer, self.convolution.tapped(x, taps))
        values = self.written(conv_out) | self._rates(b, a)
        inputs = {kind: taps(kind, layer, value) for kind, value in values.items()}
        return self._leave(taps("y", layer, self._scan(inputs, taps)), z, taps)

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
        heads = self._by_head(y)
        length = torch.rsqrt(heads.pow(2).mean(-1, keepdim=True) + norm.variance_epsilon)
        normed = (widened(norm.weight) * (heads * length)).flatten(-2)
        gated = normed * taps("gate", self.layer, ACT2FN[norm.activation](widened(z)))
        out = linear(self.parts.out, gated.to(self.parts.out.weight.dtype))
        return taps("mixer_out", self.layer, out)

    # --- the recurrence

    def _scan(self, inputs: Inputs, taps: Taps) -> Tensor:
        """y (batch, position, d_inner), with what a run reads and edits on the way."""
        layer, length = self.layer, inputs["key"].shape[1]
        edited = taps.edited_positions((self.decay, "write", "state"), layer, length)
        stop = edited[0] if edited else length
        read, written = (taps.read_positions(kind, layer, length) for kind in ("state", "write"))
        first, writes = self._until(stop, inputs, read, written)
        if edited:
            y = self._recur(first, range(stop, length), inputs, writes, taps)
        else:
            y = first.readouts
            if first.states is not None:
                taps.store("state", layer, read, first.states, length)
        if writes:
            taps.store("write", layer, written, torch.stack(list(writes.values()), 1), length)
        return y

    def _until(
        self, stop: int, inputs: Inputs, read: Sequence[int], written: Sequence[int]
    ) -> tuple[Start, dict[int, Tensor]]:
        """The scan up to `stop`: what it gives, and of the positions before it the writes."""
        read, written = ([p for p in asked if p < stop] for asked in (read, written))
        needed = sorted({*read, *(p - 1 for p in written if p)})
        result = self._scanned({kind: value[:, :stop] for kind, value in inputs.items()}, needed)
        last = flat(result.last_state)
        states = (
            {}
            if result.states is None
            else dict(zip(needed, flat(result.states).unbind(1), strict=True))
        )
        writes = {}
        for p in written:
            at = position(inputs, p)
            writes[p] = self._write(self._decayed(states[p - 1] if p else last * 0, at), at)
        wanted = torch.stack([states[p] for p in read], 1) if read else None
        return Start(result.y.flatten(-2), wanted, last), writes

    def _recur(
        self, first: Start, steps: range, inputs: Inputs, writes: dict[int, Tensor], taps: Taps
    ) -> Tensor:
        layer, length = self.layer, steps.stop
        written = taps.read_positions("write", layer, length)

        def step(t: int, state: Tensor) -> Tensor:
            at = position(inputs, t)
            decayed = self._decayed(state, at)
            write = taps.at("write", layer, t, length, self._write(decayed, at))
            if t in written:
                writes[t] = write
            return decayed + write

        return recur(
            first, steps, step, lambda t, state: self.read(state, position(inputs, t)), layer, taps
        )

    def _log_decay(self, inputs: Inputs) -> Tensor:
        decay = inputs[self.decay]
        # no -inf, whose gradient would not be finite
        log_decay = decay.clamp(min=torch.finfo(decay.dtype).tiny).log()
        return log_decay if self.by_channel else log_decay[..., None]

    def _scanned(self, inputs: Inputs, positions: Sequence[int]) -> ScanResult:
        return delta_scan(
            inputs["query"] * self._scale,
            inputs["key"],
            widened(inputs["value"]),
            inputs["beta"],
            self._log_decay(inputs),
            return_states=positions or False,
        )

    @property
    def _scale(self) -> float:
        return self.parts.d_key**-0.5

    def _by_head(self, x: Tensor, axis: int = -1) -> Tensor:
        """d_inner as (head, d_value)."""
        return x.unflatten(axis, (self.parts.n_heads, -1))

    def _each_head(self, x: Tensor) -> Tensor:
        """Queries or keys (..., key head, d_key), once for each head of values."""
        shared = self.parts.n_heads // self.parts.n_key_heads
        return x if shared == 1 else x.repeat_interleave(shared, dim=-2)

    def _decayed(self, state: Tensor, at: Inputs) -> Tensor:
        decay = at[self.decay].unsqueeze(-2 if self.by_channel else -1)
        decay = decay if self.by_channel else decay.unsqueeze(-1)
        return (self._by_head(state, -2) * decay).flatten(-3, -2)

    def _write(self, decayed: Tensor, at: Inputs) -> Tensor:
        """beta k (v - S'^T k)^T, (..., d_inner, d_state)."""
        missing = widened(at["value"]) - self._under(decayed, at["key"])
        change = at["beta"].unsqueeze(-1) * missing
        return (change.unsqueeze(-1) * self._each_head(at["key"]).unsqueeze(-2)).flatten(-3, -2)

    def _under(self, state: Tensor, key: Tensor) -> Tensor:
        """What a state (..., d_inner, d_state) holds under a key of each head, by head."""
        return (self._by_head(state, -2) @ self._each_head(key).unsqueeze(-1)).squeeze(-1)

    # --- the protocol

    def enter(self, h: Tensor, context: Context) -> Inputs:
        x, z, b, a = self.parts.project(self.norm(h))
        return self._entered(x, z, self.convolution(x), self._rates(b, a))

    def enter_at(self, h: Tensor, context: Context, past: Tensor | None) -> Inputs:
        x, z, b, a = self.parts.project(self.norm(h))
        assert past is not None
        return self._entered(x, z, self.convolution.at(x, past), self._rates(b, a))

    def _entered(self, x: Tensor, z: Tensor, conv_out: Tensor, rates: Inputs) -> Inputs:
        return {"conv_in": x, "gate_in": z} | self.written(conv_out) | rates

    def states(self, inputs: Inputs, positions: Sequence[int]) -> Tensor:
        states = self._scanned(inputs, positions).states
        assert states is not None
        return flat(states)

    def memory(self, inputs: Inputs) -> Tensor:
        return flat(self._scanned(inputs, ()).last_state)

    def step(self, state: Tensor, at: Inputs) -> Tensor:
        decayed = self._decayed(state, at)
        return decayed + self._write(decayed, at)

    def stepped_change(self, before: Tensor, old: Inputs, new: Inputs) -> Tensor:
        decayed, changed = self._decayed(before, old), self._decayed(before, new)
        return changed - decayed + (self._write(changed, new) - self._write(decayed, old))

    def carry(self, change: Tensor, inputs: Inputs, start: Tensor, stop: int) -> Tensor:
        heads = self._by_head(change, -2).transpose(-1, -2)
        key, beta = inputs["key"], inputs["beta"]
        return flat(delta_carry(heads, key, beta, self._log_decay(inputs), start, stop))

    def read(self, memory: Tensor, at: Inputs) -> Tensor:
        return self._under(memory, at["query"]).flatten(-2) * self._scale

    def reading(self, at: Inputs) -> Tensor:
        return self._each_head(at["query"]) * self._scale

    def back(self, reading: Tensor, at: Inputs) -> tuple[Tensor, Tensor]:
        """The weight is beta q k, that of v; before it is read (q - weight k) times the decay."""
        key, decay = self._each_head(at["key"]), at[self.decay]
        weight = at["beta"] * (reading * key).sum(-1)
        kept = reading - weight.unsqueeze(-1) * key
        return weight, kept * (decay if self.by_channel else decay.unsqueeze(-1))

    def carried(self, inputs: Inputs) -> Tensor:
        return widened(inputs["value"])

    def leave(self, at: Inputs, readout: Tensor) -> Tensor:
        return self._leave(readout, at["gate_in"])


def of_length_one(x: Tensor) -> Tensor:
    """x over its length along the last axis."""
    return x * torch.rsqrt((x * x).sum(-1, keepdim=True) + LENGTH_EPS)


def position(inputs: Inputs, t: int) -> Inputs:
    """The inputs of one position, (batch, ...)."""
    return {kind: value[:, t] for kind, value in inputs.items()}


def flat(state: Tensor) -> Tensor:
    """The scan's state (..., head, d_key, d_value) as the site's, (..., d_inner, d_state)."""
    return state.transpose(-1, -2).flatten(-3, -2)
