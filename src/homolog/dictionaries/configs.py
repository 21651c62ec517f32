"""Settings of a training, the same for every kind of dictionary; those of the kinds are in `kinds`.

One flat, frozen model; unknown keys are refused.  Inputs are centred and have norm sqrt(d_model) in
the mean, so weights of penalties, thresholds and bandwidths mean the same for every model.
"""

from __future__ import annotations

from typing import Literal

from pydantic import BaseModel, ConfigDict, Field

from homolog.dictionaries.kinds import KindSettings
from homolog.dictionaries.kinds import parse as parse_config

__all__ = ["KindSettings", "TrainingConfig", "parse_config"]


class TrainingConfig(BaseModel):
    """How the dictionaries of one model are trained; defaults suit d_model 128, 768 features."""

    model_config = ConfigDict(
        frozen=True, extra="forbid", allow_inf_nan=False, use_attribute_docstrings=True
    )

    n_tokens: int = Field(default=1_048_576, ge=1)
    """Tokens every dictionary sees; the activations are read again, in a new order, as often as
    this asks for.
    """

    batch_size: int = Field(default=512, ge=1)
    """Tokens a step."""

    learning_rate: float = Field(default=3e-3, gt=0)
    """Adam's step size at its highest."""

    warmup: float = Field(default=0.05, ge=0, le=1)
    """Share of the steps over which the step size rises linearly from 0."""

    decay: float = Field(default=0.5, ge=0, le=1)
    """Share of the steps, the last ones, over which it falls linearly to 0."""

    beta1: float = Field(default=0.9, ge=0, lt=1)
    """Adam: decay of the mean of gradients."""

    beta2: float = Field(default=0.999, ge=0, lt=1)
    """Adam: decay of the mean of squared gradients."""

    dead_after: int = Field(default=200_000, ge=1)
    """Tokens without firing after which a feature counts as dead in training: kinds that choose the
    largest then train it by an auxiliary loss, the others draw it anew.
    """

    revive_until: float = Field(default=0.5, ge=0, le=1)
    """Share of the training during which dead features are drawn anew, where a kind does so; 0:
    never.
    """

    seed: int = Field(default=0, ge=0)
    """Root seed; every (model, dictionary, layer) derives its own from it by name."""

    precision: Literal["auto", "float32", "bfloat16"] = "auto"
    """Products during training; auto takes bfloat16 where the device computes it natively. Masters
    are float32.
    """

    scale_sample: int = Field(default=16_384, ge=2)
    """Tokens from which the mean and the scale of the activations are estimated."""

    @property
    def n_steps(self) -> int:
        return max(1, self.n_tokens // self.batch_size)

    def learning_rate_at(self, step: int) -> float:
        """Step size of the given step, counted from 0."""
        warmup, decay = self.warmup * self.n_steps, self.decay * self.n_steps
        rise = min(1.0, (step + 1) / warmup) if warmup >= 1 else 1.0
        fall = min(1.0, (self.n_steps - step) / decay) if decay >= 1 else 1.0
        return self.learning_rate * min(rise, fall)
