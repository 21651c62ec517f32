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
import math
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch

from homolog.dictionaries.base import SparseAutoencoder
from homolog.dictionaries.configs import TrainingConfig
from homolog.dictionaries.finite import refuse_not_finite
from homolog.dictionaries.hardware import Threads, product_precision
from homolog.dictionaries.kinds import KindSettings, kind_of
from homolog.dictionaries.sources import ActivationSource
from homolog.dictionaries.training import checkpoint as checkpoints
from homolog.dictionaries.training.device_state import DeviceState, check_device
from homolog.dictionaries.training.fold import Normalisation, estimate_normalisation, fold
from homolog.dictionaries.training.on_device import OnDevice
from homolog.dictionaries.training.revive import revive
from homolog.dictionaries.training.scratch import scratch_for
from homolog.dictionaries.training.state import SaeState, Trainee
from homolog.dictionaries.training.step import ALONE, take_step

logger = logging.getLogger(__name__)

_CHUNK = 16_384  # tokens a layer works through before threads meet; also the grid of checkpoints
_LARGE = 1 << 22  # weights of an encoder from which all threads work on one dictionary


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

    @property
    def seconds_left(self) -> float:
        """Estimate from the pace so far; NaN before the first report."""
        done = self.tokens_done
        return self.seconds * (self.tokens_total - done) / done if done else math.nan


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
) -> dict[str, list[SparseAutoencoder]]:
    """Train one dictionary for each layer of the source and each label: {label: [one per layer]}.

    A dictionary takes raw residuals and lies on the CPU.  It depends on its layer's number, not on
    which other layers the source serves: layers trained in groups (`source.layer_numbers`) give the
    bytes that all at once do.  `labels` name independent seeds ("sae", "seed1").  A killed run
    continues from its checkpoint to the same bytes.  Raises TrainingDivergedError (names layer and
    step) and InputError (constant activations; NaN or infinity, with the token of the stream; a
    checkpoint of another run; no such device).
    """
    training, on = training or TrainingConfig(), on or Place()
    plan = _Plan(config, training, torch.device(on.device))
    numbers = source.layer_numbers
    sample = source.sample(training.scale_sample)
    normal = [
        estimate_normalisation(sample[i].cpu(), f"activations of {model}, layer {number}")
        for i, number in enumerate(numbers)
    ]
    states = [[plan.state(source.d_model, (model, label, n)) for label in labels] for n in numbers]
    identity = plan.identity(source, model, labels)
    if plan.on_cpu:
        run: _OnCpu | OnDevice = _OnCpu(source, states, normal, on.workers)
    else:
        run = OnDevice(source, states, normal)
    with run:
        _take_all_steps(run, states, normal, identity, checkpoint, progress)
    made = {k: v for k, v in identity.items() if k not in ("labels", "layers")}
    trained = {
        label: [fold(row[j].export(), n, made) for row, n in zip(states, normal, strict=True)]
        for j, label in enumerate(labels)
    }
    if checkpoint is not None:
        checkpoint.path.unlink(missing_ok=True)
    return trained


def _take_all_steps(
    run: _OnCpu | OnDevice,
    states: list[list[Any]],
    normal: list[Normalisation],
    identity: dict[str, Any],
    checkpoint: Checkpoint | None,
    progress: Callable[[TrainingProgress], None] | None,
) -> None:
    """From the checkpoint, or the start, to the end."""
    flat_states = [state for row in states for state in row]
    training: TrainingConfig = flat_states[0].training
    step = 0 if checkpoint is None else checkpoints.restore(checkpoint.path, flat_states, identity)
    chunk = max(1, _CHUNK // training.batch)
    every = 0 if checkpoint is None else max(1, checkpoint.every // (chunk * training.batch))
    started, first, n_chunks = time.monotonic(), step, 0
    while step < training.n_steps:
        n_steps = min(chunk, training.n_steps - step)
        run.advance(step, n_steps)
        step, n_chunks = step + n_steps, n_chunks + 1
        if progress is not None:
            done = step - first, training.n_steps - first
            progress(_progress(states, normal, done, time.monotonic() - started))
        if checkpoint is not None and n_chunks % every == 0 and step < training.n_steps:
            checkpoints.write(checkpoint.path, flat_states, identity, step)


def _is_cpu(device: torch.device) -> bool:
    """Whether the steps of kinds with rules are the CPU's own.

    Tests say no, to follow the other path without another device.
    """
    return device.type == "cpu"


class _Plan:
    """What is trained, and by which steps.  InputError where torch has no such device."""

    def __init__(
        self, config: KindSettings, training: TrainingConfig, device: torch.device
    ) -> None:
        check_device(device)
        self.config, self.training, self.device = config, training, device
        ruled = kind_of(config.kind).rules is not None
        self.on_cpu = _is_cpu(device) and ruled
        product = product_precision(training.precision if ruled else "float32", device)
        logger.info("encoder products in %s (precision=%s)", product, training.precision)
        self.product = product

    def state(self, d_model: int, names: tuple[str, str, int]) -> Trainee:
        """A dictionary at its random start, which is the same on every device."""
        half = self.product == "bfloat16"
        if self.on_cpu:
            return SaeState(self.config, self.training, d_model, half, names)
        host = SaeState(self.config, self.training, d_model, False, names)
        return DeviceState(host, self.device, half)

    def identity(
        self, source: ActivationSource, model: str, labels: Sequence[str]
    ) -> dict[str, Any]:
        """What a checkpoint must agree with, and files say of their making; JSON values."""
        where = {} if _is_cpu(self.device) else {"device": self.device.type}
        return {
            "model": model,
            "labels": list(labels),
            "config": self.config.model_dump(),
            "training": self.training.model_dump(),
            "product": self.product,
            "stream": source.fingerprint,
            "layers": list(source.layer_numbers),
            **where,
        }


class _OnCpu:
    """Trains the states of all layers on chunks of a stream, spread over threads, as `OnDevice`."""

    def __init__(
        self,
        source: ActivationSource,
        states: list[list[Any]],
        normal: list[Normalisation],
        workers: int | None,
    ) -> None:
        self.source, self.states, self.normal = source, states, normal
        self.threads = Threads(workers)
        d_sae, self.size = states[0][0].d_sae, states[0][0].training.batch
        self.one_by_one = source.n_layers < self.threads.workers or source.d_model * d_sae >= _LARGE

    def __enter__(self) -> _OnCpu:
        self.threads.__enter__()
        return self

    def __exit__(self, *error: object) -> None:
        self.threads.__exit__(*error)

    def advance(self, step: int, n_steps: int) -> None:
        """Take n_steps steps from `step` on with all dictionaries."""
        chunk = self.source.read(step * self.size, n_steps * self.size)
        layers = range(self.source.n_layers)

        def work(layer: int, threads: Threads = ALONE) -> None:
            _train_layer(chunk[layer], self.normal[layer], self.states[layer], step, threads)

        if self.one_by_one:
            for layer in layers:
                work(layer, self.threads)
        else:
            self.threads.run(work, layers)


def _train_layer(
    raw: torch.Tensor, normal: Normalisation, states: list[SaeState], step: int, threads: Threads
) -> None:
    """All dictionaries of a layer on one chunk."""
    x = normal.apply(raw)
    refuse_not_finite(x, states[0].activations, step * states[0].training.batch)
    seen = x.bfloat16() if states[0].half else x
    for state in states:
        size = state.training.batch
        last = len(x) // size - 1
        for i in range(last + 1):
            part = slice(i * size, (i + 1) * size)
            take_step(state, x[part], seen[part], step + i, threads)
        error = scratch_for(state, size).g[:size]
        revive(state, x[last * size : (last + 1) * size], error, step + last)


def _progress(
    states: list[list[Any]],
    normal: list[Normalisation],
    done: tuple[int, int],
    seconds: float,
) -> TrainingProgress:
    """done: steps of this call so far, and in all."""
    reports = [
        (s.take_report(), n.variance) for row, n in zip(states, normal, strict=True) for s in row
    ]
    size = states[0][0].training.batch
    return TrainingProgress(
        done[0] * size,
        done[1] * size,
        float(np.mean([report.loss for report, _ in reports])),
        float(np.mean([1 - report.squared / variance for report, variance in reports])),
        float(np.mean([report.l0 for report, _ in reports])),
        float(np.mean([report.silent_share for report, _ in reports])),
        seconds,
    )
