"""One dictionary in training: master weights, Adam's moments and counters; what a checkpoint holds.

All of it is float32 in flat arrays (weights, first and second moments alike), so that a checkpoint
is three arrays and a few counters.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import accumulate
from typing import Any

import numpy as np
import torch

from homolog.dictionaries.configs import TrainingConfig
from homolog.dictionaries.kinds import KindSettings, Rules, kind_of
from homolog.dictionaries.seeds import generator
from homolog.dictionaries.training import rows
from homolog.dictionaries.training.bounds import Bounds
from homolog.dictionaries.training.target import TargetL0


class TrainingDivergedError(RuntimeError):
    """The loss or a weight is no longer a number; names model, dictionary, layer and step."""


class Weights:
    """Views of one flat float32 array, or tensor on a device.

    W_enc transposed (d_sae, d_model), W_dec (d_sae, d_model), vectors (n, d_sae), b_dec
    (d_model,).
    """

    W_enc_T: Any
    W_dec: Any
    vectors: Any
    b_dec: Any

    def __init__(self, d_model: int, d_sae: int, n_vectors: int, flat: Any = None) -> None:
        shapes = (d_sae, d_model), (d_sae, d_model), (n_vectors, d_sae), (d_model,)
        ends = list(accumulate(math.prod(shape) for shape in shapes))
        self.flat: Any = np.zeros(ends[-1], np.float32) if flat is None else flat
        self.W_enc_T, self.W_dec, self.vectors, self.b_dec = (
            self.flat[end - math.prod(shape) : end].reshape(shape)
            for end, shape in zip(ends, shapes, strict=True)
        )


@dataclass(frozen=True)
class Report:
    """Means over the tokens since the last report."""

    loss: float
    """Squared error and penalty of sparsity, in scaled inputs; without the auxiliary loss."""
    squared: float
    """Squared error, in scaled inputs."""
    l0: float
    silent_share: float
    """Features that did not fire."""

    @classmethod
    def of(cls, squared: float, penalised: float, n_tokens: int, fired: np.ndarray) -> Report:
        """From sums over n_tokens; fired: at how many of them each feature was active."""
        n = max(1, n_tokens)
        silent_share = float((fired == 0).mean())
        return cls((squared + penalised) / n, squared / n, float(fired.sum()) / n, silent_share)


class Trainee:
    """What is trained and how, wherever its weights lie.

    `SaeState` on the CPU, in arrays; `DeviceState` on another device, in tensors.  half: whether
    products are in bfloat16.  names: (model, label, layer).  columns (d_sae, 2): each feature reads
    and writes the columns from the first to the second of the stream alone; None: all of them.
    """

    weights: Weights
    mean: Weights
    square: Weights
    silent: Any
    """Tokens since each feature fired."""
    fired: Any
    """At how many tokens of the last step each feature was active."""
    fired_since: Any
    """The same since the last report."""
    norms: Any
    """Of decoder rows."""
    bounds: Bounds | None = None
    """What steps must not move."""

    def __init__(
        self,
        config: KindSettings,
        training: TrainingConfig,
        d_model: int,
        half: bool,
        names: tuple[str, str, int],
        columns: np.ndarray | None = None,
    ) -> None:
        self.config, self.training, self.half, self.names = config, training, half, names
        self.d_model, self.d_sae, self.kind = d_model, config.d_sae, kind_of(config.kind)
        self.confined = columns is not None
        self.columns = np.array([[0, d_model]] * self.d_sae) if columns is None else columns
        self.vectors, self.unit = self.kind.vectors, self.kind.unit(config)
        self.auxiliary = self.kind.auxiliary(config)
        self.may_be_dense = self.kind.rules is not None and self.kind.rules.select == "above"
        """Any number of features may be active, and products of whole matrices then be cheaper."""
        self.k = 0 if self.may_be_dense else min(getattr(config, "k", 0), self.d_sae)
        self.scalars = np.zeros(2)
        """Entries a token in the last step, from which the next chooses its way; the running mean
        of the smallest value that a batch kept.
        """
        self.target_l0: TargetL0 | None = None
        if config.target_l0 is not None:
            self.target_l0 = TargetL0(config.target_l0, *self.kind.penalty(config), training)

    def _hold(self, flats: Sequence[Any], device: torch.device | str) -> None:
        """Take weights and moments, flat, and make room for what follows from them."""
        shape = self.d_model, self.d_sae, len(self.vectors)
        self.weights, self.mean, self.square = (Weights(*shape, flat) for flat in flats)
        kept = self.d_sae * self.half, self.d_sae * (self.half and self.may_be_dense)
        how: dict[str, Any] = {"dtype": torch.bfloat16, "device": device}
        self.enc_half, self.dec_half = (torch.empty(n, self.d_model, **how) for n in kept)
        self.W_product = torch.as_tensor(self.weights.W_enc_T)
        if self.half:
            self.W_product = self.enc_half

    @property
    def rules(self) -> Rules:
        """Those of the kind, of which only kinds that have some come here."""
        assert self.kind.rules is not None
        return self.kind.rules

    def inside(self, features: Any = slice(None)) -> np.ndarray:
        """Which columns of the stream features read and write: (feature, d_model) bool."""
        first, last = self.columns[features].T[:, :, None]
        column = np.arange(self.d_model)
        return (first <= column) & (column < last)

    def low(self, vectors: Any) -> Any:
        """Bias with which a product is above 0 where a step has to see the feature."""
        lowered = self.rules.low
        return vectors[0] if lowered is None else lowered(self.config, vectors)

    def coefficients(self, exp: Callable[[Any], Any]) -> Any:
        """The vectors as the kind's rules read them."""
        seen = self.rules.coefficients
        return self.weights.vectors if seen is None else seen(self.weights.vectors, exp)

    def _held(self) -> dict[str, Any]:
        """What a checkpoint must hold of what lies where the weights do."""
        flat = {"weights": self.weights.flat, "mean": self.mean.flat, "square": self.square.flat}
        return flat | {"silent": self.silent}

    def _held_on_host(self) -> dict[str, np.ndarray]:
        """The same of what lies on the CPU always."""
        held = {"scalars": self.scalars}
        return held if self.target_l0 is None else held | {"log_weight": self.target_l0.log_weight}

    def arrays(self) -> dict[str, np.ndarray]:
        """Everything a checkpoint must hold besides the step; `refresh` follows a change."""
        raise NotImplementedError

    def export(self) -> SaeState:
        """The weights and scalars on the CPU."""
        raise NotImplementedError

    def measure_norms(self) -> None:
        """Norms of the decoder's rows from the rows."""
        raise NotImplementedError

    def _encoder_norms(self) -> Any:
        raise NotImplementedError

    def _own(self, array: np.ndarray) -> Any:
        """The array where the weights lie."""
        return array

    def _on_host(self, values: Any) -> np.ndarray:
        return values

    def refresh(self) -> None:
        """Make what follows from the weights anew, after they were changed from outside."""
        w = self.weights
        for half, whole in ((self.enc_half, w.W_enc_T), (self.dec_half, w.W_dec)):
            if len(half):
                half.copy_(torch.as_tensor(whole))
        self.measure_norms()

    def put_back(self) -> None:
        """After a step: what it must not have moved."""
        if self.bounds is not None:
            self.bounds.put_back(self.weights)
            Trainee.refresh(self)

    def begin_report(self) -> None:
        """Set the sums behind `Report` to 0."""
        self.squared = self.penalised = 0.0
        self.tokens = 0
        self.fired_since[:] = 0

    def take_report(self) -> Report:
        """What happened since last asked."""
        fired = self._on_host(self.fired_since)
        report = Report.of(self.squared, self.penalised, self.tokens, fired)
        self.begin_report()
        return report

    def tokens_silent(self) -> np.ndarray:
        """Tokens since each feature fired."""
        return self._on_host(self.silent)

    def mean_norms(self, chosen: np.ndarray) -> tuple[float, float]:
        """Mean norms of encoder columns and decoder rows of the features marked in `chosen`."""
        marked = self._own(chosen)
        return float(self._encoder_norms()[marked].mean()), float(self.norms[marked].mean())

    def replace(
        self, features: np.ndarray, W_enc_T: np.ndarray, W_dec: np.ndarray, vectors: np.ndarray
    ) -> None:
        """Give features new weights, a row or column each; their moments and silence start at 0."""
        at = self._own(features)
        new = [self._own(array.astype(np.float32)) for array in (W_enc_T, W_dec, vectors)]
        nothing = [0, 0, 0]
        for tree, values in ((self.weights, new), (self.mean, nothing), (self.square, nothing)):
            tree.W_enc_T[at], tree.W_dec[at], tree.vectors[:, at] = values
        self.silent[at] = 0
        self.refresh()

    def penalty_at(self, step: int) -> float:
        """Weight of the kind's penalty at a step; 0 where it has none."""
        weight, share = self.kind.penalty(self.config)
        if self.target_l0 is not None:
            weight = self.target_l0.weight
        warmup = share * self.training.n_steps
        return weight * (min(1.0, (step + 1) / warmup) if warmup >= 1 else 1.0)

    @property
    def config_found(self) -> dict[str, Any]:
        """The settings, with the weight that a target of L0 has led to."""
        found, target = self.config.found, self.target_l0
        own = {} if found is None or target is None else {found: target.weight}
        return self.config.model_dump() | own

    def follow(self, least: float) -> None:
        """Move the running mean of the smallest value that a batch kept."""
        rate = self.kind.running_rate(self.config) if self.scalars[1] > 0 else 1.0
        self.scalars[1] += rate * (least - self.scalars[1])

    @property
    def activations(self) -> str:
        """What errors call the activations that it learns from."""
        model, _, layer = self.names
        return f"activations of {model}, layer {layer}"

    def where(self, step: int, what: str) -> str:
        """Message that names model, dictionary, layer and step."""
        model, label, layer = self.names
        return (
            f"{what}: model {model!r}, dictionary {label!r}, layer {layer}, step {step} of "
            f"{self.training.n_steps}. Lower lr (now {self.training.lr}) or check the activations."
        )


class SaeState(Trainee):
    """A dictionary in training on the CPU; weights: `Weights.flat`, else a random start."""

    def __init__(
        self,
        config: KindSettings,
        training: TrainingConfig,
        d_model: int,
        half: bool,
        names: tuple[str, str, int],
        weights: np.ndarray | None = None,
        columns: np.ndarray | None = None,
    ) -> None:
        super().__init__(config, training, d_model, half, names, columns)
        self._hold([None, None, None], "cpu")
        counts = [np.zeros(config.d_sae, np.int64) for _ in range(3)]
        self.silent, self.fired, self.fired_since = counts
        self.norms = np.ones(config.d_sae, np.float32)
        if weights is None:
            self._initialise()
        else:
            self.weights.flat[:] = weights
        self.refresh()
        self.begin_report()

    def _initialise(self) -> None:
        w, start = self.weights, self.kind.start(self.config)
        rng = generator(self.training.seed, *self.names, "init")
        directions = rng.standard_normal(w.W_dec.shape).astype(np.float32)
        directions *= self.inside()
        rows.normalise_rows(directions)
        w.W_enc_T[:] = directions * start.norm
        w.W_dec[:] = directions * (1.0 if self.unit else start.norm)
        w.vectors[:] = np.array(start.vectors)[:, None]
        self.bounds = Bounds.of(self.config, w)
        self.scalars[0] = self.k or self.d_sae

    def measure_norms(self) -> None:
        if not self.unit:
            rows.row_norms(self.weights.W_dec, self.norms)

    def _encoder_norms(self) -> np.ndarray:
        return np.linalg.norm(self.weights.W_enc_T, axis=1)

    @property
    def shape(self) -> tuple[object, ...]:
        """What scratch arrays depend on."""
        return self.kind.name, self.d_model, self.d_sae, self.half, self.k, self.auxiliary

    @property
    def constants(self) -> tuple[np.float32, np.float32]:
        """The settings as the kind's rules read them."""
        first, second = self.rules.constants(self.config)
        return np.float32(first), np.float32(second)

    def target(self, penalty: float) -> tuple[Any, ...]:
        """What a step moves, as `rows` takes it.

        Weight, mean and square of encoder, decoder and vectors; bfloat16 copies of the two
        matrices, size 0 where not kept; weight of the penalty on decoder norms, whether these are
        held at 1, and whether the decoder is frozen; the columns of each feature.
        """
        trees = self.weights, self.mean, self.square
        halves = tuple(half.view(torch.uint16).numpy() for half in (self.enc_half, self.dec_half))
        how = np.float32(0 if self.unit else penalty), self.unit, self.config.freeze_decoder
        return (
            tuple(tree.W_enc_T for tree in trees),
            tuple(tree.W_dec for tree in trees),
            tuple(tree.vectors for tree in trees),
            halves,
            how,
            self.columns,
        )

    def arrays(self) -> dict[str, np.ndarray]:
        return self._held() | self._held_on_host()

    def export(self) -> SaeState:
        return self

    def add_to_report(self, squared: float, penalty: float, n_tokens: int) -> None:
        """Count a step: sums over its tokens of squared error and penalty; `fired` has counts."""
        self.squared += squared
        self.penalised += penalty
        self.tokens += n_tokens
        self.fired_since += self.fired
