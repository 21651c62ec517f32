"""How good a dictionary is, and whether it may be used for a verdict.

    explained variance = 1 - sum_t ||x_t - x'_t||^2 / sum_t ||x_t - mean||^2

over kept tokens, summed over dimensions, with the mean of those same tokens: predicting the mean scores
exactly 0.

    loss recovered = (loss_ablated - loss_spliced) / (loss_ablated - loss_clean)

where the reconstruction (spliced) or the mean activation (ablated) replaces the residual stream of one layer.
The mean is used for ablation rather than 0: zeros put the model far off its data, raise loss_ablated and
flatter every dictionary.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import asdict, dataclass
from typing import Protocol, runtime_checkable

import numpy as np
import torch

from homolog.axes import Activations
from homolog.dictionaries.base import Dictionary, SparseAutoencoder
from homolog.errors import InputError

_BLOCK = 8192  # tokens reconstructed at once
_MIN_LOSS_GAP = 0.05  # nats; a layer whose ablation costs less has no loss to recover


@runtime_checkable
class SplicedLoss(Protocol):
    """Mean loss (nats a token) of a model on held-out text when `transform` replaces the residuals of one
    layer.

    `transform` takes and returns (token, d_model); the caller applies it to the tokens that are not special,
    and leaves the others as they are.  Bind model, tokens and layer: `partial(loss_with, model, tokens,
    layer)`.
    """

    def __call__(self, transform: Callable[[Activations], Activations]) -> float: ...


@dataclass(frozen=True)
class Gates:
    """What a dictionary must reach before matches of its features count."""

    explained_variance: float = 0.5
    """At least: below it, most of what the layer holds is not among the features compared."""
    l0_least: float = 1.0
    """At least: with less than one feature a token, the dictionary has collapsed."""
    l0_share_most: float = 0.25
    """L0 at most this share of d_sae: above it, features are not sparse, and correlations between them mean
    little."""
    dead_share: float = 0.5
    """At most: above it, the dictionary is smaller than its name says and comparisons by width are unfair."""
    loss_recovered: float = 0.5
    """At least, where ablating the layer costs over 0.05 nats: the features must be those that the model
    uses."""


@dataclass(frozen=True)
class Quality:
    """Numbers of one dictionary on held-out tokens; NaN where undefined or not measured."""

    n_tokens: int
    explained_variance: float
    l0: float
    """Mean active features a token."""
    dead_share: float
    """Features that fire at none of the n_tokens."""
    density_quantiles: tuple[float, ...]
    """Firing frequency over features: quantiles 0, 0.1, 0.25, 0.5, 0.75, 0.9 and 1."""
    loss_clean: float = math.nan
    loss_spliced: float = math.nan
    loss_ablated: float = math.nan
    loss_recovered: float = math.nan
    passed: bool = False
    reason: str = "not judged"
    """Why it failed, every reason; "passed" when it did not."""

    def as_row(self) -> dict[str, object]:
        """Fields as plain values, for tables."""
        return asdict(self)


def explained_variance(x: Activations, x_hat: Activations, keep: torch.Tensor | None = None) -> float:
    """1 - residual / total sum of squares of (token, d_model); `keep` (token, bool) leaves tokens out.

    NaN where x does not vary.  Computed in float64.
    """
    if x.shape != x_hat.shape:
        raise InputError("x_hat", tuple(x_hat.shape), f"it must have the shape of x, {tuple(x.shape)}", "Check.")
    if keep is not None:
        x, x_hat = x[keep], x_hat[keep]
    x64 = x.double()
    total = _sum_of_squares(x64 - x64.mean(0))
    if total == 0 or not len(x):
        return math.nan
    return 1.0 - _sum_of_squares(x64 - x_hat.double()) / total


def _sum_of_squares(x: torch.Tensor) -> float:
    """Of (token, d_model), token by token: torch's sum of everything at once depends on the number of threads."""
    return float(x.pow(2).sum(1).cpu().numpy().sum())


def firing_frequency(dictionary: Dictionary, x: Activations) -> np.ndarray:
    """Share of tokens at which each feature is above 0: (d_sae,) float64."""
    counts = np.zeros(dictionary.d_sae, np.int64)
    for block in x.split(_BLOCK):
        counts += (dictionary.encode(block) > 0).sum(0).cpu().numpy()
    return counts / max(1, len(x))


def loss_recovered(clean: float, spliced: float, ablated: float) -> float:
    """Share of the loss an ablation costs that the reconstruction saves; NaN where it costs under 0.05
    nats."""
    gap = ablated - clean
    return (ablated - spliced) / gap if gap >= _MIN_LOSS_GAP else math.nan


def measure_quality(
    sae: SparseAutoencoder,
    x: Activations,
    *,
    keep: torch.Tensor | None = None,
    spliced_loss: SplicedLoss | None = None,
    loss_clean: float | None = None,
    gates: Gates | None = None,
) -> Quality:
    """Measure on held-out raw residuals x (token, d_model), less the tokens that `keep` (token, bool) leaves
    out.

    Losses are measured when `spliced_loss` is given; `loss_clean`, the same for all layers of a model, may be
    passed in.  Raises InputError when no token is left.
    """
    if keep is not None:
        x = x[keep]
    if not len(x):
        raise InputError("x", 0, "at least one kept token is needed", "Use more held-out text.")
    mean = x.double().mean(0)
    counts = np.zeros(sae.d_sae, np.int64)
    residual = total = 0.0
    for block in x.split(_BLOCK):
        block = block.float()
        f = sae.encode(block)
        counts += (f > 0).sum(0).numpy()
        residual += _sum_of_squares(block.double() - sae.decode(f).double())
        total += _sum_of_squares(block.double() - mean)
    clean = spliced = ablated = math.nan
    if spliced_loss is not None:
        clean = spliced_loss(lambda r: r) if loss_clean is None else loss_clean
        spliced = spliced_loss(sae.reconstruct)
        ablated = spliced_loss(lambda r: mean.to(r.dtype).expand_as(r))
    quantiles = np.quantile(counts / len(x), (0, 0.1, 0.25, 0.5, 0.75, 0.9, 1))
    measured = Quality(
        n_tokens=len(x),
        explained_variance=1.0 - residual / total if total > 0 else math.nan,
        l0=float(counts.sum()) / len(x),
        dead_share=float((counts == 0).mean()),
        density_quantiles=tuple(float(q) for q in quantiles),
        loss_clean=clean,
        loss_spliced=spliced,
        loss_ablated=ablated,
        loss_recovered=loss_recovered(clean, spliced, ablated),
    )
    return judge(measured, gates or Gates(), sae.d_sae)


def judge(quality: Quality, gates: Gates, d_sae: int) -> Quality:
    """The same numbers with `passed` and `reason`. Loss recovered is judged where it is defined."""
    q, failures = quality, []
    if not q.explained_variance >= gates.explained_variance:
        failures.append(f"explained variance {q.explained_variance:.2f} is below {gates.explained_variance:g}")
    if not q.l0 >= gates.l0_least:
        failures.append(f"L0 {q.l0:.2f} is below {gates.l0_least:g}")
    if not q.l0 <= gates.l0_share_most * d_sae:
        failures.append(f"L0 {q.l0:.1f} is above {gates.l0_share_most:.0%} of {d_sae} features")
    if not q.dead_share <= gates.dead_share:
        failures.append(f"dead share {q.dead_share:.2f} is above {gates.dead_share:g}")
    if q.loss_recovered < gates.loss_recovered:
        failures.append(f"loss recovered {q.loss_recovered:.2f} is below {gates.loss_recovered:g}")
    return Quality(**{**asdict(q), "passed": not failures, "reason": "; ".join(failures) or "passed"})
