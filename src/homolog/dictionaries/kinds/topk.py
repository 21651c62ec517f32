"""The k largest positive pre-activations of a token are its features [Gao 2024, arXiv 2406.04093].

    f = the k largest of relu(p), others 0
    L = mean ||x - x'||^2 + weight * min(n_dead / aux_k, 1) * mean ||e - z W_dec||^2
    z = the aux_k largest of relu(p) among dead features; the error e = x - x' is a constant

The auxiliary loss lets dead features model the error (2.3, A.2 there).
"""

from __future__ import annotations

from typing import Any, Literal

from pydantic import Field, model_validator

from homolog.dictionaries.kinds import base
from homolog.dictionaries.kinds.base import Named, Tensor, Terms
from homolog.dictionaries.kinds.relu import LINEAR, slopes
from homolog.errors import InputError


class Settings(base.KindSettings):
    """The k largest positive pre-activations of a token are its features [Gao 2024]."""

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

    @model_validator(mode="before")
    @classmethod
    def _k_is_the_target(cls, values: Any) -> Any:
        """k of `target_l0`, which is the same."""
        if not isinstance(values, dict) or values.get("target_l0") is None:
            return values
        target = values["target_l0"]
        if "k" in values:
            requirement = "it is k, which is given as well"
            raise InputError("target_l0", target, requirement, "Give one of both.")
        if not isinstance(target, int | float) or target != int(target):
            requirement = f"the kind {cls.model_fields['kind'].default} keeps a whole number"
            raise InputError("target_l0", target, requirement, "Give a whole number.")
        kept = {name: value for name, value in values.items() if name != "target_l0"}
        return kept | {"k": int(target)}

    @model_validator(mode="after")
    def _enough_features(self) -> "Settings":
        if self.k > self.d_sae:
            requirement = f"there are {self.d_sae} features to choose from"
            remedy = "Lower k (--k), or raise the number of features (--d-sae, --expansion)."
            raise InputError("k", self.k, requirement, remedy)
        return self


CHOSEN: dict[str, Any] = {"chooses": True, "other": ("k", "threshold", "group_sizes")}
"""How dictionary_learning stores what keeps the largest."""


class TopK(base.Kind):
    Settings = Settings
    sparsity = "k"
    form = "k"
    carries = True
    redraws = False
    rules = base.Rules(slopes, select="largest")
    stored = (
        base.Stored("homolog", "topk", chooses=True),
        base.Stored("sparsify", "topk", LINEAR, chooses=True),
        base.Stored("dictionary_learning", "AutoEncoderTopK", LINEAR, linear=True, **CHOSEN),
        base.Stored("llamascopium", "topk", chooses=True),
    )

    def start(self, settings: Settings) -> base.Start:
        return base.Start(settings.init_norm)

    def auxiliary(self, settings: Settings) -> base.Auxiliary | None:
        on = settings.aux_weight > 0
        return base.Auxiliary(settings.aux_k, settings.aux_weight) if on else None

    def keep(self, pre: Tensor, k: int) -> Tensor:
        """Of relu(p), (token, d_sae), what are features."""
        return base.keep_largest(pre, k)

    def terms(self, settings: Settings, x: Tensor, w: Named, dead: Tensor | None = None) -> Terms:
        pre = base.pre_activations(x, w).relu()
        f, auxiliary = self.keep(pre, settings.k), self.auxiliary(settings)
        if dead is None or not dead.any() or auxiliary is None:
            return Terms(f)
        error = (x - f @ w["W_dec"] - w["b_dec"]).detach()
        z = base.keep_largest(pre * dead, auxiliary.k)
        share = min(int(dead.sum()) / auxiliary.k, 1.0)
        return Terms(f, 0.0, auxiliary.weight * share * base.squared_error(error, z @ w["W_dec"]))


KIND = TopK()
