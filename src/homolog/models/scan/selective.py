"""Selective scan: the recurrence of Mamba-1, forward and backward, with every state readable.

For each batch row, channel d and state dimension n, with h[-1] the initial state (zero unless
given):

    h[t, d, n] = exp(dt[t, d] * A[d, n]) * h[t-1, d, n] + dt[t, d] * B[t, n] * u[t, d]
    y[t, d]    = sum over n of C[t, n] * h[t, d, n]

With g[t] the gradient that reaches h[t], from y[t], from a state that was read, and from g[t+1]
through the decay:

    g[t] = C[t] dy[t] + dstates[t] + exp(dt[t+1] A) g[t+1]

and every gradient is a sum of products of g with what stands beside it above; the initial state's
is exp(dt[0] A) g[0].

Source: Gu and Dao, "Mamba: Linear-Time Sequence Modeling with Selective State Spaces", 2023,
algorithm 2, with the simplified discretisation of B that all released Mamba models use.

Backends: `running.py`; the kernels are in `cpu.py` and `gpu.py`.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from jaxtyping import Float
from torch import Tensor

from homolog.errors import InputError
from homolog.models.scan.inputs import ScanInputs, ScanResult
from homolog.models.scan.running import Backend, Recurrence


def selective_scan(
    u: Float[Tensor, "batch position d_inner"],
    dt: Float[Tensor, "batch position d_inner"],
    A: Float[Tensor, "d_inner d_state"],
    B: Float[Tensor, "batch position d_state"],
    C: Float[Tensor, "batch position d_state"],
    initial_state: Float[Tensor, "_ _ _"] | None = None,
    return_states: bool | Sequence[int] = False,
    backend: Backend | None = None,
) -> ScanResult:
    """Run the recurrence of the module docstring.

    u is the SSM input (after convolution and SiLU), dt the step after softplus, A negative; all
    float32 or float64. `return_states` is True for all positions or the positions to read (negative
    ones count from the end); memory is used for those alone.  Gradients flow from y, last_state and
    states to u, dt, A, B, C and initial_state.
    Errors: InputError when an initial state has a wrong shape, dtypes differ or a position lies
    outside.
    """
    expected = (u.shape[0], u.shape[2], A.shape[1])
    inputs = ScanInputs(u, dt, A, B, C)
    tensors = [*inputs]
    if initial_state is not None:
        tensors.append(initial_state)
        if tuple(initial_state.shape) != expected:
            requirement = f"the scan needs the shape {expected}"
            remedy = "Pass (batch, d_inner, d_state), or None for zeros."
            raise InputError("initial_state", tuple(initial_state.shape), requirement, remedy)
    dtypes = {t.dtype for t in tensors}
    if len(dtypes) != 1:
        requirement = "u, dt, A, B, C and the state must share one"
        raise InputError("dtype", sorted(map(str, dtypes)), requirement, "Convert them first.")
    return SELECTIVE.run(inputs, initial_state, return_states, backend)


def _loop(
    inputs: ScanInputs, initial_state: Tensor | None, read: list[int]
) -> tuple[Tensor, Tensor, Tensor]:
    u, dt, A, B, C = inputs
    batch, length, d_inner = u.shape
    h = u.new_zeros(batch, d_inner, A.shape[1]) if initial_state is None else initial_state
    wanted, ys, states = set(read), [], {}
    for t in range(length):
        decay = torch.exp(dt[:, t, :, None] * A)
        h = decay * h + (dt[:, t] * u[:, t])[..., None] * B[:, t, None, :]
        ys.append((h * C[:, t, None, :]).sum(-1))
        if t in wanted:
            states[t] = h
    y = torch.stack(ys, 1) if ys else torch.zeros_like(u)
    none = h.new_empty(batch, 0, *h.shape[1:])
    return y, h, torch.stack([states[t] for t in read], 1) if read else none


SELECTIVE = Recurrence(ScanInputs, _loop, {"numba": "cpu", "triton": "gpu"})
