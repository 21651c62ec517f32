"""Linear controls: principal and independent components as dictionaries (scikit-learn).

    s = (x - m) W^T,  x' = s A + m,    f = (max(s, 0), max(-s, 0)),  so that s = f_plus - f_minus

PCA [Hotelling 1933]: m the mean, rows of W = A orthonormal, the directions of largest variance; the
explained variance of n components is the sum of their n shares.  ICA (FastICA [Hyvarinen 1999]): W
unmixes the n leading principal components into sources as independent as can be, A mixes them back;
n components reconstruct what n principal components do.  Rows of A have norm 1 and those of W the
scale that goes with it, so a feature's value is the length it adds to the residual stream, as with
the autoencoders.

A component's sign is arbitrary, while a match is the largest signed correlation: each gives two
features, its positive and its negative half.  Signed components can be had, but half of what they
match goes unseen.
"""

from __future__ import annotations

import logging
import warnings
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch

from homolog.axes import Activations, Features
from homolog.dictionaries.seeds import derive_seed
from homolog.errors import InputError

logger = logging.getLogger("homolog")


@dataclass(frozen=True, eq=False)
class Components:
    """Linear components of the residuals of one layer as a dictionary, float32."""

    encoder: torch.Tensor
    """W, (component, d_model)."""
    decoder: torch.Tensor
    """A, (component, d_model), rows of norm 1."""
    mean: torch.Tensor
    """m, (d_model,)."""
    signed: bool = False
    """Features are the components s; else their halves, all positive ones first."""
    metadata: Mapping[str, Any] = field(default_factory=dict)
    """control, n_components and n_tokens; of ICA also seed, n_iterations and converged."""

    @property
    def d_model(self) -> int:
        return self.encoder.shape[1]

    @property
    def d_sae(self) -> int:
        return len(self.encoder) * (1 if self.signed else 2)

    def encode(self, x: Activations) -> Features:
        """Features of raw residuals: (token, d_model) to (token, d_sae), float32."""
        s = (x.float() - self.mean) @ self.encoder.T
        return s if self.signed else torch.cat([s.clamp(min=0), (-s).clamp(min=0)], dim=1)

    def decode(self, f: Features) -> Activations:
        """Residuals from features: (token, d_sae) to (token, d_model)."""
        s = f if self.signed else f[:, : len(self.encoder)] - f[:, len(self.encoder) :]
        return s @ self.decoder + self.mean

    def reconstruct(self, x: Activations) -> Activations:
        """decode(encode(x))."""
        return self.decode(self.encode(x))


def pca(x: Activations, n_components: int | None = None, *, signed: bool = False) -> Components:
    """The n principal components of raw residuals (token, d_model), most variance first.

    n_components: all by default.  Raises InputError where scikit-learn is not installed, x is not
    finite, or has fewer tokens or dimensions than components.
    """
    data, n = _checked(x, n_components)
    fitted, _ = _fit("PCA", data, n, svd_solver="covariance_eigh")
    rows = torch.from_numpy(np.ascontiguousarray(fitted.components_)).float()
    made = {"control": "pca", "n_components": n, "n_tokens": len(data)}
    return Components(rows, rows, torch.from_numpy(fitted.mean_).float(), signed, made)


def ica(
    x: Activations,
    n_components: int | None = None,
    *,
    seed: int = 0,
    max_iterations: int = 200,
    tolerance: float = 1e-4,
    signed: bool = False,
) -> Components:
    """n independent components of raw residuals (token, d_model), most variance first.

    n_components: d_model by default.  The same seed gives the same components.  Where the iteration
    has not come to rest, a warning is logged and `metadata["converged"]` is False: the components
    then depend on the seed.  Raises InputError as `pca` does.
    """
    data, n = _checked(x, n_components)
    limits = {"max_iter": max_iterations, "tol": tolerance}
    state = derive_seed(seed, "ica") % 2**32
    fitted, converged = _fit(
        "FastICA", data, n, whiten="unit-variance", random_state=state, **limits
    )
    if not converged:
        message = (
            "ICA with %d components has not converged in %d iterations (tolerance %g): they "
            "depend on the seed. Allow more iterations or a larger tolerance, or ask for fewer "
            "components."
        )
        logger.warning(message, n, max_iterations, tolerance)
    # sources have variance 1, so these are standard deviations
    norms = np.linalg.norm(fitted.mixing_, axis=0)
    order = np.argsort(-norms, kind="stable")
    encoder = torch.from_numpy((fitted.components_ * norms[:, None])[order]).float()
    decoder = torch.from_numpy((fitted.mixing_ / norms).T[order]).float()
    made = {"control": "ica", "n_components": n, "n_tokens": len(data), "seed": seed}
    made |= {"n_iterations": int(fitted.n_iter_), "converged": converged}
    mean = torch.from_numpy(fitted.mean_).float()
    return Components(encoder, decoder.contiguous(), mean, signed, made)


def _fit(name: str, data: np.ndarray, n: int, **settings: Any) -> tuple[Any, bool]:
    """A fitted estimator of `sklearn.decomposition`, and whether it converged; warnings pass on."""
    try:
        from sklearn import decomposition
        from sklearn.exceptions import ConvergenceWarning
    except ImportError as error:
        requirement = f"it needs the package scikit-learn ({error})"
        remedy = 'Install it: pip install "homolog[controls]".'
        raise InputError("control", name, requirement, remedy) from error
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        fitted = getattr(decomposition, name)(n, **settings).fit(data)
    late = [warning for warning in caught if issubclass(warning.category, ConvergenceWarning)]
    for warning in caught:
        if warning not in late:
            place = warning.filename, warning.lineno
            warnings.warn_explicit(warning.message, warning.category, *place)
    return fitted, not late


def _checked(x: Activations, n_components: int | None) -> tuple[np.ndarray, int]:
    """x as float64, and how many components."""
    data, most = x.double().cpu().numpy(), min(x.shape)
    n = most if n_components is None else n_components
    if not 1 <= n <= most:
        requirement = f"{x.shape[0]} tokens of {x.shape[1]} dimensions allow 1 to {most}"
        raise InputError("n_components", n, requirement, "Ask for fewer, or give more tokens.")
    if not np.isfinite(data).all():
        requirement, remedy = "components need finite numbers", "Check the weights of the model."
        raise InputError("x", "not finite", requirement, remedy)
    return data, n
