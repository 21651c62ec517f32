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

from homolog.dictionaries.training.bounds import Bounds
from homolog.dictionaries.training.state import Report, SaeState, Trainee, TrainingDivergedError
from homolog.errors import InputError


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
        own = host.columns if host.confined else None
        super().__init__(host.config, host.training, host.d_model, half, host.names, own)
        self.device, self.engine = torch.device(device), engine or _engine_of(torch.device(device))
        self.scalars[:] = host.scalars
        trees = host.weights, host.mean, host.square
        self._hold([self._own(tree.flat) for tree in trees], self.device)
        self.bounds = Bounds.of(self.config, self.weights)
        self.silent = self._own(host.silent)
        self.fired, self.fired_since = (torch.zeros_like(self.silent) for _ in range(2))
        self.norms = torch.ones(self.d_sae, device=self.device)
        self.columns_there = self._own(self.columns)
        """`columns` where the weights lie."""
        self.g = torch.empty(0, self.d_model, device=self.device)
        """Errors of the last batch up to a factor, (token, d_model)."""
        self.given: dict[str, np.ndarray] = {}
        self.steps: list[tuple[int, int, float, Tensor, Tensor]] = []
        """Since `settle`: step, tokens, weight of the penalty, squared error, what is penalised."""
        self.refresh()
        self.begin_report()

    def _own(self, array: np.ndarray) -> Tensor:
        return torch.tensor(array, device=self.device)

    def _on_host(self, values: Tensor) -> np.ndarray:
        return values.cpu().numpy()

    def arrays(self) -> dict[str, np.ndarray]:
        """Copies; what is written into them goes to the device when `refresh` is called."""
        held = {name: self._on_host(tensor) for name, tensor in self._held().items()}
        self.given = held | self._held_on_host()
        return self.given

    def refresh(self) -> None:
        for name, tensor in self._held().items() if self.given else ():
            tensor.copy_(torch.from_numpy(self.given[name]))
        self.given = {}
        super().refresh()
        self.longest = int(self.silent.max())

    def measure_norms(self) -> None:
        """Norms of the decoder's rows from the rows.

        A step leaves the same but for rounding, and no checkpoint holds them: measured at the end
        of every chunk, they are after a stop what they were before.
        """
        if not self.unit:
            torch.linalg.vector_norm(self.weights.W_dec, dim=1, out=self.norms)

    def _encoder_norms(self) -> Tensor:
        return torch.linalg.vector_norm(self.weights.W_enc_T, dim=1)

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
        self.steps.append((step, n_tokens, self.penalty_at(step), squared, penalised))
        if self.target_l0 is not None:
            self.target_l0.follow(step, float(self.fired.sum()) / n_tokens)

    def settle(self) -> None:
        """Wait for the steps done and take their losses; TrainingDivergedError where not finite."""
        if not self.steps:
            return
        losses = torch.stack([torch.stack(step[3:]) for step in self.steps]).cpu().double()
        for step_done, (squared, penalised) in zip(self.steps, losses.tolist(), strict=True):
            step, n_tokens, weight, *_ = step_done
            if not np.isfinite(squared):
                raise TrainingDivergedError(self.where(step, "the loss is not a finite number"))
            self.squared += squared
            self.penalised += weight * penalised
            self.tokens += n_tokens
        self.steps = []

    def take_report(self) -> Report:
        self.settle()
        return super().take_report()

    def export(self) -> SaeState:
        flat = self._on_host(self.weights.flat)
        host = SaeState(self.config, self.training, self.d_model, False, self.names, flat)
        host.scalars[:], host.target_l0 = self.scalars, self.target_l0
        return host


def check_device(device: torch.device) -> None:
    """Raise InputError when torch has no such device here."""
    try:
        torch.empty(0, device=device)
    except (RuntimeError, AssertionError) as error:
        requirement = f"torch must see it ({str(error).splitlines()[0]})"
        remedy = "Say cpu, or see `homolog doctor`."
        raise InputError("device", str(device), requirement, remedy) from error


def _engine_of(device: torch.device) -> ModuleType:
    triton = device.type == "cuda" and importlib.util.find_spec("triton") is not None
    name = "device_kernels" if triton else "device_plain"
    return importlib.import_module(f"homolog.dictionaries.training.{name}")
