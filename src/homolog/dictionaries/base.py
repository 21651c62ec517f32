"""A dictionary turns residuals into features; a sparse autoencoder is one that also turns them back.

f = activation((x - b_dec) W_enc + b_enc),  x' = f W_dec + b_dec,   activation: ReLU or TopK of ReLU
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Literal, Protocol, runtime_checkable

import torch
from scipy import sparse

from homolog.axes import Activations, Features
from homolog.dictionaries import losses
from homolog.dictionaries.hardware import Precision
from homolog.errors import InputError


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
    """A trained autoencoder in float32 that takes raw residuals (centring and scale are folded into its
    weights).

    A feature's value is the length it adds to the residual stream, for rows of W_dec have norm 1 after
    training here.
    """

    W_enc: torch.Tensor
    """(d_model, d_sae); the shapes of the others follow from it, and InputError is raised where they do not
    fit."""
    b_enc: torch.Tensor
    """(d_sae,)"""
    W_dec: torch.Tensor
    """(d_sae, d_model)"""
    b_dec: torch.Tensor
    """(d_model,)"""
    kind: Literal["relu", "topk"] = "relu"
    k: int | None = None
    """Features a token may use (TopK); None for ReLU."""
    metadata: Mapping[str, Any] = field(default_factory=dict)
    """What made it: model, layer, label, config, training, tokens, precision; plain JSON values."""

    def __post_init__(self) -> None:
        d_model, d_sae = self.W_enc.shape
        expected = {"b_enc": (d_sae,), "W_dec": (d_sae, d_model), "b_dec": (d_model,)}
        for name, shape in expected.items():
            found = tuple(getattr(self, name).shape)
            if found != shape:
                raise InputError(name, found, f"W_enc of shape {(d_model, d_sae)} needs {shape}", "Check the weights.")
        if (self.kind == "topk") != (self.k is not None):
            raise InputError("k", self.k, "topk needs it and relu has none", "Set kind and k together.")

    @property
    def d_model(self) -> int:
        return self.W_enc.shape[0]

    @property
    def d_sae(self) -> int:
        return self.W_enc.shape[1]

    def encode(self, x: Activations) -> Features:
        """Features of raw residuals: (token, d_model) to (token, d_sae), dense."""
        centred = x.to(self.W_enc.dtype) - self.b_dec
        if self.k is None:
            return losses.relu_features(centred, self.W_enc, self.b_enc)
        return losses.topk_features(centred, self.W_enc, self.b_enc, self.k)

    def encode_sparse(self, x: Activations, precision: Precision = "auto") -> sparse.csr_array:
        """`encode` as scipy CSR (token, d_sae), float32 values, int32 indices; never dense for all tokens.

        Runs where x is.  The values are exact whatever the precision of the product (`encoder.SparseEncoder`, which
        saves laying out the weights anew when there is more to encode).  Raises InputError where x is not finite.
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
