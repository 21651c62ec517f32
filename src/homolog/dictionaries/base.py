"""Dictionaries turn residuals into features; a sparse autoencoder also turns them back.

    p = (x - b_dec) W_enc + b_enc
    f = max(p, 0) where p > threshold, else 0;  of these a token's k largest, where k is given
    x' = f W_dec + b_dec

Every kind comes down to this form exactly (`Kind.encoder`): with neither threshold nor k, with k,
or with a threshold for each feature, as `Kind.form` says.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Protocol, runtime_checkable

import torch
from scipy import sparse

from homolog.axes import Activations, Features
from homolog.dictionaries.hardware import Precision
from homolog.dictionaries.kinds import KINDS, carrier, kind_of
from homolog.dictionaries.kinds.base import keep_largest
from homolog.errors import InputError


@runtime_checkable
class Dictionary(Protocol):
    """What matching needs of a set of features: how to compute them, and two widths."""

    @property
    def d_model(self) -> int: ...

    @property
    def d_sae(self) -> int: ...

    def encode(self, x: Activations) -> Features: ...


@dataclass(frozen=True, eq=False)
class SparseAutoencoder:
    """A trained autoencoder in float32 that takes raw residuals.

    Centring and scale are folded into its weights.  A feature's value is the length it adds to the
    residual stream, for rows of W_dec have norm 1 after training here.
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
    kind: str = carrier("plain").name
    """One of `kinds.KINDS`."""
    k: int | None = None
    """Features a token may use, where the kind's form is "k"; else None."""
    threshold: torch.Tensor | None = None
    """(d_sae,) pre-activations up to which features stay 0, none below 0, where the kind's form is
    "threshold"; else None.
    """
    metadata: Mapping[str, Any] = field(default_factory=dict)
    """What made it: model, layer, label, config, training, tokens, precision; plain JSON values."""

    def __post_init__(self) -> None:
        remedy = "Check the weights."
        if self.W_enc.ndim != 2 or 0 in self.W_enc.shape:
            shape = tuple(self.W_enc.shape)
            raise InputError("W_enc", shape, "it must be (d_model, d_sae)", remedy)
        d_model, d_sae = self.W_enc.shape
        expected = {"b_enc": (d_sae,), "W_dec": (d_sae, d_model), "b_dec": (d_model,)}
        for name, needed in expected.items():
            shape = tuple(getattr(self, name).shape)
            if shape != needed:
                requirement = f"W_enc of shape {(d_model, d_sae)} needs {needed}"
                raise InputError(name, shape, requirement, remedy)
        self._check_form()
        for name in ("W_enc", "b_enc", "W_dec", "b_dec"):
            # a threshold may be infinite: its feature is silent
            if not bool(torch.isfinite(getattr(self, name)).all()):
                requirement = "weights must be finite in float32"
                raise InputError(name, "NaN or infinite", requirement, remedy)

    def _check_form(self) -> None:
        """InputError where k and threshold are not those of the kind."""
        remedy, form = "Check the weights.", kind_of(self.kind).form
        if (form == "k") != (self.k is not None):
            requirement = f"{_of_form('k')} needs it, and no other kind has one"
            raise InputError("k", self.k, requirement, "Set kind and k together.")
        if self.k is not None and not 1 <= self.k <= self.d_sae:
            requirement = f"it is a number from 1 to d_sae, {self.d_sae}"
            raise InputError("k", self.k, requirement, remedy)
        shape = None if self.threshold is None else tuple(self.threshold.shape)
        if shape != ((self.d_sae,) if form == "threshold" else None):
            requirement = f"{_of_form('threshold')} need {(self.d_sae,)}, others none"
            raise InputError("threshold", shape, requirement, "Set kind and threshold together.")
        if self.threshold is not None and not bool((self.threshold >= 0).all()):
            least = float(self.threshold.min())
            raise InputError("threshold", least, "none is below 0 or NaN", remedy)

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
        return torch.relu(pre) if self.k is None else keep_largest(torch.relu(pre), self.k)

    def encode_sparse(self, x: Activations, precision: Precision = "auto") -> sparse.csr_array:
        """`encode` as scipy CSR (token, d_sae), float32 values and int32 indices.

        Never dense for all tokens.  Runs where x is.  The values are exact whatever the precision
        of the product (`encoder.SparseEncoder`, which saves laying out the weights anew when there
        is more to encode).  Raises InputError where x is not finite.
        """
        from homolog.dictionaries.encoder import SparseEncoder

        return SparseEncoder(self, precision, x.device).encode(x)

    def decode(self, f: Features) -> Activations:
        """Residuals from features: (token, d_sae) to (token, d_model)."""
        return f @ self.W_dec + self.b_dec

    def reconstruct(self, x: Activations) -> Activations:
        """decode(encode(x))."""
        return self.decode(self.encode(x))


def _of_form(form: str) -> str:
    return ", ".join(kind.name for kind in KINDS.values() if kind.form == form)


@dataclass(frozen=True)
class Neurons:
    """The identity as a dictionary: coordinates are the features, as baselines and tests need."""

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
