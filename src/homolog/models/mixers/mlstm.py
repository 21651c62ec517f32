"""The matrix memory of xLSTM: linear attention with gates and a normaliser, head by head.

    q, k, v    = W_q, W_k, W_v of norm(h); q over sqrt(d_k)          sites query, key, value
    i, f       = soft caps of W_i norm(h), W_f norm(h)
    write      = e^i (v, 1) k^T                                      write_scale = e^i, write
    S[t]       = sigmoid(f) S[t-1] + write[t]                        decay = sigmoid(f), state
    (a, b)     = S q
    y          = a / max(|b|, 1)                                     y
    out        = out_proj(sigmoid(W_o norm(h)) * norm'(y))           gate_in, gate, mixer_out

norm' is a layer norm of each head.  A head's state has a row for each value channel and, after
them, one for the normaliser, the sum of its keys; its columns are key channels.  The module takes
e^m out of states, m being the largest exponent so far, and adds eps e^m to the divisor; here states
are as they are, so that they are linear in the writes, and that eps, which norm' takes out again,
is left out.  Gates have a cap of 15, so that float32 holds them; states are never narrower.

Source: Beck et al., "xLSTM: Extended Long Short-Term Memory", 2024, equations 19 to 27; xLSTM 7B,
2025, section 3.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from homolog.axes import Residual
from homolog.models.mixers.base import Context, Inputs, Norm
from homolog.models.mixers.linear_mixer import LinearMixer
from homolog.models.mixers.recurrence import Start, recur
from homolog.models.products import linear
from homolog.models.scan import linear_carry, linear_scan
from homolog.models.taps import NOTHING, Taps
from homolog.models.widening import widened

RECURRENCE = ("decay", "write", "state")


class MLSTM(LinearMixer):
    """The mixer of xLSTM over the module of transformers."""

    kind = "mLSTM"
    readout = "y"
    stream, out = "mixer_in", "mixer_out"
    inputs = ("query", "key", "value", "write_scale", "decay", "gate_in")
    sites = ("mixer_in", *inputs, "write", "state", "y", "gate", "mixer_out")

    def __init__(self, layer: int, norm: Norm, module: Any) -> None:
        self.layer, self.norm, self.module = layer, norm, module
        self.heads = int(module.config.num_heads)

    def __call__(self, h: Residual, context: Context, taps: Taps) -> Residual:
        layer = self.layer
        entered = self.enter(taps("mixer_in", layer, h), context)
        at = {kind: taps(kind, layer, entered[kind]) for kind in self.inputs}
        y = taps("y", layer, self._normalised(self._scan(at, taps)))
        return self._leave(at["gate_in"], y, taps)

    def _scan(self, at: Inputs, taps: Taps) -> Tensor:
        """a and b of every head, (batch, position, head, d_v + 1)."""
        layer, length = self.layer, at["query"].shape[1]
        write = None
        if taps.touches("write", layer):
            write = taps("write", layer, self._write(at))
        edited = taps.edited_positions(RECURRENCE, layer, length)
        if not edited:
            wanted = taps.read_positions("state", layer, length)
            result = linear_scan(*self._scanned(at), return_states=wanted or False)
            if result.states is not None:
                taps.store("state", layer, wanted, flat(result.states), length)
            return result.y
        start, added = edited[0], self._write(at) if write is None else write
        early = [p for p in taps.read_positions("state", layer, length) if p < start]
        before = linear_scan(*(x[:, :start] for x in self._scanned(at)), return_states=early)
        assert before.states is not None
        decay, query = self._decay(at["decay"]), at["query"]
        return recur(
            Start(before.y, flat(before.states), flat(before.last_state)),
            range(start, length),
            lambda t, state: decay[:, t] * state + added[:, t],
            lambda t, state: self._recalled(state, query[:, t]),
            layer,
            taps,
        )

    def _scanned(self, at: Inputs) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        q, k, v = (widened(at[kind]) for kind in ("query", "key", "value"))
        value = at["write_scale"].unsqueeze(-1) * F.pad(v, (0, 1), value=1.0)
        return q * q.shape[-1] ** -0.5, k, value, at["decay"].log()[..., None, None]

    def _write(self, at: Inputs) -> Tensor:
        _, k, value, _ = self._scanned(at)
        return (value.unsqueeze(-1) * k.unsqueeze(-2)).flatten(-3, -2)

    def _decay(self, decay: Tensor) -> Tensor:
        """Of each row of the state: (..., d_inner, 1) of (..., head)."""
        rows = self.module.v_dim // self.heads + 1
        return decay.repeat_interleave(rows, -1).unsqueeze(-1)

    def _recalled(self, state: Tensor, query: Tensor) -> Tensor:
        q = widened(query) * query.shape[-1] ** -0.5
        return torch.einsum("...hvk,...hk->...hv", state.unflatten(-2, (self.heads, -1)), q)

    def _normalised(self, recalled: Tensor) -> Tensor:
        """y (..., d_inner) of a and b."""
        a, b = recalled[..., :-1], recalled[..., -1:]
        return (a / b.abs().clamp(min=1.0)).flatten(-2)

    def _leave(self, gate_in: Tensor, y: Tensor, taps: Taps = NOTHING) -> Tensor:
        norm = self.module.multihead_norm
        by_head = y.unflatten(-1, (self.heads, -1))
        normed = F.layer_norm(by_head, by_head.shape[-1:], eps=norm.eps).flatten(-2) * norm.weight
        normed = normed if norm.bias is None else normed + norm.bias
        gated = taps("gate", self.layer, torch.sigmoid(gate_in)) * normed
        out = linear(self.module.out_proj, gated.to(self.module.out_proj.weight.dtype))
        return taps("mixer_out", self.layer, out)

    # --- the protocol

    def enter(self, h: Tensor, context: Context) -> Inputs:
        part, x = self.module, self.norm(h)
        if part.config.weight_mode == "fused":
            sizes = [part.qk_dim, part.qk_dim, part.v_dim, part.v_dim]
            q, k, v, o = linear(part.qkv_opreact, x).split(sizes, -1)
            i, f = linear(part.ifgate_preact, x).chunk(2, -1)
        else:
            q, k, v, o = (linear(m, x) for m in (part.q, part.k, part.v, part.ogate_preact))
            i, f = linear(part.igate_preact, x), linear(part.fgate_preact, x)
        cap = part.config.gate_soft_cap
        i, f = (torch.tanh(widened(gate) / cap) * cap for gate in (i, f))
        heads = (x.unflatten(-1, (self.heads, -1)) for x in (q, k, v))
        return dict(zip(self.inputs, (*heads, torch.exp(i), torch.sigmoid(f), o), strict=True))

    def states(self, inputs: Inputs, positions: Sequence[int]) -> Tensor:
        states = linear_scan(*self._scanned(inputs), return_states=list(positions)).states
        assert states is not None
        return flat(states)

    def memory(self, inputs: Inputs) -> Tensor:
        return flat(linear_scan(*self._scanned(inputs)).last_state)

    def step(self, state: Tensor, at: Inputs) -> Tensor:
        return self._decay(at["decay"]) * state + self._write(at)

    def carry(self, change: Tensor, inputs: Inputs, start: Tensor, stop: int) -> Tensor:
        by_head = change.unflatten(-2, (self.heads, -1)).mT
        log_decay = inputs["decay"].log()[..., None, None]
        return flat(linear_carry(by_head, log_decay, start, stop))

    def read(self, memory: Tensor, at: Inputs) -> Tensor:
        return self._normalised(self._recalled(memory, at["query"]))

    def reread(self, inputs: Inputs, positions: Tensor, new: Inputs, end: Inputs) -> Tensor:
        """As the base says; a last position reads with its new query."""
        last = (positions == inputs["query"].shape[1] - 1)[:, None, None]
        query = torch.where(last, new.get("query", end["query"]), end["query"])
        return self.read(self.rewritten(inputs, positions, new), end | {"query": query})

    def reading(self, at: Inputs) -> Tensor:
        return widened(at["query"]) * at["query"].shape[-1] ** -0.5

    def back(self, reading: Tensor, at: Inputs) -> tuple[Tensor, Tensor]:
        """The weight is e^i q k, before it is normalised."""
        weight = at["write_scale"] * (reading * widened(at["key"])).sum(-1)
        return weight, reading * at["decay"].unsqueeze(-1)

    def attention(
        self, inputs: Inputs, queries: Sequence[int], removed: Tensor | None = None
    ) -> Tensor:
        """As the base says; b, the sum of the weights that are left, divides them."""
        weights = super().attention(inputs, queries, removed)
        return weights / weights.sum(-1, keepdim=True).abs().clamp(min=1.0)

    def carried(self, inputs: Inputs) -> Tensor:
        return widened(inputs["value"])

    def leave(self, at: Inputs, readout: Tensor) -> Tensor:
        return self._leave(at["gate_in"], readout)


def flat(states: Tensor) -> Tensor:
    """(..., d_inner, d_state) of the scan's states (..., head, d_k, d_v + 1)."""
    return states.mT.flatten(-3, -2)
