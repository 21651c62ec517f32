"""Train the dictionaries of all layers of a model, several seeds each, on one stream of
activations.

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
from homolog.dictionaries.configs import AnyConfig, TrainingConfig
from homolog.dictionaries.finite import refuse_not_finite
from homolog.dictionaries.hardware import Precision, Threads, product_precision
from homolog.dictionaries.sources import ActivationSource
from homolog.dictionaries.training import checkpoint as checkpoints
from homolog.dictionaries.training.device_state import DeviceState, check_device
from homolog.dictionaries.training.fold import Normalisation, estimate_normalisation, fold
from homolog.dictionaries.training.on_device import OnDevice
from homolog.dictionaries.training.revive import revive
from homolog.dictionaries.training.scratch import room_for
from homolog.dictionaries.training.state import SaeState, Trainee
from homolog.dictionaries.training.step import ALONE, take_step

logger = logging.getLogger(__name__)

_CHUNK = 16_384  # tokens a layer works through before threads meet; also the grid of checkpoints
_LARGE = 1 << 22  # weights of an encoder from which all threads work on one dictionary


@dataclass(frozen=True)
class Progress:
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


def _use_half(precision: Precision, device: torch.device) -> bool:
    product = product_precision(precision, device)
    logger.info("encoder products in %s (precision=%s)", product, precision)
    return product == "bfloat16"


def train(
    source: ActivationSource,
    config: AnyConfig,
    training: TrainingConfig | None = None,
    *,
    model: str,
    labels: Sequence[str] = ("sae",),
    checkpoint: Path | None = None,
    checkpoint_every: int = 1_000_000,
    workers: int | None = None,
    progress: Callable[[Progress], None] | None = None,
    device: str | torch.device = "cpu",
) -> dict[str, list[SparseAutoencoder]]:
    """Train one dictionary a layer of the source and label, taking raw residuals; returns {label:
    [one a layer]}.

    A dictionary depends on its layer's number, not on which other layers the source serves: layers
    trained in groups (`source.layer_numbers`) give the bytes that all at once do.

    `labels` name independent seeds ("sae", "seed1"). With `checkpoint` (a file) the full state is
    written there every `checkpoint_every` tokens and a killed run continues from it to the same
    bytes; the file is removed at the end. `workers`: threads, all cores by default; they do not
    change the result.  `device`: where weights and moments of all dictionaries lie and steps are
    taken; on "cuda" in fused kernels where Triton is installed.  The dictionaries come back on the
    CPU.  Raises TrainingDivergedError (names layer and step) and InputError (constant activations;
    NaN or infinity, with the token of the stream; a checkpoint of another run; no such device).
    """
    training, place = training or TrainingConfig(), torch.device(device)
    check_device(place)
    half = _use_half(training.precision, place)
    layers, numbers = range(source.n_layers), source.layer_numbers
    sample = source.sample(training.scale_sample)
    normal = [
        estimate_normalisation(sample[i].cpu(), f"activations of {model}, layer {numbers[i]}")
        for i in layers
    ]
    states = [
        [
            _state(config, training, source.d_model, half, (model, label, n), place)
            for label in labels
        ]
        for n in numbers
    ]
    identity = _identity(source, config, training, model, labels, half, place)
    flat_states = [state for row in states for state in row]
    step = 0 if checkpoint is None else checkpoints.restore(checkpoint, flat_states, identity)
    steps_a_chunk = max(1, _CHUNK // training.batch_size)
    every = max(1, checkpoint_every // (steps_a_chunk * training.batch_size))
    started, first, chunk_index = time.monotonic(), step, 0
    with (
        _OnCpu(source, states, normal, workers)
        if _on_cpu(place)
        else OnDevice(source, states, normal) as run
    ):
        while step < training.n_steps:
            n_steps = min(steps_a_chunk, training.n_steps - step)
            run.advance(step, n_steps)
            step, chunk_index = step + n_steps, chunk_index + 1
            if progress is not None:
                progress(
                    _progress(states, normal, step, first, training, time.monotonic() - started)
                )
            if checkpoint is not None and chunk_index % every == 0 and step < training.n_steps:
                checkpoints.write(checkpoint, flat_states, identity, step)
    made = {k: v for k, v in identity.items() if k not in ("labels", "layers")}
    trained = {
        label: [fold(states[i][j].export(), normal[i], made) for i in layers]
        for j, label in enumerate(labels)
    }
    if checkpoint is not None:
        checkpoint.unlink(missing_ok=True)
    return trained


def _on_cpu(device: torch.device) -> bool:
    """Whether steps are the CPU's own; tests say no, to follow the other path without another
    device.
    """
    return device.type == "cpu"


def _state(
    config: AnyConfig,
    training: TrainingConfig,
    d_model: int,
    half: bool,
    names: tuple[str, str, int],
    device: torch.device,
) -> Trainee:
    """A dictionary at its random start, which is the same on every device."""
    if _on_cpu(device):
        return SaeState(config, training, d_model, half, names)
    return DeviceState(SaeState(config, training, d_model, False, names), device, half)


class _OnCpu:
    """Trains the states of all layers on chunks of a stream, spread over threads; `OnDevice` is its
    counterpart.
    """

    def __init__(self, source, states, normal, workers: int | None) -> None:
        self.source, self.states, self.normal, self.threads = (
            source,
            states,
            normal,
            Threads(workers),
        )
        d_sae, self.size = states[0][0].d_sae, states[0][0].training.batch_size
        self.one_by_one = source.n_layers < self.threads.workers or source.d_model * d_sae >= _LARGE

    def __enter__(self) -> _OnCpu:
        self.threads.__enter__()
        return self

    def __exit__(self, *error: object) -> None:
        self.threads.__exit__(*error)

    def advance(self, step: int, n_steps: int) -> None:
        """Take n_steps steps from `step` on with all dictionaries."""
        chunk, layers = (
            self.source.read(step * self.size, n_steps * self.size),
            range(self.source.n_layers),
        )

        def work(layer: int, threads: Threads = ALONE) -> None:
            _train_layer(chunk[layer], self.normal[layer], self.states[layer], step, threads)

        if self.one_by_one:
            for layer in layers:
                work(layer, self.threads)
        else:
            self.threads.run(work, layers)


def _identity(
    source, config, training, model, labels, half, device: torch.device
) -> dict[str, Any]:
    """What a checkpoint must agree with, and what the files say of their making. Plain JSON values."""
    where = {} if _on_cpu(device) else {"device": device.type}
    return {
        "model": model,
        "labels": list(labels),
        "config": config.model_dump(),
        "training": training.model_dump(),
        "product": "bfloat16" if half else "float32",
        "stream": source.fingerprint,
        "layers": list(source.layer_numbers),
        **where,
    }


def _train_layer(
    raw: torch.Tensor, normal: Normalisation, states: list[SaeState], step: int, threads: Threads
) -> None:
    """All dictionaries of a layer on one chunk."""
    x = normal.apply(raw)
    refuse_not_finite(x, states[0].activations, step * states[0].training.batch_size)
    seen = x.bfloat16() if states[0].half else x
    for state in states:
        size = state.training.batch_size
        last = len(x) // size - 1
        for i in range(last + 1):
            part = slice(i * size, (i + 1) * size)
            take_step(state, x[part], seen[part], step + i, threads)
        revive(
            state, x[last * size : (last + 1) * size], room_for(state, size).g[:size], step + last
        )


def _progress(
    states, normal, step: int, first: int, training: TrainingConfig, seconds: float
) -> Progress:
    reports = [
        (s.take_report(), n.variance) for row, n in zip(states, normal, strict=True) for s in row
    ]
    done, total = step - first, training.n_steps - first
    return Progress(
        done * training.batch_size,
        total * training.batch_size,
        float(np.mean([report.loss for report, _ in reports])),
        float(np.mean([1 - report.squared / variance for report, variance in reports])),
        float(np.mean([report.l0 for report, _ in reports])),
        float(np.mean([report.silent_share for report, _ in reports])),
        seconds,
    )
