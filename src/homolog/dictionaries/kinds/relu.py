"""ReLU encoder with an L1 penalty.

    f = relu(p),   L = mean ||x - x'||^2 + l1 * mean sum_i f_i ||W_dec[i]||

The penalty is weighted by decoder norms, so that it cannot be dodged by small f and large W_dec and
no norm has to be constrained [Conerly 2024, "Update on how we train SAEs",
transformer-circuits.pub, April]; or plain, without ||W_dec[i]||, for decoders whose rows are held
at norm 1 [Bricken 2023, "Towards Monosemanticity", transformer-circuits.pub].  The kind of
[Wang 2025].
"""

from __future__ import annotations

from statistics import NormalDist
from typing import ClassVar, Literal

from pydantic import Field

from homolog.dictionaries.kinds import base
from homolog.dictionaries.kinds.base import Named, Tensor, Terms, where


class Settings(base.KindSettings):
    """ReLU encoder with an L1 penalty, the kind of [Wang 2025]."""

    kind: Literal["relu"] = "relu"
    found: ClassVar[str | None] = "l1"

    l1: float = Field(default=4.0, ge=0)
    """Weight of the penalty against the squared error summed over dimensions, inputs having norm
    sqrt(d_model)."""

    l1_warmup: float = Field(default=0.0, ge=0, le=1)
    """Share of the training during which the weight rises linearly from 0. With none, fewer
    features are active in the first steps, which then cost less.
    """

    weighted: bool = True
    """Weigh the penalty by decoder norms, which are then free; else they are held at 1, the plain
    form.
    """

    init_norm: float = Field(default=0.1, gt=0)
    """Norm of each encoder column at the start, and of each decoder row (its transpose) where norms
    are free.
    """

    init_active: float = Field(default=0.1, gt=0, lt=1)
    """Share of features a token activates at the start, for Gaussian inputs; set by a common
    negative bias. The cost of a step grows with the features active: 0.1 instead of 0.5 (no bias)
    saves a sixth of the time.
    """


def slopes(p, f, h, twin, norm, a, b, penalty, first, second):
    """dL/dp = h + penalty ||W_dec[i]|| where f > 0."""
    on = where(f > 0.0, 1.0, 0.0)
    d = on * (h + penalty * norm)
    return d, d, 0.0, 0.0, on * f * norm


LINEAR = {"b_enc": "encoder.bias"}
"""The name of a bias where the encoder is a linear map of torch."""


class Relu(base.Kind):
    Settings = Settings
    sparsity = "l1"
    carries = True
    rules = base.Rules(slopes)
    stored = (
        base.Stored("homolog", "standard"),
        base.Stored("dictionary_learning", "AutoEncoder", LINEAR, "bias", linear=True, unit=True),
        base.Stored(
            "dictionary_learning",
            "AutoEncoderNew",
            LINEAR,
            "decoder.bias",
            linear=True,
            centred=False,
        ),
        base.Stored("llamascopium", "relu"),
    )

    def start(self, settings: Settings) -> base.Start:
        """Pre-activations begin as N(bias, init_norm^2)."""
        bias = settings.init_norm * NormalDist().inv_cdf(settings.init_active)
        return base.Start(settings.init_norm, (bias,))

    def penalty(self, settings: Settings) -> tuple[float, float]:
        return settings.l1, settings.l1_warmup

    def unit(self, settings: Settings) -> bool:
        return not settings.weighted

    def terms(self, settings: Settings, x: Tensor, w: Named, dead: Tensor | None = None) -> Terms:
        f = base.pre_activations(x, w).relu()
        weighed = f * w["W_dec"].norm(dim=-1) if settings.weighted else f
        return Terms(f, weighed.sum(-1).mean())


KIND = Relu()
