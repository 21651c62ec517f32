"""The part of a block that stays at its position: the MLP, or whatever module stands for it.

mlp_hidden = act(up(x)), or act(gate(x)) * up(x);   mlp_out = down(mlp_hidden)
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from torch import Tensor

from homolog.models.mixers.base import Branch, Context, Norm
from homolog.models.products import linear
from homolog.models.taps import Taps


class MLP(Branch):
    """An MLP whose hidden values are its neurons.

    hidden   gives what the last matrix reads, of the normed stream
    down     the module of the last matrix
    after    what is done to the output before it is added
    """

    sites = ("mlp_in", "mlp_hidden", "mlp_out")
    stream, out = "mlp_in", "mlp_out"
    neurons = ("mlp_hidden",)

    def __init__(
        self,
        layer: int,
        norm: Norm,
        hidden: Callable[[Tensor], Tensor],
        down: Any,
        after: Norm | None = None,
    ) -> None:
        self.layer, self.norm, self.after = layer, norm, after
        self.hidden, self.down = hidden, down

    def __call__(self, h: Tensor, context: Context, taps: Taps) -> Tensor:
        normed = self.norm(taps("mlp_in", self.layer, h))
        hidden = taps("mlp_hidden", self.layer, self.hidden(normed))
        out = linear(self.down, hidden)
        return taps("mlp_out", self.layer, out if self.after is None else self.after(out))


class OwnMLP(Branch):
    """A module that works position by position and is run as it is: experts, and what else."""

    sites = ("mlp_in", "mlp_out")
    stream, out = "mlp_in", "mlp_out"

    def __init__(
        self, layer: int, norm: Norm, module: Callable[..., Any], after: Norm | None = None
    ) -> None:
        self.layer, self.norm, self.module, self.after = layer, norm, module, after

    def __call__(self, h: Tensor, context: Context, taps: Taps) -> Tensor:
        normed = self.norm(taps("mlp_in", self.layer, h))
        # modules of experts take windows (batch, position, d_model)
        out = self.module(normed.reshape(-1, *normed.shape[-2:]))
        out = (out[0] if isinstance(out, tuple) else out).reshape(normed.shape)
        return taps("mlp_out", self.layer, out if self.after is None else self.after(out))


def gated(act: Callable[[Tensor], Tensor], gate: Any, up: Any) -> Callable[[Tensor], Tensor]:
    """act(gate(x)) * up(x)."""
    return lambda x: act(linear(gate, x)) * linear(up, x)


def gated_fused(act: Callable[[Tensor], Tensor], both: Any) -> Callable[[Tensor], Tensor]:
    """The same where one matrix gives first the gate and then the other half."""

    def hidden(x: Tensor) -> Tensor:
        gate, up = linear(both, x).chunk(2, dim=-1)
        return act(gate) * up

    return hidden


def plain(act: Callable[[Tensor], Tensor], up: Any) -> Callable[[Tensor], Tensor]:
    """act(up(x))."""
    return lambda x: act(linear(up, x))
