"""Settings of a dictionary and of its training: one flat, frozen model each; unknown keys are refused."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import BaseModel, ConfigDict, Field


class _Config(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")


class ReluConfig(_Config):
    """ReLU encoder with an L1 penalty weighted by decoder norms (`losses.relu_loss`), the kind of [Wang
    2025]."""

    kind: Literal["relu"] = "relu"

    d_sae: int = Field(default=768, ge=1)
    """Number of features."""

    l1: float = Field(default=4.0, ge=0)
    """Weight of the penalty against the squared error summed over dimensions, inputs having norm
    sqrt(d_model)."""

    l1_warmup: float = Field(default=0.0, ge=0, le=1)
    """Share of the training during which the weight rises linearly from 0. With none, fewer features are
    active in the first steps, which then cost less."""

    init_norm: float = Field(default=0.1, gt=0)
    """Norm of each decoder row (and encoder column, its transpose) at the start."""

    init_active: float = Field(default=0.1, gt=0, lt=1)
    """Share of features a token activates at the start, for Gaussian inputs; set by a common negative bias.
    The cost of a step grows with the features active: 0.1 instead of 0.5 (no bias) saves a sixth of the
    time."""


class TopKConfig(_Config):
    """The k largest positive pre-activations of a token are its features (`losses.topk_loss`) [Gao 2024]."""

    kind: Literal["topk"] = "topk"

    d_sae: int = Field(default=768, ge=1)
    """Number of features."""

    k: int = Field(default=32, ge=1)
    """Features a token may use."""

    aux_k: int = Field(default=64, ge=1)
    """Dead features that model the error of a token in the auxiliary loss."""

    aux_weight: float = Field(default=1 / 32, ge=0)
    """Weight of the auxiliary loss; 0 turns it off."""

    dead_after: int = Field(default=200_000, ge=1)
    """Tokens without firing after which a feature counts as dead during training."""

    init_norm: float = Field(default=1.0, gt=0)
    """Norm of each encoder column at the start; decoder rows have norm 1 throughout."""


SaeConfig = Annotated[ReluConfig | TopKConfig, Field(discriminator="kind")]


class TrainingConfig(_Config):
    """How the dictionaries of one model are trained; the same for every kind. Defaults suit d_model 128, 768
    features."""

    n_tokens: int = Field(default=1_048_576, ge=1)
    """Tokens every dictionary sees; the activations are read again, in a new order, as often as this asks
    for."""

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

    seed: int = Field(default=0, ge=0)
    """Root seed; every (model, dictionary, layer) derives its own from it by name."""

    precision: Literal["auto", "float32", "bfloat16"] = "auto"
    """Encoder product during training; auto takes bfloat16 where the CPU computes it natively. Masters are
    float32."""

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
