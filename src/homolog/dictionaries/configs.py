"""Settings of a dictionary and of its training: one flat, frozen model each; unknown keys are
refused.

Inputs are centred and have norm sqrt(d_model) in the mean, so weights of penalties, thresholds and
bandwidths mean the same for every model.  The losses with their sources are in `losses.py`.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field, TypeAdapter, ValidationError, model_validator

from homolog.errors import InputError


class _Config(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)


class _Kind(_Config):
    """What every kind has."""

    d_sae: int = Field(default=768, ge=1)
    """Number of features."""

    freeze_decoder: bool = False
    """Keep the decoder at its random start and learn the encoder alone: a control, not a dictionary
    of the model.
    """


class ReluConfig(_Kind):
    """ReLU encoder with an L1 penalty (`losses.relu_loss`), the kind of [Wang 2025]."""

    kind: Literal["relu"] = "relu"

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


class TopKConfig(_Kind):
    """The k largest positive pre-activations of a token are its features (`losses.topk_loss`) [Gao
    2024].
    """

    kind: Literal["topk"] = "topk"

    k: int = Field(default=32, ge=1)
    """Features a token may use."""

    aux_k: int = Field(default=64, ge=1)
    """Dead features that model the error of a token in the auxiliary loss."""

    aux_weight: float = Field(default=1 / 32, ge=0)
    """Weight of the auxiliary loss; 0 turns it off."""

    init_norm: float = Field(default=0.5, gt=0)
    """Norm of each encoder column at the start; decoder rows have norm 1 throughout.  At 1, a
    token's k features together overshoot it many times at first.
    """

    @model_validator(mode="after")
    def _enough_features(self) -> "TopKConfig":
        if self.k > self.d_sae:
            raise InputError(
                "k",
                self.k,
                f"there are {self.d_sae} features to choose from",
                "Lower k (--k), or raise the number of features (--d-sae, --expansion).",
            )
        return self


class BatchTopKConfig(TopKConfig):
    """The k largest of a token in the mean: of a batch of n tokens, the n k largest
    (`losses.batchtopk_loss`) [Bussmann 2024].
    """

    kind: Literal["batchtopk"] = "batchtopk"  # type: ignore[assignment]

    threshold_rate: float = Field(default=0.01, gt=0, le=1)
    """Weight of a step in the running mean of the smallest value kept, which is the threshold after
    training.
    """


class JumpReluConfig(_Kind):
    """Features above a learned threshold, and a penalty on their number (`losses.jumprelu_loss`)
    [Rajamanoharan 2024b].
    """

    kind: Literal["jumprelu"] = "jumprelu"

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


class GatedConfig(_Kind):
    """One half of the encoder chooses the features, the other their values (`losses.gated_loss`)
    [Rajamanoharan 2024a].
    """

    kind: Literal["gated"] = "gated"

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


AnyConfig = ReluConfig | TopKConfig | BatchTopKConfig | JumpReluConfig | GatedConfig
SaeConfig = Annotated[AnyConfig, Field(discriminator="kind")]
KINDS: dict[str, type[AnyConfig]] = {
    "relu": ReluConfig,
    "topk": TopKConfig,
    "batchtopk": BatchTopKConfig,
    "jumprelu": JumpReluConfig,
    "gated": GatedConfig,
}
SPARSITY = {"relu": "l1", "topk": "k", "batchtopk": "k", "jumprelu": "l0", "gated": "l1"}
"""The setting of each kind that decides how sparse it is."""
_ADAPTER = TypeAdapter[AnyConfig](SaeConfig)


def parse_config(values: Mapping[str, Any]) -> AnyConfig:
    """The settings with these names and values, "kind" among them.  Raises InputError for those
    that cannot be.
    """
    try:
        return _ADAPTER.validate_python(dict(values))
    except ValidationError as error:
        first = error.errors()[0]
        own = first.get("ctx", {}).get("error")
        if isinstance(own, InputError):
            raise own from None
        field = str(first["loc"][-1]) if first["loc"] else "kind"
        raise InputError(
            field, first["input"], f"it breaks a rule: {first['msg']}", "Change it."
        ) from error


class TrainingConfig(_Config):
    """How the dictionaries of one model are trained; the same for every kind. Defaults suit d_model
    128, 768 features.
    """

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
    """Tokens without firing after which a feature counts as dead in training: TopK and BatchTopK
    then train it by the auxiliary loss, the others draw it anew.
    """

    revive_until: float = Field(default=0.5, ge=0, le=1)
    """Share of the training during which dead features are drawn anew (ReLU, JumpReLU, Gated); 0:
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
