"""One half of the encoder chooses the features, the other their values.

    c = x W_enc + b_gate,   m = exp(r_mag) (x W_enc) + b_mag
    f = H(c) relu(m)                                            H: 1 above 0, else 0
    L = mean ||x - x'||^2 + l1 * mean sum_i relu(c_i) ||W_dec[i]||
      + mean ||x - (relu(c) W_dec + b_dec)||^2

W_dec and b_dec are constants in the last term: this frozen twin trains the choosing half without
moving the decoder.  Source: [Rajamanoharan 2024a, arXiv 2404.16014].
"""

from __future__ import annotations

from collections.abc import Callable
from statistics import NormalDist
from typing import Any, ClassVar, Literal

from pydantic import Field

from homolog.dictionaries.kinds import base
from homolog.dictionaries.kinds.base import Named, Tensor, Terms, where


class Settings(base.KindSettings):
    """One half of the encoder chooses features, the other their values [Rajamanoharan 2024a]."""

    kind: Literal["gated"] = "gated"
    found: ClassVar[str | None] = "l1"

    l1: float = Field(default=4.0, ge=0)
    """Weight of the penalty on what the choosing half finds."""

    l1_warmup: float = Field(default=0.0, ge=0, le=1)
    """Share of the training during which the weight rises linearly from 0."""

    init_norm: float = Field(default=1.0, gt=0)
    """Norm of each encoder column at the start; decoder rows have norm 1 throughout."""

    init_active: float = Field(default=0.1, gt=0, lt=1)
    """Share of features a token activates at the start, for Gaussian inputs; set by a common
    negative bias.
    """


def magnitude(q, c, b_mag, scale):
    """m, with scale = exp(r_mag)."""
    return q * scale + b_mag


def slopes(c, m, h, twin, norm, b_mag, scale, penalty, first, second):
    """dL/d(x W_enc), dL/db_gate, dL/db_mag, dL/dr_mag."""
    chosen = where(c > 0.0, 1.0, 0.0)
    mag = h * chosen * where(m > 0.0, 1.0, 0.0)
    gate = chosen * (twin + penalty)
    return gate + scale * mag, gate, mag, mag * (m - b_mag), chosen * c


def coefficients(vectors: Any, exp: Callable[[Any], Any]) -> Any:
    """b_gate, b_mag and exp(r_mag)."""
    seen = vectors + 0
    seen[2] = exp(vectors[2])
    return seen


class Gated(base.Kind):
    Settings = Settings
    sparsity = "l1"
    form = "threshold"
    vectors = ("b_gate", "b_mag", "r_mag")
    biases = ("b_gate", "b_mag")
    rules = base.Rules(slopes, magnitude, twin=True, coefficients=coefficients)
    stored = (
        base.Stored("homolog", "gated", {"b_gate": "b_gate", "r_mag": "r_mag", "b_mag": "b_mag"}),
        base.Stored(
            "dictionary_learning",
            "GatedAutoEncoder",
            {"b_mag": "mag_bias", "r_mag": "r_mag", "b_gate": "gate_bias"},
            "decoder_bias",
            linear=True,
        ),
    )

    def start(self, settings: Settings) -> base.Start:
        """Pre-activations of both halves begin as N(bias, init_norm^2)."""
        bias = settings.init_norm * NormalDist().inv_cdf(settings.init_active)
        return base.Start(settings.init_norm, (bias, bias, 0.0))

    def penalty(self, settings: Settings) -> tuple[float, float]:
        return settings.l1, settings.l1_warmup

    def terms(self, settings: Settings, x: Tensor, w: Named, dead: Tensor | None = None) -> Terms:
        product = x @ w["W_enc"]
        chosen = (product + w["b_gate"]).relu()
        f = (chosen > 0) * (w["r_mag"].exp() * product + w["b_mag"]).relu()
        penalised = (chosen * w["W_dec"].norm(dim=-1)).sum(-1).mean()
        twin = base.squared_error(x, chosen @ w["W_dec"].detach() + w["b_dec"].detach())
        return Terms(f, penalised, twin)

    def encoder(self, settings: Settings, w: Named, running: float) -> base.Encoder:
        """The same features as one half with a threshold, exactly (3.3 there).

        c > 0 is m > b_mag - exp(r_mag) b_gate, since exp(r_mag) > 0: f = m where m > max(b_mag -
        exp(r_mag) b_gate, 0).
        """
        W_enc, b_gate, b_mag, r_mag = (w[name].double() for name in ("W_enc", *self.vectors))
        scale = r_mag.exp()
        return base.Encoder(W_enc * scale, b_mag, (b_mag - scale * b_gate).relu())


KIND = Gated()
