"""A dictionary turns residuals into features; a sparse autoencoder is one that also turns them
back.

    p = (x - b_dec) W_enc + b_enc
    f = max(p, 0) where p > threshold, else 0;  of these a token's k largest, where k is given
    x' = f W_dec + b_dec

Every kind that is trained here comes down to this form: ReLU has neither threshold nor k, TopK has
k, JumpReLU and BatchTopK have a threshold, and a Gated autoencoder is one with a threshold exactly
(`losses.fold_gated`).
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Literal, Protocol, get_args, runtime_checkable

import torch
from scipy import sparse

from homolog.axes import Activations, Features
from homolog.dictionaries import losses
from homolog.dictionaries.hardware import Precision
from homolog.errors import InputError

Kind = Literal["relu", "topk", "batchtopk", "jumprelu", "gated"]
WITH_THRESHOLD = ("batchtopk", "jumprelu", "gated")


@runtime_checkable
class Dictionary(Protocol):
    """What matching needs of a set of features: how to compute them from residuals, and two widths."""

    @property
    def d_model(self) -> int: ...

    @property
    def d_sae(self) -> int: ...

    def encode(self, x: Activations) -> Features: ...


@dataclass(frozen=True, eq=False)
class SparseAutoencoder:
    """A trained autoencoder in float32 that takes raw residuals (centring and scale are folded into
    its weights).

    A feature's value is the length it adds to the residual stream, for rows of W_dec have norm 1
    after training here.
    """

    W_enc: torch.Tensor
    """(d_model, d_sae); the shapes of the others follow from it, and InputError is raised where
    they do not fit.
    """
    b_enc: torch.Tensor
    """(d_sae,)"""
    W_dec: torch.Tensor
    """(d_sae, d_model)"""
    b_dec: torch.Tensor
    """(d_model,)"""
    kind: Kind = "relu"
    k: int | None = None
    """Features a token may use (TopK); None for the others."""
    threshold: torch.Tensor | None = None
    """(d_sae,) pre-activations up to which features stay 0, none below 0 (BatchTopK, JumpReLU,
    Gated); else None.
    """
    metadata: Mapping[str, Any] = field(default_factory=dict)
    """What made it: model, layer, label, config, training, tokens, precision; plain JSON values."""

    def __post_init__(self) -> None:
        if self.W_enc.ndim != 2 or 0 in self.W_enc.shape:
            raise InputError(
                "W_enc",
                tuple(self.W_enc.shape),
                "it must be (d_model, d_sae)",
                "Check the weights.",
            )
        d_model, d_sae = self.W_enc.shape
        expected = {"b_enc": (d_sae,), "W_dec": (d_sae, d_model), "b_dec": (d_model,)}
        for name, shape in expected.items():
            found = tuple(getattr(self, name).shape)
            if found != shape:
                raise InputError(
                    name,
                    found,
                    f"W_enc of shape {(d_model, d_sae)} needs {shape}",
                    "Check the weights.",
                )
        if self.kind not in get_args(Kind):
            raise InputError(
                "kind",
                self.kind,
                f"it must be one of {', '.join(get_args(Kind))}",
                "Check the weights.",
            )
        if (self.kind == "topk") != (self.k is not None):
            raise InputError(
                "k", self.k, "topk needs it, and no other kind has one", "Set kind and k together."
            )
        if self.k is not None and not 1 <= self.k <= d_sae:
            raise InputError(
                "k", self.k, f"it is a number from 1 to d_sae, {d_sae}", "Check the weights."
            )
        found = None if self.threshold is None else tuple(self.threshold.shape)
        if found != ((d_sae,) if self.kind in WITH_THRESHOLD else None):
            raise InputError(
                "threshold",
                found,
                f"{', '.join(WITH_THRESHOLD)} need {(d_sae,)}, others none",
                "Set kind and threshold together.",
            )
        if self.threshold is not None and not bool((self.threshold >= 0).all()):
            raise InputError(
                "threshold",
                float(self.threshold.min()),
                "none is below 0 or NaN",
                "Check the weights.",
            )
        for name in (
            "W_enc",
            "b_enc",
            "W_dec",
            "b_dec",
        ):  # a threshold may be infinite: its feature is silent
            if not bool(torch.isfinite(getattr(self, name)).all()):
                raise InputError(
                    name,
                    "NaN or infinite",
                    "weights must be finite in float32",
                    "Check the weights.",
                )

    @property
    def d_model(self) -> int:
        return self.W_enc.shape[0]

    @property
    def d_sae(self) -> int:
        return self.W_enc.shape[1]

    def encode(self, x: Activations) -> Features:
        """Features of raw residuals: (token, d_model) to (token, d_sae), dense."""
        pre = (x.to(self.W_enc.dtype) - self.b_dec) @ self.W_enc + self.b_enc
        if self.threshold is not None:
            pre = pre * (pre > self.threshold)
        return torch.relu(pre) if self.k is None else losses.keep_largest(torch.relu(pre), self.k)

    def encode_sparse(self, x: Activations, precision: Precision = "auto") -> sparse.csr_array:
        """`encode` as scipy CSR (token, d_sae), float32 values, int32 indices; never dense for all
        tokens.

        Runs where x is.  The values are exact whatever the precision of the product
        (`encoder.SparseEncoder`, which saves laying out the weights anew when there is more to
        encode).  Raises InputError where x is not finite.
        """
        from homolog.dictionaries.encoder import SparseEncoder

        return SparseEncoder(self, precision, x.device).encode(x)

    def decode(self, f: Features) -> Activations:
        """Residuals from features: (token, d_sae) to (token, d_model)."""
        return f @ self.W_dec + self.b_dec

    def reconstruct(self, x: Activations) -> Activations:
        """decode(encode(x))."""
        return self.decode(self.encode(x))


@dataclass(frozen=True)
class Neurons:
    """The identity as a dictionary: coordinates are the features. For neuron baselines and tests."""

    width: int

    @property
    def d_model(self) -> int:
        return self.width

    @property
    def d_sae(self) -> int:
        return self.width

    def encode(self, x: Activations) -> Features:
        """x itself."""
        return x
