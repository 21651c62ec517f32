"""Features above a learned threshold, and a penalty on their number.

    f = p H(p - t)                                              H: 1 above 0, else 0
    L = mean ||x - x'||^2 + l0 * mean sum_i H(p_i - t_i)
    df/dt        := -(t / width) K((p - t) / width)             K: 1 between -1/2 and 1/2, else 0
    dH(p - t)/dt := -(1 / width) K((p - t) / width),   dH(p - t)/dp := 0

The thresholds t learn by these straight-through estimates.  They are learned directly and kept at 0
or above, rather than their logarithms, which Adam hardly moves.  Source: [Rajamanoharan 2024b,
arXiv 2407.14435].
"""

from __future__ import annotations

from typing import Any, ClassVar, Literal

import numpy as np
from pydantic import Field

from homolog.dictionaries.kinds import base
from homolog.dictionaries.kinds.base import Named, Tensor, Terms, where


class Settings(base.KindSettings):
    """Features above a learned threshold, and a penalty on their number [Rajamanoharan 2024b]."""

    kind: Literal["jumprelu"] = "jumprelu"
    found: ClassVar[str | None] = "l0"

    l0: float = Field(default=1.0, ge=0)
    """Weight of the number of active features against the squared error summed over dimensions."""

    l0_warmup: float = Field(default=0.1, ge=0, le=1)
    """Share of the training during which the weight rises linearly from 0."""

    bandwidth: float = Field(default=0.5, gt=0)
    """Width of the window about the threshold in which pre-activations move it."""

    init_threshold: float = Field(default=0.5, ge=0)
    """Threshold of every feature at the start."""

    init_norm: float = Field(default=1.0, gt=0)
    """Norm of each encoder column at the start; decoder rows have norm 1 throughout."""


def magnitude(q, p, threshold, b):
    """p H(p - t)."""
    return where(p > threshold, p, 0.0)


def slopes(p, f, h, twin, norm, threshold, b, penalty, half_width, rate):
    """dL/dp = h H(p - t), dL/dt = -(t h + penalty) / width near t; rate: 1 / width."""
    on = where(p > threshold, 1.0, 0.0)
    near = where((p - threshold < half_width) & (threshold - p < half_width), 1.0, 0.0)
    d = h * on
    return d, d, -(near * (threshold * h + penalty) * rate), 0.0, on


def constants(settings: Settings) -> tuple[float, float]:
    """Half the width, and one over it, as float32 numbers."""
    width = np.float32(settings.bandwidth)
    return float(width * np.float32(0.5)), float(np.float32(1) / width)


def low(settings: Settings, vectors: Any) -> Any:
    """The bias with which x W_enc is above 0 where a feature is active or near its threshold."""
    return vectors[0] - vectors[1] + np.float32(settings.bandwidth / 2).item()


_NAMES = {"b_enc": "b_enc", "threshold": "threshold"}


class JumpRelu(base.Kind):
    Settings = Settings
    sparsity = "l0"
    form = "threshold"
    carries = True
    vectors = ("b_enc", "threshold")
    thresholds = ("threshold",)
    rules = base.Rules(slopes, magnitude, constants=constants, low=low)
    stored = (
        base.Stored("homolog", "jumprelu", _NAMES),
        base.Stored("dictionary_learning", "JumpReluAutoEncoder", _NAMES, centred=False),
        base.Stored(
            "llamascopium",
            "jumprelu",
            {"b_enc": "b_E", "threshold": "log_jumprelu_threshold"},
            scalar_threshold="jump_relu_threshold",
        ),
    )

    def start(self, settings: Settings) -> base.Start:
        return base.Start(settings.init_norm, (0.0, settings.init_threshold))

    def penalty(self, settings: Settings) -> tuple[float, float]:
        return settings.l0, settings.l0_warmup

    def terms(self, settings: Settings, x: Tensor, w: Named, dead: Tensor | None = None) -> Terms:
        p, t = base.pre_activations(x, w), w["threshold"]
        on, near = (p > t).to(p), ((p - t).abs() < settings.bandwidth / 2).to(p)
        move = (t - t.detach()) * near / settings.bandwidth  # 0, with the slope K / width in t
        return Terms(p * on - t.detach() * move, (on - move).sum(-1).mean())

    def encoder(self, settings: Settings, w: Named, running: float) -> base.Encoder:
        return base.Encoder(w["W_enc"], w["b_enc"], w["threshold"])


KIND = JumpRelu()
