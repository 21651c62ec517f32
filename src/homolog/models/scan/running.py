"""How a scan runs, whichever recurrence it is: backend, states that are read, and gradients.

Backends
    numba   CPU
    triton  CUDA devices
    torch   any device: one tensor operation per position, differentiable by autograd.  Slow; the
            reference
The backend follows the device unless it is named.  The first two keep the state at the start of
every chunk of positions and recompute the states inside a chunk in the backward pass.
"""

from __future__ import annotations

import importlib
import importlib.util
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

from homolog.errors import InputError
from homolog.models.scan.inputs import ScanGradients, ScanResult, positions_of

Backend = Literal["numba", "triton", "torch"]


@dataclass(frozen=True)
class Recurrence:
    """What runs one kind of recurrence.

    inputs   the type of what it takes: a tuple of tensors, whose `values` have the shape of y
    loop     (inputs, initial state, positions read) -> y, last state, states; in torch
    kernels  by backend, the module with `forward` and `backward`
    """

    inputs: Callable[..., Any]
    loop: Callable[[Any, Tensor | None, list[int]], tuple[Tensor, Tensor, Tensor]]
    kernels: dict[str, str]

    def module(self, backend: str) -> Any:
        """That of a backend; imported when used, since a CPU has no need of Triton."""
        if backend == "triton" and importlib.util.find_spec("triton") is None:
            requirement = "Triton is not installed"
            remedy = "Use numba, or torch for another device."
            raise InputError("backend", backend, requirement, remedy)
        return importlib.import_module(f"homolog.models.scan.{self.kernels[backend]}")

    def run(
        self,
        inputs: Any,
        initial_state: Tensor | None,
        return_states: bool | Sequence[int],
        backend: Backend | None,
    ) -> ScanResult:
        """The scan of inputs (batch, position, ...) that were checked."""
        length = inputs.values.shape[1]
        asked = positions_of(return_states, length)
        read = sorted(set(asked))
        chosen = backend or backend_of(inputs.values.device)
        given = [t for t in (initial_state, *inputs) if t is not None]
        if chosen == "torch" or length == 0:
            y, last, states = self.loop(inputs, initial_state, read)
        elif torch.is_grad_enabled() and any(t.requires_grad for t in given):
            scanned = _Scan.apply(self, chosen, read, initial_state, *inputs)
            y, last, states = scanned  # type: ignore[misc]
        else:
            y, last, states, _ = self.module(chosen).forward(inputs, initial_state, read, False)
        if asked != read:
            states = states[:, [read.index(position) for position in asked]]
        return ScanResult(y, last, None if return_states is False else states)


def backend_of(device: torch.device) -> Backend:
    """The backend of a device, unless a user names another."""
    if device.type == "cpu":
        return "numba"
    has_triton = device.type == "cuda" and importlib.util.find_spec("triton") is not None
    return "triton" if has_triton else "torch"


class _Scan(torch.autograd.Function):
    """The kernels of a backend as one differentiable operation."""

    @staticmethod
    def forward(
        ctx: Any,
        recurrence: Recurrence,
        backend: str,
        read: list[int],
        initial_state: Tensor | None,
        *inputs: Tensor | None,
    ) -> tuple[Tensor, Tensor, Tensor]:
        forward = recurrence.module(backend).forward
        y, last, states, chunks = forward(recurrence.inputs(*inputs), initial_state, read, True)
        ctx.save_for_backward(*inputs, chunks)
        ctx.recurrence, ctx.backend, ctx.read = recurrence, backend, read
        # zeros for states that nobody differentiates would be large
        ctx.set_materialize_grads(False)
        return y, last, states

    @staticmethod
    @once_differentiable
    def backward(
        ctx: Any, dy: Tensor | None, dlast: Tensor | None, dstates: Tensor | None
    ) -> tuple[Any, ...]:
        *saved, chunks = ctx.saved_tensors
        inputs = ctx.recurrence.inputs(*saved)
        of = ScanGradients(torch.zeros_like(inputs.values) if dy is None else dy, dlast, dstates)
        backward = ctx.recurrence.module(ctx.backend).backward
        *grads, initial = backward(inputs, chunks, ctx.read, of)
        asked = zip((initial, *grads), ctx.needs_input_grad[3:], strict=True)
        return (None, None, None, *(grad if needed else None for grad, needed in asked))
