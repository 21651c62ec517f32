"""A dictionary in training on a device other than the CPU: what `SaeState` is, in torch tensors.

Weights and moments are float32 in flat tensors, with the layout and the checkpoints of `SaeState`,
from which it starts and to which it exports.
"""

from __future__ import annotations

import importlib
import importlib.util
from types import ModuleType

import numpy as np
import torch
from torch import Tensor

from homolog.dictionaries.training.state import (
    Report,
    SaeState,
    Trainee,
    TrainingDivergedError,
    Weights,
)
from homolog.errors import InputError


class Tensors:
    """`Weights` on a device: views of one flat float32 tensor."""

    def __init__(self, host: Weights, device: torch.device) -> None:
        self.flat = torch.tensor(host.flat, device=device)
        arrays = host.W_enc_T, host.W_dec, host.vectors, host.b_dec
        views = [
            part.view(a.shape)
            for part, a in zip(self.flat.split([a.size for a in arrays]), arrays, strict=True)
        ]
        self.W_enc_T, self.W_dec, self.vectors, self.b_dec = views


class DeviceState(Trainee):
    """The state `host` on a device.  half: whether products are in bfloat16 there.

    engine: the module that computes, `device_kernels` where Triton runs, else `device_plain`.
    """

    def __init__(
        self,
        host: SaeState,
        device: torch.device | str,
        half: bool,
        engine: ModuleType | None = None,
    ) -> None:
        super().__init__(host.config, host.training, host.d_model, half, host.names)
        self.device, self.engine = torch.device(device), engine or _engine_of(torch.device(device))
        self.scalars[:] = host.scalars
        trees = (Tensors(part, self.device) for part in (host.weights, host.mean, host.square))
        self.weights, self.mean, self.square = trees
        self.silent = torch.tensor(host.silent, device=self.device)
        self.fired, self.fired_since = (torch.zeros_like(self.silent) for _ in range(2))
        self.norms = torch.ones(self.d_sae, device=self.device)
        keeps_decoder = half and self.may_be_dense
        self.enc_half, self.dec_half = (
            torch.empty(
                self.d_sae if kept else 0, self.d_model, dtype=torch.bfloat16, device=self.device
            )
            for kept in (half, keeps_decoder)
        )
        self.W_product = self.enc_half if half else self.weights.W_enc_T
        self.g = torch.empty(0, self.d_model, device=self.device)
        """Errors of the last batch up to a factor, (token, d_model)."""
        self.given: dict[str, np.ndarray] = {}
        self.steps: list[tuple[int, int, Tensor, Tensor]] = []
        self.refresh()
        self.begin_report()

    def arrays(self) -> dict[str, np.ndarray]:
        """Copies; what is written into them goes to the device when `refresh` is called."""
        self.given = {name: tensor.cpu().numpy() for name, tensor in self._held().items()} | {
            "scalars": self.scalars
        }
        return self.given

    def _held(self) -> dict[str, Tensor]:
        flat = {"weights": self.weights.flat, "mean": self.mean.flat, "square": self.square.flat}
        return flat | {"silent": self.silent}

    def refresh(self) -> None:
        for name, tensor in self._held().items() if self.given else ():
            tensor.copy_(torch.from_numpy(self.given[name]))
        self.given = {}
        for half, whole in (
            (self.enc_half, self.weights.W_enc_T),
            (self.dec_half, self.weights.W_dec),
        ):
            if len(half):
                half.copy_(whole)
        self.measure_norms()
        self.longest = int(self.silent.max())

    def coefficients(self) -> Tensor:
        """The vectors as the kind's rules read them."""
        seen = self.rules.coefficients
        return self.weights.vectors if seen is None else seen(self.weights.vectors, torch.exp)

    def measure_norms(self) -> None:
        """Norms of the decoder's rows from the rows.

        A step leaves the same but for rounding, and no checkpoint holds them: measured at the end
        of every chunk, they are after a stop what they were before.
        """
        if not self.unit:
            torch.linalg.vector_norm(self.weights.W_dec, dim=1, out=self.norms)

    def n_dead(self) -> int:
        """Features that did not fire for `dead_after` tokens."""
        # an upper bound, so that the device need not be asked
        if self.longest < self.training.dead_after:
            return 0
        dead = self.silent >= self.training.dead_after
        self.longest, n_dead = torch.stack([self.silent.max(), dead.sum()]).tolist()
        return n_dead

    def end_step(self, step: int, n_tokens: int, squared: Tensor, penalised: Tensor) -> None:
        """Count a step: sums over its tokens of squared error and penalised; `fired` has counts."""
        self.given = {}
        self.silent += n_tokens
        self.silent.masked_fill_(self.fired > 0, 0)
        self.longest += n_tokens
        self.fired_since += self.fired
        self.steps.append((step, n_tokens, squared, penalised))

    def settle(self) -> None:
        """Wait for the steps done and take their losses; TrainingDivergedError where not finite."""
        if not self.steps:
            return
        losses = torch.stack([torch.stack(step[2:]) for step in self.steps]).cpu().double()
        for (step, n_tokens, *_), (squared, penalised) in zip(
            self.steps, losses.tolist(), strict=True
        ):
            if not np.isfinite(squared):
                raise TrainingDivergedError(self.where(step, "the loss is not a finite number"))
            self.squared += squared
            self.penalised += self.penalty_at(step) * penalised
            self.tokens += n_tokens
        self.steps = []

    def begin_report(self) -> None:
        """Set the sums behind `Report` to 0."""
        self.squared = self.penalised = 0.0
        self.tokens = 0
        self.fired_since.zero_()

    def take_report(self) -> Report:
        self.settle()
        report = Report.of(
            self.squared, self.penalised, self.tokens, self.fired_since.cpu().numpy()
        )
        self.begin_report()
        return report

    def export(self) -> SaeState:
        flat = self.weights.flat.cpu().numpy()
        host = SaeState(self.config, self.training, self.d_model, False, self.names, flat)
        host.scalars[:] = self.scalars
        return host

    def tokens_silent(self) -> np.ndarray:
        return self.silent.cpu().numpy()

    def mean_norms(self, chosen: np.ndarray) -> tuple[float, float]:
        marked = torch.from_numpy(chosen).to(self.device)
        enc = torch.linalg.vector_norm(self.weights.W_enc_T, dim=1)[marked]
        return float(enc.mean()), float(self.norms[marked].mean())

    def replace(
        self, features: np.ndarray, W_enc_T: np.ndarray, W_dec: np.ndarray, vectors: np.ndarray
    ) -> None:
        at = torch.from_numpy(features).to(self.device)
        new = [
            torch.tensor(array, dtype=torch.float32, device=self.device)
            for array in (W_enc_T, W_dec, vectors)
        ]
        for tree, (enc, dec, vec) in (
            (self.weights, new),
            (self.mean, [0, 0, 0]),
            (self.square, [0, 0, 0]),
        ):
            tree.W_enc_T[at], tree.W_dec[at], tree.vectors[:, at] = enc, dec, vec
        self.silent[at] = 0
        self.refresh()


def check_device(device: torch.device) -> None:
    """Raise InputError when torch has no such device here."""
    try:
        torch.empty(0, device=device)
    except (RuntimeError, AssertionError) as error:
        raise InputError(
            "device",
            str(device),
            f"torch must see it ({str(error).splitlines()[0]})",
            "Say cpu, or see `homolog doctor`.",
        ) from error


def _engine_of(device: torch.device) -> ModuleType:
    triton = device.type == "cuda" and importlib.util.find_spec("triton") is not None
    name = "device_kernels" if triton else "device_plain"
    return importlib.import_module(f"homolog.dictionaries.training.{name}")
