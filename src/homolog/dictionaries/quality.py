"""How good a dictionary is, and whether it may be used for a verdict.

    L0 = mean_t #{i: f_ti != 0}
    dead share = #{i: n_i = 0} / d_sae,   dense share = #{i: n_i > N / 10} / d_sae

with n_i of the N kept tokens having f_i other than 0.

    loss recovered = (loss_ablated - loss_spliced) / (loss_ablated - loss_clean)

where the reconstruction (spliced) or the mean activation (ablated) replaces the residual stream of
one layer. The mean is used for ablation rather than 0: zeros put the model far off its data, raise
loss_ablated and flatter every dictionary.

Explained variance, sink share and BOS share are in `variance`.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass, fields, replace
from typing import Any, Protocol, runtime_checkable

import numpy as np
import torch

from homolog.axes import Activations
from homolog.dictionaries.base import Dictionary, SparseAutoencoder
from homolog.dictionaries.coding import Autoencoder, Coder
from homolog.dictionaries.variance import bos_share, mean_of, sink_share, squares
from homolog.errors import InputError
from homolog.record.recipe import Gates

_MIN_LOSS_GAP = 0.05  # nats; a layer whose ablation costs less has no loss to recover
DENSE_FREQUENCY = 0.1
"""Features that fire on a larger share of the tokens are dense."""
RECHECK_TOKENS = 4000
"""Fewest tokens on which a file's quality is checked again."""
DENSITY_EDGES = tuple(10.0 ** (half / 2) for half in range(-12, 1))
"""Edges of the histogram of firing frequencies, two a decade, from 1e-6 to 1; a bin holds its lower
edge.
"""
_QUANTILES = (0, 0.1, 0.25, 0.5, 0.75, 0.9, 1)


@runtime_checkable
class SplicedLoss(Protocol):
    """Mean loss of a model on held-out text with one layer's residuals replaced.

    In nats per token; `transform` gives the residuals.  `transform` takes and returns (token,
    d_model); the caller applies it to the tokens that are not special, and leaves the others as
    they are.  Bind model, tokens and layer: `partial(loss_with, model, tokens, layer)`.
    """

    def __call__(self, transform: Callable[[Activations], Activations]) -> float: ...


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
    density_histogram: tuple[int, ...] = ()
    """Features by firing frequency: those that never fire, then those between consecutive
    `DENSITY_EDGES`, below the first edge in the first bin.  Their sum is d_sae.
    """
    dense_share: float = math.nan
    """Features that fire at over a tenth of the tokens."""
    sink_share: float = math.nan
    """Share of the kept tokens' variance on tokens with norms over 10 times the median."""
    bos_share: float = math.nan
    """Share of all tokens' variance on the masked ones: what masking took away; NaN where nothing
    was masked.  No gate is on it, for no other number here has seen these tokens.
    """
    loss_clean: float = math.nan
    loss_spliced: float = math.nan
    loss_ablated: float = math.nan
    loss_recovered: float = math.nan
    passed: bool = False
    reason: str = "not held to the gates"
    """Why it failed, every reason; "passed" when it did not."""

    def as_row(self) -> dict[str, object]:
        """All fields as plain values."""
        return asdict(self)

    def as_table_row(self) -> dict[str, object]:
        """The fields that are single values, for tables."""
        return {name: value for name, value in asdict(self).items() if not isinstance(value, tuple)}

    @classmethod
    def from_row(cls, row: Mapping[str, Any]) -> "Quality":
        """From the values of `as_row`, with None for NaN as JSON has it.

        What is missing was not measured.  Raises InputError for a value of another type.
        """
        values: dict[str, Any] = dict.fromkeys(("explained_variance", "l0", "dead_share"), math.nan)
        values |= {"n_tokens": 0, "density_quantiles": ()} | {
            f.name: row[f.name] for f in fields(cls) if f.name in row
        }
        types = {f.name: str(f.type) for f in fields(cls)}
        for name, value in values.items():
            value = tuple(value) if isinstance(value, list) else value
            values[name] = value = math.nan if value is None else value
            if not _is_a(types[name], value):
                requirement = f"it must be {types[name]}"
                remedy = "Measure the dictionary again."
                raise InputError(f"quality.{name}", value, requirement, remedy)
        return cls(**values)


def _is_a(annotation: str, value: object) -> bool:
    """Whether a file's value has a field's type; numbers are finite or NaN, and no truth values."""
    if annotation.startswith("tuple"):
        return isinstance(value, tuple) and all(_is_a("float", item) for item in value)
    if annotation in ("bool", "str"):
        return type(value).__name__ == annotation
    return isinstance(value, int | float) and not isinstance(value, bool) and not math.isinf(value)


@dataclass(frozen=True)
class Tolerance:
    """How far a dictionary measured again may be from what its file says.

    On 4,000 other tokens of the same text, dictionaries of the models that ship differ by up to
    0.01 and 5 %, on 1,000 by up to 0.04 and 20 %; the defaults leave room for another text.
    """

    explained_variance: float = 0.05
    """Absolute difference."""
    l0: float = 0.1
    """Difference relative to the L0 in the file."""


def firing_frequency(dictionary: Dictionary, x: Activations) -> np.ndarray:
    """Share of tokens at which each feature is other than 0: (d_sae,) float64."""
    return Coder(dictionary, x.device).counts(x) / max(1, len(x))


def density_histogram(frequency: np.ndarray) -> tuple[int, ...]:
    """Features by firing frequency, in the bins of `Quality.density_histogram`."""
    fires = frequency[frequency > 0]
    place = np.searchsorted(DENSITY_EDGES, fires, side="right").clip(1, len(DENSITY_EDGES) - 1)
    counts = np.bincount(place - 1, minlength=len(DENSITY_EDGES) - 1)
    return (len(frequency) - len(fires), *(int(n) for n in counts))


def loss_recovered(clean: float, spliced: float, ablated: float) -> float:
    """Share of an ablation's cost that is saved; NaN where it costs under 0.05 nats."""
    gap = ablated - clean
    return (ablated - spliced) / gap if gap >= _MIN_LOSS_GAP else math.nan


@torch.no_grad()
def measure_quality(
    sae: Autoencoder,
    x: Activations,
    *,
    keep: torch.Tensor | None = None,
    spliced_loss: SplicedLoss | None = None,
    loss_clean: float | None = None,
    gates: Gates | None = None,
) -> Quality:
    """Measure on held-out raw residuals x (token, d_model).

    keep: (token, bool), the tokens to use.  sae: a sparse autoencoder of any kind, or whatever else
    has `encode` and `decode` (`pca`).  Losses are measured when `spliced_loss` is given;
    `loss_clean`, the same for all layers of a model, may be passed in.  Features are held for a
    block of tokens at a time, 0.2 GB at most.  Raises InputError when no token is left, and where x
    or a loss is not finite.
    """
    removed = math.nan if keep is None else bos_share(x, keep)
    if keep is not None:
        x = x[keep]
    if not len(x):
        raise InputError("x", 0, "at least one kept token is needed", "Use more held-out text.")
    mean, coder = mean_of(x), Coder(sae, x.device)
    counts, residual = np.zeros(sae.d_sae, np.int64), 0.0
    for block in coder.blocks(x):
        f = coder.encode(block)
        counts += coder.firing(f)
        residual += float(squares(block.double() - coder.decode(f).double()).sum())
    total = float(squares(x, mean).sum())
    clean = spliced = ablated = math.nan
    if spliced_loss is not None:
        clean = spliced_loss(lambda r: r) if loss_clean is None else loss_clean
        spliced = spliced_loss(coder.reconstruct)
        ablated = spliced_loss(lambda r: mean.to(r.device, r.dtype).expand_as(r))
        _refuse_losses(sae, clean=clean, spliced=spliced, ablated=ablated)
    frequency = counts / len(x)
    measured = Quality(
        n_tokens=len(x),
        explained_variance=1.0 - residual / total if total > 0 else math.nan,
        l0=float(counts.sum()) / len(x),
        dead_share=float((counts == 0).mean()),
        density_quantiles=tuple(float(q) for q in np.quantile(frequency, _QUANTILES)),
        density_histogram=density_histogram(frequency),
        dense_share=float((frequency > DENSE_FREQUENCY).mean()),
        sink_share=sink_share(x),
        bos_share=removed,
        loss_clean=clean,
        loss_spliced=spliced,
        loss_ablated=ablated,
        loss_recovered=loss_recovered(clean, spliced, ablated),
    )
    return hold_to_gates(measured, gates or Gates(), sae.d_sae)


def _refuse_losses(sae: Autoencoder, **losses: float) -> None:
    """InputError for a loss that is no number: NaN stands for what was not measured."""
    for name, loss in losses.items():
        if not math.isfinite(loss):
            facts = getattr(sae, "metadata", {})
            model, layer = facts.get("model") or "the model", facts.get("layer")
            remedy = "Check its weights, or run it in float32."
            field = f"{name} loss of {model}, layer {layer}"
            raise InputError(field, loss, "logits must be finite", remedy)


def hold_to_gates(quality: Quality, gates: Gates, d_sae: int) -> Quality:
    """The same numbers held to the gates; what is NaN fails none, but for explained variance."""
    q, failures = quality, []
    if not q.explained_variance >= gates.explained_variance:
        failures.append(
            f"explained variance {q.explained_variance:.2f} is below {gates.explained_variance:g}"
        )
    if not q.l0 >= gates.l0_least:
        failures.append(f"L0 {q.l0:.2f} is below {gates.l0_least:g}")
    if not q.l0 <= gates.l0_share_most * d_sae:
        failures.append(f"L0 {q.l0:.1f} is above {gates.l0_share_most:.0%} of {d_sae} features")
    if not q.dead_share <= gates.dead_share:
        failures.append(f"dead share {q.dead_share:.2f} is above {gates.dead_share:g}")
    if q.dense_share > gates.dense_share:
        failures.append(f"dense share {q.dense_share:.2f} is above {gates.dense_share:g}")
    if q.loss_recovered < gates.loss_recovered:
        failures.append(f"loss recovered {q.loss_recovered:.2f} is below {gates.loss_recovered:g}")
    if q.sink_share > gates.sink_share:
        mask = 'sinks = "mask" leaves these tokens out'
        failures.append(f"sink share {q.sink_share:.2f} is above {gates.sink_share:g} ({mask})")
    return replace(q, passed=not failures, reason="; ".join(failures) or "passed")


def recheck(
    sae: SparseAutoencoder,
    x: Activations,
    *,
    keep: torch.Tensor | None = None,
    tolerance: Tolerance | None = None,
) -> Quality:
    """Measure explained variance and L0 again, and compare with the file's.

    x: raw residuals (token, d_model).  This finds weights read as another kind, another scale, and
    activations of another layer or model, unless they change neither number.  Returns what was
    measured, by no gates.  Raises InputError with the numbers that differ by more than `tolerance`,
    when the dictionary carries no quality, or with fewer than 4,000 kept tokens.
    """
    allowed = tolerance or Tolerance()
    name = f"dictionary of {sae.metadata.get('model')}, layer {sae.metadata.get('layer')}"
    row = sae.metadata.get("quality")
    if row is None:
        requirement = "it must carry its explained variance and L0 to be checked"
        remedy = "Measure it (`measure_quality`) and save it with the dictionary."
        raise InputError(f"quality of the {name}", None, requirement, remedy)
    n_kept = len(x) if keep is None else int(keep.sum())
    if n_kept < RECHECK_TOKENS:
        requirement = f"fewer than {RECHECK_TOKENS} say too little"
        raise InputError("tokens to check on", n_kept, requirement, "Use more text.")
    carried, now = Quality.from_row(row), measure_quality(sae, x, keep=keep)
    wrong = []
    if not abs(now.explained_variance - carried.explained_variance) <= allowed.explained_variance:
        within = f"{carried.explained_variance:.3f} within {allowed.explained_variance:g}"
        wrong.append(f"explained variance {within}, not {now.explained_variance:.3f}")
    if not abs(now.l0 - carried.l0) <= allowed.l0 * carried.l0:
        wrong.append(f"L0 {carried.l0:.2f} within {allowed.l0:.0%}, not {now.l0:.2f}")
    if wrong:
        requirement = f"by its file these activations give {' and '.join(wrong)}"
        remedy = (
            "Check that they are raw residuals of that model and layer with special tokens masked, "
            "and that the file was read as the kind of dictionary that it is."
        )
        raise InputError(name, sae.kind, requirement, remedy)
    return replace(now, passed=False, reason="not held to the gates")
