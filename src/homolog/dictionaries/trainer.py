"""Train the dictionaries of all layers of a model, several seeds each, on one stream of activations.

Inputs are centred on their mean and scaled to mean norm sqrt(d_model), both estimated on a sample; the
trained dictionary has them folded in and takes raw residuals.  Dictionaries share the order of tokens and
nothing else: each starts from its own seed, derived from (root seed, model, label, layer).  Layers are spread
over threads; a dictionary's arithmetic does not depend on how, so the same seed gives the same bytes on the
same machine.
"""

from __future__ import annotations

import json
import logging
import math
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch

from homolog.dictionaries import checkpoint as checkpoints
from homolog.dictionaries.base import SparseAutoencoder
from homolog.dictionaries.configs import ReluConfig, TopKConfig, TrainingConfig
from homolog.dictionaries.hardware import Precision, Threads, product_precision
from homolog.dictionaries.hardware import has_native_bfloat16 as has_native_bfloat16
from homolog.dictionaries.sources import ActivationSource
from homolog.dictionaries.state import SaeState, TrainingDivergedError
from homolog.errors import InputError

logger = logging.getLogger(__name__)

_CHUNK = 16_384  # tokens a layer works through before threads meet; also the grid of checkpoints


@dataclass(frozen=True)
class Progress:
    """State of a training, averaged over dictionaries and over the tokens since the last report."""

    tokens_done: int
    tokens_total: int
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


@dataclass(frozen=True, eq=False)
class Normalisation:
    """x' = (x - mean) * scale has mean 0 and mean norm sqrt(d_model)."""

    mean: torch.Tensor
    """(d_model,) float32."""
    scale: float
    variance: float
    """Mean squared norm of x'."""


def estimate_normalisation(sample: torch.Tensor, where: str = "activations") -> Normalisation:
    """Mean and scale of a sample of activations (token, d_model), in float64."""
    x = sample.double()
    if not bool(torch.isfinite(x).all()):
        raise InputError(where, "NaN or infinity", "every value must be finite", "Check the model's weights.")
    mean = x.mean(0)
    norms = (x - mean).norm(dim=1)
    if float(norms.mean()) == 0:
        raise InputError(where, "constant", "activations must vary", "Check the layer and the corpus.")
    scale = math.sqrt(x.shape[1]) / float(norms.mean())
    return Normalisation(mean.float(), scale, float((norms * scale).pow(2).mean()))


def _use_half(precision: Precision) -> bool:
    product = product_precision(precision)
    logger.info("encoder products in %s (precision=%s)", product, precision)
    return product == "bfloat16"


def train(
    source: ActivationSource,
    config: ReluConfig | TopKConfig,
    training: TrainingConfig | None = None,
    *,
    model: str,
    labels: Sequence[str] = ("sae",),
    checkpoint: Path | None = None,
    checkpoint_every: int = 1_000_000,
    workers: int | None = None,
    progress: Callable[[Progress], None] | None = None,
) -> dict[str, list[SparseAutoencoder]]:
    """Train one dictionary a layer of the source and label, taking raw residuals; returns {label: [one a layer]}.

    A dictionary depends on its layer's number, not on which other layers the source serves: layers trained in groups
    (`source.layer_numbers`) give the bytes that all at once do.

    `labels` name independent seeds ("sae", "seed1"). With `checkpoint` (a file) the full state is written
    there every `checkpoint_every` tokens and a killed run continues from it to the same bytes; the file is
    removed at the end. `workers`: threads, all cores by default; they do not change the result.  Raises
    TrainingDivergedError (names layer and step) and InputError (NaN or constant activations; a checkpoint of
    another run).
    """
    training = training or TrainingConfig()
    half = _use_half(training.precision)
    layers, numbers = range(source.n_layers), source.layer_numbers
    sample = source.sample(training.scale_sample)
    normal = [estimate_normalisation(sample[i], f"activations of {model}, layer {numbers[i]}") for i in layers]
    states = [
        [SaeState(config, training, source.d_model, half, (model, label, n)) for label in labels] for n in numbers
    ]
    identity = _identity(source, config, training, model, labels, half)
    flat_states = [state for row in states for state in row]
    step = 0 if checkpoint is None else checkpoints.restore(checkpoint, flat_states, identity)
    steps_a_chunk = max(1, _CHUNK // training.batch_size)
    every = max(1, checkpoint_every // (steps_a_chunk * training.batch_size))
    started, first, chunk_index = time.monotonic(), step, 0
    with Threads(workers) as threads:
        while step < training.n_steps:
            n_steps = min(steps_a_chunk, training.n_steps - step)
            chunk = source.read(step * training.batch_size, n_steps * training.batch_size)

            def work(layer: int, chunk=chunk, step=step) -> None:
                _train_layer(chunk[layer], normal[layer], states[layer], step, half)

            threads.run(work, layers)
            step, chunk_index = step + n_steps, chunk_index + 1
            if progress is not None:
                progress(_progress(states, normal, step, first, training, time.monotonic() - started))
            if checkpoint is not None and chunk_index % every == 0 and step < training.n_steps:
                checkpoints.write(checkpoint, flat_states, identity, step)
    trained = {label: [_fold(states[i][j], normal[i], identity) for i in layers] for j, label in enumerate(labels)}
    if checkpoint is not None:
        checkpoint.unlink(missing_ok=True)
    return trained


def _identity(source, config, training, model, labels, half) -> dict[str, object]:
    """What a checkpoint must agree with, and what the files say of their making. Plain JSON values."""
    return {
        "model": model,
        "labels": list(labels),
        "config": config.model_dump(),
        "training": training.model_dump(),
        "product": "bfloat16" if half else "float32",
        "stream": source.fingerprint,
        "layers": list(source.layer_numbers),
    }


def _train_layer(raw: torch.Tensor, normal: Normalisation, states: list[SaeState], step: int, half: bool) -> None:
    """All dictionaries of a layer on one chunk."""
    x = raw.float().sub_(normal.mean) if raw.dtype != torch.float32 else raw - normal.mean
    x.mul_(normal.scale)
    x_half = x.bfloat16() if half else None
    for state in states:
        size = state.training.batch_size
        for i in range(len(x) // size):
            part = slice(i * size, (i + 1) * size)
            state.step(x[part], None if x_half is None else x_half[part], step + i)


def _progress(states, normal, step: int, first: int, training: TrainingConfig, seconds: float) -> Progress:
    stats = [(s.take_stats(), n.variance) for row, n in zip(states, normal, strict=True) for s in row]
    done, total = step - first, training.n_steps - first
    return Progress(
        done * training.batch_size,
        total * training.batch_size,
        float(np.mean([1 - squared / variance for (squared, _, _), variance in stats])),
        float(np.mean([l0 for (_, l0, _), _ in stats])),
        float(np.mean([silent for (_, _, silent), _ in stats])),
        seconds,
    )


def _fold(state: SaeState, normal: Normalisation, identity: dict[str, object]) -> SparseAutoencoder:
    """The dictionary of raw residuals: mean, scale and decoder norms folded in, exactly, in float64.

    With x' = (x - mean) s, decoder norms n (1 for TopK) and c = b_dec / s + mean:
    f_raw_i = f_i n_i / s, the length feature i adds;  W_dec_raw = W_dec / n;  b_dec_raw = c
    relu(x' W_enc + b_enc) n / s = relu((x - c) W_enc n + (b_enc + b_dec W_enc) n / s)
    """
    if not np.isfinite(state.weights).all():
        raise TrainingDivergedError(state.where(state.training.n_steps, "a weight is not a finite number"))
    W_enc, W_dec = state.W_enc_T.T.astype(np.float64), state.W_dec.astype(np.float64)
    b_enc, b_dec = state.b_enc.astype(np.float64), state.b_dec.astype(np.float64)
    norms = np.linalg.norm(W_dec, axis=1)
    W_dec = np.divide(W_dec, norms[:, None], out=W_dec, where=norms[:, None] > 0)
    if state.config.kind == "topk":
        norms = np.ones_like(norms)
    _, label, layer = state.names
    made = {k: v for k, v in identity.items() if k not in ("labels", "layers")}
    return SparseAutoencoder(
        torch.from_numpy((W_enc * norms).astype(np.float32)),
        torch.from_numpy(((b_enc + b_dec @ W_enc) * norms / normal.scale).astype(np.float32)),
        torch.from_numpy(W_dec.astype(np.float32)),
        torch.from_numpy((b_dec / normal.scale + normal.mean.double().numpy()).astype(np.float32)),
        kind=state.config.kind,
        k=state.config.k if isinstance(state.config, TopKConfig) else None,
        metadata=json.loads(
            json.dumps(
                {
                    **made,
                    "label": label,
                    "layer": layer,
                    "tokens_trained": state.training.n_steps * state.training.batch_size,
                    "activation_scale": normal.scale,
                }
            )
        ),
    )
