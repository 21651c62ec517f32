"""One dictionary in training: master weights, Adam's moments, and the step that moves them.

All of it is float32 in flat arrays (weights, gradients, first and second moments alike), so that Adam is one
pass and a checkpoint is three arrays and a count.
"""

from __future__ import annotations

import threading
from dataclasses import dataclass
from statistics import NormalDist

import numpy as np
import torch

from homolog.dictionaries import kernels
from homolog.dictionaries.configs import ReluConfig, TopKConfig, TrainingConfig
from homolog.dictionaries.seeds import generator

_BLOCK = 512  # tokens between encoder product and gradients: errors and inputs stay in second-level cache
_EPSILON = np.float32(1e-8)


class TrainingDivergedError(RuntimeError):
    """The loss or a weight is no longer a number; names model, dictionary, layer and step."""


class _Workspace:
    """Scratch arrays of one thread."""

    def __init__(self, d_model: int, d_sae: int, half: bool) -> None:
        self.shape = (d_model, d_sae, half)
        self.product = torch.empty(_BLOCK, d_sae, dtype=torch.bfloat16 if half else torch.float32)
        none = np.empty((0, 0))
        self.half = self.product.view(torch.uint16).numpy() if half else none.astype(np.uint16)
        self.full = none.astype(np.float32) if half else self.product.numpy()
        self.index, self.row = (np.empty(_BLOCK * d_sae, np.int32) for _ in range(2))
        self.value, self.column_value = (np.empty(_BLOCK * d_sae, np.float32) for _ in range(2))
        self.start = np.zeros(_BLOCK + 1, np.int64)
        self.offset = np.zeros(d_sae + 1, np.int64)
        self.g, self.g_aux = (np.empty((_BLOCK, d_model), np.float32) for _ in range(2))


_local = threading.local()


def _workspace(d_model: int, d_sae: int, half: bool) -> _Workspace:
    found = getattr(_local, "workspace", None)
    if found is None or found.shape != (d_model, d_sae, half):
        found = _local.workspace = _Workspace(d_model, d_sae, half)
    return found


def split_flat(flat: np.ndarray, d_model: int, d_sae: int) -> tuple[np.ndarray, ...]:
    """Views of a flat array: W_enc transposed (d_sae, d_model), W_dec (d_sae, d_model), b_enc, b_dec."""
    size = d_model * d_sae
    return (
        flat[:size].reshape(d_sae, d_model),
        flat[size : 2 * size].reshape(d_sae, d_model),
        flat[2 * size : 2 * size + d_sae],
        flat[2 * size + d_sae :],
    )


@dataclass
class StepStats:
    """Sums since the last report."""

    squared: float = 0.0
    tokens: int = 0


class SaeState:
    """A dictionary in training on centred, scaled activations. One thread at a time works on it."""

    def __init__(
        self,
        config: ReluConfig | TopKConfig,
        training: TrainingConfig,
        d_model: int,
        half: bool,
        names: tuple,
    ) -> None:
        self.config, self.training, self.half, self.names = config, training, half, names
        self.d_model, self.d_sae = d_model, config.d_sae
        size = 2 * d_model * config.d_sae + config.d_sae + d_model
        self.weights, self.gradient, self.mean, self.square = (np.zeros(size, np.float32) for _ in range(4))
        self.W_enc_T, self.W_dec, self.b_enc, self.b_dec = split_flat(self.weights, d_model, config.d_sae)
        self.d_enc_T, self.d_W_dec, self.d_b_enc, self.d_b_dec = split_flat(self.gradient, d_model, config.d_sae)
        directions = generator(training.seed, *names, "init").standard_normal(self.W_dec.shape).astype(np.float32)
        kernels.normalise_rows(directions)
        self.W_enc_T[:] = directions * config.init_norm
        self.W_dec[:] = directions * (config.init_norm if config.kind == "relu" else 1.0)
        if isinstance(config, ReluConfig):  # pre-activations start as N(0, init_norm^2)
            self.b_enc[:] = config.init_norm * NormalDist().inv_cdf(config.init_active)
        self.silent = np.zeros(config.d_sae, np.int64)  # tokens since each feature fired
        self.norms = np.empty(config.d_sae, np.float32)
        self.total = np.empty(config.d_sae, np.float32)
        self.fired = np.empty(config.d_sae, np.int64)
        dtype = torch.bfloat16 if half else torch.float32
        self.W_product = torch.empty(config.d_sae, d_model, dtype=dtype)
        self.stats = StepStats()
        self.last_fired = np.zeros(config.d_sae, np.int64)

    def arrays(self) -> dict[str, np.ndarray]:
        """Everything a checkpoint must hold besides the step."""
        return {"weights": self.weights, "mean": self.mean, "square": self.square, "silent": self.silent}

    def penalty_at(self, step: int) -> float:
        """Weight of the L1 penalty at a step; 0 for TopK."""
        if not isinstance(self.config, ReluConfig):
            return 0.0
        warmup = self.config.l1_warmup * self.training.n_steps
        return self.config.l1 * (min(1.0, (step + 1) / warmup) if warmup >= 1 else 1.0)

    def gradients(self, x: torch.Tensor, x_half: torch.Tensor | None, step: int) -> float:
        """Add the gradients of the loss on a batch; returns the sum of squared errors. x float32,
        contiguous."""
        work = _workspace(self.d_model, self.d_sae, self.half)
        k = self.config.k if isinstance(self.config, TopKConfig) else 0
        penalty = np.float32(self.penalty_at(step) / len(x))
        factor = np.float32(2 / len(x))
        kernels.row_norms(self.W_dec, self.norms)
        self.W_product.copy_(torch.from_numpy(self.W_enc_T))
        self.total[:] = 0
        self.fired[:] = 0
        dead = self._dead()
        inputs = x if x_half is None else x_half
        squared = 0.0
        for low in range(0, len(x), _BLOCK):
            high = min(low + _BLOCK, len(x))
            torch.mm(inputs[low:high], self.W_product.T, out=work.product[: high - low])
            block, g = x[low:high].numpy(), work.g[: high - low]
            squared += kernels.forward(
                block, work.half, work.full, self.half, self.b_enc, self.W_dec, self.b_dec, k, factor,
                work.index, work.value, work.start, g,
            )  # fmt: skip
            self._backward(block, g, penalty, self.total, self.fired, work)
            kernels.add_rows(g, self.d_b_dec)
            if dead is not None:
                self._auxiliary(block, g, dead, factor, work)
        if penalty > 0:
            kernels.add_penalty_gradient(self.W_dec, self.norms, penalty, self.total, self.d_W_dec)
        return float(squared)

    def _backward(self, block, g, penalty, total, fired, work: _Workspace) -> None:
        kernels.backward(
            block, g, work.index, work.value, work.start[: len(g) + 1], self.W_dec, self.norms, penalty,
            self.d_enc_T, self.d_b_enc, self.d_W_dec, total, fired, work.row, work.column_value, work.offset,
        )  # fmt: skip

    def _dead(self) -> np.ndarray | None:
        """Dead features that the auxiliary loss trains; None when there are none (always for ReLU)."""
        if not isinstance(self.config, TopKConfig) or self.config.aux_weight == 0:
            return None
        dead = self.silent >= self.config.dead_after
        return dead if dead.any() else None

    def _auxiliary(self, block, g, dead: np.ndarray, factor: np.float32, work: _Workspace) -> None:
        assert isinstance(self.config, TopKConfig)
        share = min(int(dead.sum()) / self.config.aux_k, 1.0) * self.config.aux_weight
        g_aux = work.g_aux[: len(g)]
        # g is factor * (x_hat - x): the error to model, e = x - x_hat, is -g / factor; z W_dec - e its error.
        kernels.auxiliary(
            work.half, work.full, self.half, self.b_enc, self.W_dec, dead, self.config.aux_k,
            np.float32(1) / factor, np.float32(share) * factor, g, work.index, work.value, work.start, g_aux,
        )  # fmt: skip
        ignored = np.zeros_like(self.total), np.zeros_like(self.fired)
        self._backward(block, g_aux, np.float32(0), *ignored, work)

    def step(self, x: torch.Tensor, x_half: torch.Tensor | None, step: int) -> None:
        """One step of Adam on a batch. Raises TrainingDivergedError when the loss is not finite."""
        squared = self.gradients(x, x_half, step)
        if not np.isfinite(squared):
            raise TrainingDivergedError(self.where(step, "the loss is not a finite number"))
        if isinstance(self.config, TopKConfig):
            kernels.remove_parallel(self.W_dec, self.d_W_dec)
        t, training = step + 1, self.training
        kernels.adam(
            self.weights, self.gradient, self.mean, self.square,
            np.float32(training.learning_rate_at(step)),
            np.float32(training.beta1), np.float32(training.beta2),
            np.float32(1 / (1 - training.beta1**t)), np.float32(1 / (1 - training.beta2**t)), _EPSILON,
        )  # fmt: skip
        if isinstance(self.config, TopKConfig):
            kernels.normalise_rows(self.W_dec)
        self.silent += len(x)
        self.silent[self.fired > 0] = 0
        self.stats.squared += squared
        self.stats.tokens += len(x)
        self.last_fired += self.fired

    def where(self, step: int, what: str) -> str:
        """Message that names model, dictionary, layer and step."""
        model, label, layer = self.names
        return (
            f"{what}: model {model!r}, dictionary {label!r}, layer {layer}, step {step} of "
            f"{self.training.n_steps}. Lower learning_rate (now {self.training.learning_rate}) or check the "
            "activations."
        )

    def take_stats(self) -> tuple[float, float, float]:
        """Since last asked: mean squared error a token (scaled inputs), L0, share of silent features."""
        tokens = max(1, self.stats.tokens)
        result = (
            self.stats.squared / tokens,
            float(self.last_fired.sum()) / tokens,
            float((self.last_fired == 0).mean()),
        )
        self.stats = StepStats()
        self.last_fired[:] = 0
        return result
