"""Latent scaling: is a latent that seems to be of one model in the other after all [Minder 2025]?

A crosscoder may leave a latent without a decoder in a model that has the concept, for two reasons:

    complete shrinkage    what the latent should write there stays in the error of that model
    latent decoupling     other latents write it there, so that one concept is two latents

For each latent j and model m, how much of a stream y follows f_j is fitted by least squares,

    w = argmin_w  sum_t || y(t) - c - w f_j(t) ||^2 = cov(f_j, y) / var(f_j)

    y = x_m - x'_m + f_j d_m,j    what all other latents leave:  beta_error
    y = x'_m                      what the crosscoder writes:     beta_reconstruction

and beta is the length of w in the scaled stream.  The source compares finetuned models, which share
their directions: it fits the length along d_j of one model in both.  Models of different
architectures share none, so the direction is fitted too.  A fitted vector is too long by its noise:
w is fitted on each half of the rows, and beta^2 = w_1 . w_2, which noise does not raise in the
mean; beta has its sign.  The constant c takes away what is there whenever any latent is on.

The ratio of beta in a model to that in the latent's own says how much of it is there.  A latent is
of a model alone where the decoder's norms say so (below `ABSENT` of the largest) and neither ratio
reaches its limit, `ERROR` or `RECONSTRUCTION`.  Limits and method: Minder et al. 2025, "Overcoming
Sparsity Artifacts in Crosscoders to Interpret Chat-Tuning", arXiv 2504.02922.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import polars as pl
from jaxtyping import Bool, Float, Int

from homolog.dictionaries.crosscoder import Crosscoder
from homolog.dictionaries.streams import Rows
from homolog.errors import InputError
from homolog.record.tables.crosscoder import OF_ALL

ABSENT = 0.2
"""Norm of a latent's decoder, to that in its own model, below which it is not in another."""
ERROR, RECONSTRUCTION = 0.2, 0.5
"""Ratios of beta from which a latent is in a model although its decoder there is all but 0."""
LEAST_ACTIVE = 10
"""Rows of each half at which a latent must be active; else its beta is NaN."""
_BLOCK = 4096  # rows whose latents are held at once


@dataclass(frozen=True, eq=False)
class LatentScaling:
    """Of each latent, in each model.

    n_active: rows at which it is active.  beta_error, beta_reconstruction: lengths in the scaled
    stream per unit of the latent, as decoder norms are; NaN where a half has too few active rows.
    explained_variance: of each model's residuals on these rows.
    """

    n_active: Int[np.ndarray, "d_sae"]
    beta_error: Float[np.ndarray, "model d_sae"]
    beta_reconstruction: Float[np.ndarray, "model d_sae"]
    explained_variance: Float[np.ndarray, "model"]


def latent_scaling(crosscoder: Crosscoder, *residuals: Rows) -> LatentScaling:
    """Fit the lengths on raw residuals (token, d_model) of each model, best held out.

    The halves are the first and the second half of the rows, so that documents are in one of them.
    Sums are in float64, four for each weight of the decoder.  Raises InputError as
    `Crosscoder.encode`, and where there are fewer than two rows.
    """
    crosscoder.streams.check(residuals)
    n_rows = len(residuals[0])
    if n_rows < 2:
        raise InputError("residuals", n_rows, "two halves are needed", "Give more rows.")
    middle = n_rows // 2
    first = _Half(crosscoder, [x[:middle] for x in residuals])
    second = _Half(crosscoder, [x[middle:] for x in residuals])
    few = np.minimum(first.n_active, second.n_active) < LEAST_ACTIVE
    columns = crosscoder.streams.columns

    def length(w_1: np.ndarray, w_2: np.ndarray) -> np.ndarray:
        squared = np.stack([(w_1[:, part] * w_2[:, part]).sum(1) for part in columns])
        return np.where(few, np.nan, np.sign(squared) * np.sqrt(np.abs(squared)))

    pairs = zip(first.slopes(), second.slopes(), strict=True)
    beta_error, beta_reconstruction = (length(*pair) for pair in pairs)
    error = first.squared_error + second.squared_error
    varies = first.squared + second.squared - np.square(first.x + second.x) / n_rows
    with np.errstate(divide="ignore", invalid="ignore"):
        explained = [1 - error[part].sum() / varies[part].sum() for part in columns]
    n_active = first.n_active + second.n_active
    return LatentScaling(n_active, beta_error, beta_reconstruction, np.array(explained))


class _Half:
    """Sums over some rows: of latents f, of the stream x and of its two targets y.

    Targets are the errors and the reconstructions.
    """

    def __init__(self, crosscoder: Crosscoder, residuals: Sequence[Rows]) -> None:
        sae = crosscoder.sae
        self.W_dec, b_dec = sae.W_dec.double().numpy(), sae.b_dec.double().numpy()
        d_sae, d_model = self.W_dec.shape
        self.n, self.n_active = len(residuals[0]), np.zeros(d_sae, np.int64)
        self.f, self.f_squared = np.zeros((2, d_sae))
        self.x, self.squared, self.squared_error = np.zeros((3, d_model))
        self.y, self.f_y = np.zeros((2, d_model)), np.zeros((2, d_sae, d_model))
        for rows in zip(*(x.split(_BLOCK) for x in residuals), strict=True):
            joined = crosscoder.joined(rows)
            f: Any = sae.encode_sparse(joined).astype(np.float64)
            x = joined.double().cpu().numpy()
            written = f @ self.W_dec + b_dec
            self.n_active += np.bincount(f.indices, minlength=d_sae)
            self.f += f.sum(axis=0)
            self.f_squared += f.power(2).sum(axis=0)
            self.x += x.sum(0)
            self.squared += np.square(x).sum(0)
            self.squared_error += np.square(x - written).sum(0)
            for i, y in enumerate((x - written, written)):
                self.y[i] += y.sum(0)
                self.f_y[i] += f.T @ y

    def slopes(self) -> tuple[np.ndarray, np.ndarray]:
        """w of each latent, (d_sae, d_model): of what the others leave, and of what is written."""
        f, y = self.f / self.n, self.y / self.n
        variance = self.f_squared / self.n - np.square(f)
        covariance = self.f_y / self.n - f[:, None] * y[:, None]
        with np.errstate(divide="ignore", invalid="ignore"):
            error, written = covariance / variance[:, None]
        return error + self.W_dec, written


def latents_in(
    crosscoder: Crosscoder, scaling: LatentScaling | None = None
) -> Bool[np.ndarray, "model d_sae"]:
    """In which models each latent is: by the norms of its decoders, and by its scaling, if given.

    A ratio that is undefined says nothing.
    """
    norms = crosscoder.decoder_norms
    own = norms.argmax(axis=0), np.arange(norms.shape[1])
    there = norms >= ABSENT * norms[own]
    if scaling is not None:
        fitted = (scaling.beta_error, ERROR), (scaling.beta_reconstruction, RECONSTRUCTION)
        for beta, limit in fitted:
            there |= (beta >= limit * beta[own]) & (beta[own] > 0)
    return there


def latent_classes(crosscoder: Crosscoder, scaling: LatentScaling | None = None) -> list[str]:
    """Of each latent "shared", or the models that have it, as `latents_in` says, " + " between."""
    there = latents_in(crosscoder, scaling)
    names = np.array(crosscoder.models)
    return [OF_ALL if has.all() else " + ".join(names[has]) for has in there.T]


def latent_table(crosscoder: Crosscoder, scaling: LatentScaling) -> pl.DataFrame:
    """A row for each latent: its number, rows at which it is active, both classes, and for each
    model MODEL its "norm MODEL", "error MODEL" and "reconstruction MODEL".
    """
    columns: dict[str, object] = {
        "latent": np.arange(crosscoder.n_latents),
        "n_active": scaling.n_active,
        "by_norm": latent_classes(crosscoder),
        "class": latent_classes(crosscoder, scaling),
    }
    of_models = {
        "norm": crosscoder.decoder_norms,
        "error": scaling.beta_error,
        "reconstruction": scaling.beta_reconstruction,
    }
    for name, values in of_models.items():
        columns |= {f"{name} {m}": row for m, row in zip(crosscoder.models, values, strict=True)}
    return pl.DataFrame(columns)
