"""Train the dictionaries of all layers of a model, several seeds each, on one stream.

Inputs are centred on their mean and scaled to mean norm sqrt(d_model), both estimated on a sample;
the trained dictionary has them folded in and takes raw residuals.  Dictionaries share the order of
tokens and nothing else: each starts from its own seed, derived from (root seed, model, label,
layer).  Many small dictionaries are spread over threads; a large one, or a single one, is worked on
by all of them.  Its arithmetic does not depend on how, so the same seed gives the same bytes on the
same machine.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch

from homolog.dictionaries.base import SparseAutoencoder
from homolog.dictionaries.configs import TrainingConfig
from homolog.dictionaries.hardware import product_precision
from homolog.dictionaries.kinds import KindSettings, kind_of
from homolog.dictionaries.sources import ActivationSource
from homolog.dictionaries.training import checkpoint as checkpoints
from homolog.dictionaries.training.device_state import DeviceState, check_device
from homolog.dictionaries.training.fold import estimate_normalisation, fold
from homolog.dictionaries.training.on_device import OnDevice
from homolog.dictionaries.training.run import OnCpu, Run
from homolog.dictionaries.training.state import SaeState, Trainee
from homolog.errors import InputError

logger = logging.getLogger(__name__)

_CHUNK = 16_384  # tokens a layer works through before threads meet; also the grid of checkpoints


@dataclass(frozen=True)
class TrainingProgress:
    """State of a training, averaged over dictionaries and over the tokens since the last report."""

    tokens_done: int
    tokens_total: int
    loss: float
    """Squared error and penalty of sparsity a token, in scaled inputs, mean over dictionaries."""
    explained_variance: float
    """1 - error / variance, in training (approximate: variance of the sample)."""
    l0: float
    """Active features a token."""
    silent_share: float
    """Features that did not fire since the last report."""
    seconds: float
    """Since this call started."""


@dataclass(frozen=True)
class Checkpoint:
    """A file from which a training goes on after a stop; removed at its end."""

    path: Path
    every: int = 1_000_000
    """Tokens between two writes."""


@dataclass(frozen=True)
class Place:
    """Where a training runs."""

    device: str | torch.device = "cpu"
    """Where weights and moments of all dictionaries lie and steps are taken; on "cuda" in fused
    kernels where Triton is installed.
    """
    workers: int | None = None
    """Threads on the CPU, all cores by default; they do not change the result."""


def train(
    source: ActivationSource,
    config: KindSettings,
    training: TrainingConfig | None = None,
    *,
    model: str,
    labels: Sequence[str] = ("sae",),
    checkpoint: Checkpoint | None = None,
    progress: Callable[[TrainingProgress], None] | None = None,
    on: Place | None = None,
    columns: np.ndarray | None = None,
) -> dict[str, list[SparseAutoencoder]]:
    """Train one dictionary for each layer of the source and each label: {label: [one per layer]}.

    A dictionary takes raw residuals and lies on the CPU.  It depends on its layer's number, not on
    which other layers the source serves: layers trained in groups (`source.layer_numbers`) give the
    bytes that all at once do.  `labels` name independent seeds ("sae", "seed1").  A killed run
    continues from its checkpoint to the same bytes.  `columns` (d_sae, 2), integers: each feature
    reads and writes the columns of the stream from the first to the second, not included, alone.
    Raises TrainingDivergedError (names layer and step) and InputError (constant activations; NaN or
    infinity, with the token of the stream; a checkpoint of another run; no such device; columns
    that are not there).
    """
    training, on = training or TrainingConfig(), on or Place()
    _check_columns(columns, config.d_sae, source.d_model)
    plan = _Plan(config, training, torch.device(on.device), columns)
    numbers = source.layer_numbers
    sample = source.sample(training.scale_sample)
    normal = [
        estimate_normalisation(sample[i].cpu(), f"activations of {model}, layer {number}")
        for i, number in enumerate(numbers)
    ]
    states = [[plan.state(source.d_model, (model, label, n)) for label in labels] for n in numbers]
    identity = plan.identity(source, model, labels)
    how = OnCpu if plan.on_cpu else OnDevice
    with how(source, states, normal, on.workers) as run:
        _take_all_steps(run, identity, checkpoint, progress)
    made = {k: v for k, v in identity.items() if k not in ("labels", "layers", "columns")}
    trained = {
        label: [fold(row[j].export(), n, made) for row, n in zip(states, normal, strict=True)]
        for j, label in enumerate(labels)
    }
    if checkpoint is not None:
        checkpoint.path.unlink(missing_ok=True)
    return trained


def _take_all_steps(
    run: Run,
    identity: dict[str, Any],
    checkpoint: Checkpoint | None,
    progress: Callable[[TrainingProgress], None] | None,
) -> None:
    """From the checkpoint, or the start, to the end."""
    states, training, step = run.flat_states, run.training, 0
    if checkpoint is not None:
        step = checkpoints.restore(checkpoint.path, states, identity)
    chunk = max(1, _CHUNK // training.batch)
    every = 0 if checkpoint is None else max(1, checkpoint.every // (chunk * training.batch))
    started, first, n_chunks = time.monotonic(), step, 0
    while step < training.n_steps:
        n_steps = min(chunk, training.n_steps - step)
        run.advance(step, n_steps)
        step, n_chunks = step + n_steps, n_chunks + 1
        if progress is not None:
            done = step - first, training.n_steps - first
            progress(_progress(run, done, time.monotonic() - started))
        if checkpoint is not None and n_chunks % every == 0 and step < training.n_steps:
            checkpoints.write(checkpoint.path, states, identity, step)


def _check_columns(columns: np.ndarray | None, d_sae: int, d_model: int) -> None:
    """InputError where they are not the bounds of each feature's columns."""
    if columns is None:
        return
    remedy = "Give each feature the first of its columns and the one behind its last."
    if columns.shape != (d_sae, 2) or columns.dtype.kind != "i":
        value = f"{columns.dtype} {columns.shape}"
        raise InputError("columns", value, f"integers ({d_sae}, 2) are needed", remedy)
    first, last = columns.T
    wrong = np.flatnonzero((first < 0) | (last > d_model) | (first >= last))
    if wrong.size:
        value = f"{columns[wrong[0]].tolist()} of feature {wrong[0]}"
        requirement = f"they are some of the {d_model} columns of the stream"
        raise InputError("columns", value, requirement, remedy)


def _is_cpu(device: torch.device) -> bool:
    """Whether kinds with rules take the CPU's own steps; tests say no, to follow the other path."""
    return device.type == "cpu"


class _Plan:
    """What is trained, and by which steps.  InputError where torch has no such device."""

    def __init__(
        self,
        config: KindSettings,
        training: TrainingConfig,
        device: torch.device,
        columns: np.ndarray | None,
    ) -> None:
        check_device(device)
        self.config, self.training, self.device = config, training, device
        self.columns = columns
        ruled = kind_of(config.kind).rules is not None
        self.on_cpu = _is_cpu(device) and ruled
        product = product_precision(training.precision if ruled else "float32", device)
        logger.info("encoder products in %s (precision=%s)", product, training.precision)
        self.product = product

    def state(self, d_model: int, names: tuple[str, str, int]) -> Trainee:
        """A dictionary at its random start, which is the same on every device."""
        half = self.product == "bfloat16"
        on_host = half and self.on_cpu
        given = self.config, self.training, d_model, on_host, names
        host = SaeState(*given, columns=self.columns)
        return host if self.on_cpu else DeviceState(host, self.device, half)

    def identity(
        self, source: ActivationSource, model: str, labels: Sequence[str]
    ) -> dict[str, Any]:
        """What a checkpoint must agree with, and files say of their making; JSON values."""
        where = {} if _is_cpu(self.device) else {"device": self.device.type}
        where |= {} if self.columns is None else {"columns": self.columns.tolist()}
        facts = {
            "model": model,
            "labels": list(labels),
            "config": self.config.model_dump(),
            "training": self.training.model_dump(),
            "product": self.product,
            "stream": source.fingerprint,
            "layers": list(source.layer_numbers),
        }
        return facts | where


def _progress(run: Run, done: tuple[int, int], seconds: float) -> TrainingProgress:
    """done: steps of this call so far, and in all."""
    variances = [
        normal.variance for normal, row in zip(run.normal, run.states, strict=True) for _ in row
    ]
    reports = [state.take_report() for state in run.flat_states]
    explained = [1 - r.squared / v for r, v in zip(reports, variances, strict=True)]
    return TrainingProgress(
        *(n_steps * run.training.batch for n_steps in done),
        loss=float(np.mean([report.loss for report in reports])),
        explained_variance=float(np.mean(explained)),
        l0=float(np.mean([report.l0 for report in reports])),
        silent_share=float(np.mean([report.silent_share for report in reports])),
        seconds=seconds,
    )
