"""Scans whose state is a matrix for each head: what linear attention and the delta rule share.

With a[t] = exp(log_decay[t]), broadcast over the state, and S[-1] the initial state:

    S'[t] = a[t] * S[t-1]
    w[t]  = v[t]                              linear attention (`linear_attention.py`)
          = beta[t] (v[t] - S'[t]^T k[t])     delta rule (`delta.py`)
    S[t]  = S'[t] + k[t] w[t]^T
    y[t]  = S[t]^T q[t]

The columns of S, one for each value channel, do not mix; the kernels divide the work by them.  With
g[t] the gradient that reaches S[t], from y[t], from a state that was read, and from later ones:

    g[t]  = q[t] dy[t]^T + dstates[t] + a[t+1] * g'[t+1]
    dw[t] = g[t]^T k[t]
    g'[t] = g[t]                                        linear attention; dv = dw
          = g[t] - beta[t] k[t] dw[t]^T                 delta rule; dv = beta dw

    dq[t]         = S[t] dy[t]
    dk[t]         = g[t] w[t]                           delta rule: less S'[t] beta[t] dw[t]
    dbeta[t]      = dw[t] . (v[t] - S'[t]^T k[t])
    dlog_decay[t] = g'[t] * S'[t]

summed over what is broadcast; the initial state's is a[0] * g'[0].  No decay is divided by, and
none is multiplied up over positions, so that decays of any size are right, zero included.

Backends are those of `selective.py`; the kernels are in `matrix_cpu.py` and `matrix_gpu.py`.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

from homolog.errors import InputError
from homolog.models.scan.backends import Backend, backend_of, kernels_of
from homolog.models.scan.inputs import MatrixInputs, ScanGradients, ScanResult, positions_of

MATRIX = {"numba": "matrix_cpu", "triton": "matrix_gpu"}  # the modules of the kernels


def matrix_scan(
    inputs: MatrixInputs,
    initial_state: Tensor | None,
    return_states: bool | Sequence[int],
    backend: Backend | None,
) -> ScanResult:
    """Run the recurrence of the module docstring; arguments as in the two scans that call it."""
    _check(inputs, initial_state)
    length = inputs.v.shape[1]
    if inputs.log_decay.ndim == 4:
        inputs = inputs._replace(log_decay=inputs.log_decay[..., None])
    asked = positions_of(return_states, length)
    read = sorted(set(asked))
    chosen = backend or backend_of(inputs.v.device)
    tensors = [t for t in (initial_state, *inputs) if t is not None]
    if chosen == "torch" or length == 0:
        y, last, states = _loop(inputs, initial_state, read)
    elif torch.is_grad_enabled() and any(t.requires_grad for t in tensors):
        y, last, states = _Scan.apply(chosen, read, initial_state, *inputs)  # type: ignore[misc]
    else:
        forward = kernels_of(chosen, MATRIX).forward
        y, last, states, _ = forward(inputs, initial_state, read, False)
    if asked != read:
        states = states[:, [read.index(position) for position in asked]]
    return ScanResult(y, last, None if return_states is False else states)


def _check(inputs: MatrixInputs, initial_state: Tensor | None) -> None:
    """Refuse shapes that do not fit those of v and k, and dtypes that differ."""
    q, k, v, log_decay, beta = inputs
    batch, length, heads, d_v = v.shape
    groups, d_k = k.shape[2:]
    if not groups or heads % groups:
        requirement = f"it must divide the {heads} heads of v"
        raise InputError("heads of k", groups, requirement, "Repeat or select heads first.")
    decays = [(batch, length, heads, rows) for rows in (1, d_k)]
    if log_decay.ndim == 5:
        decays = [(*shape, columns) for shape in decays for columns in (1, d_v)]
    fitting = {
        "k": (k, [(batch, length, groups, d_k)]),
        "q": (q, [(batch, length, groups, d_k)]),
        "log_decay": (log_decay, decays),
        "beta": (beta, [(batch, length, heads)]),
        "initial_state": (initial_state, [(batch, heads, d_k, d_v)]),
    }
    for name, (tensor, shapes) in fitting.items():
        if tensor is not None and tuple(tensor.shape) not in shapes:
            needed = " or ".join(map(str, dict.fromkeys(shapes)))
            requirement = f"the scan needs the shape {needed}"
            raise InputError(name, tuple(tensor.shape), requirement, "Pass it in that shape.")
    dtypes = {t.dtype for t in (*inputs, initial_state) if t is not None}
    if len(dtypes) != 1:
        requirement = "all that the scan takes must share one"
        raise InputError("dtype", sorted(map(str, dtypes)), requirement, "Convert them first.")


def _loop(
    inputs: MatrixInputs, initial_state: Tensor | None, read: list[int]
) -> tuple[Tensor, Tensor, Tensor]:
    q, k, v, log_decay, beta = inputs
    batch, length, heads, d_v = v.shape
    repeats = heads // k.shape[2]
    S = v.new_zeros(batch, heads, k.shape[3], d_v) if initial_state is None else initial_state
    wanted, ys, states = set(read), [], {}
    for t in range(length):
        q_t, k_t = (x[:, t].repeat_interleave(repeats, 1)[..., None] for x in (q, k))
        S = torch.exp(log_decay[:, t]) * S
        write = v[:, t]
        if beta is not None:
            write = beta[:, t, :, None] * (write - (S * k_t).sum(2))
        S = S + k_t * write[:, :, None, :]
        ys.append((S * q_t).sum(2))
        if t in wanted:
            states[t] = S
    y = torch.stack(ys, 1) if ys else torch.zeros_like(v)
    none = S.new_empty(batch, 0, *S.shape[1:])
    return y, S, torch.stack([states[t] for t in read], 1) if read else none


class _Scan(torch.autograd.Function):
    """The kernels of a backend as one differentiable operation."""

    @staticmethod
    def forward(
        ctx: Any,
        backend: str,
        read: list[int],
        initial_state: Tensor | None,
        *inputs: Tensor | None,
    ) -> tuple[Tensor, Tensor, Tensor]:
        scan = MatrixInputs(*inputs)  # type: ignore[arg-type]
        y, last, states, chunks = kernels_of(backend, MATRIX).forward(
            scan, initial_state, read, True
        )
        ctx.save_for_backward(*inputs, chunks)
        ctx.backend, ctx.read = backend, read
        # zeros for states that nobody differentiates would be large
        ctx.set_materialize_grads(False)
        return y, last, states

    @staticmethod
    @once_differentiable
    def backward(
        ctx: Any, dy: Tensor | None, dlast: Tensor | None, dstates: Tensor | None
    ) -> tuple[Any, ...]:
        *saved, chunks = ctx.saved_tensors
        inputs = MatrixInputs(*saved)
        of = ScanGradients(torch.zeros_like(inputs.v) if dy is None else dy, dlast, dstates)
        *grads, initial = kernels_of(ctx.backend, MATRIX).backward(inputs, chunks, ctx.read, of)
        asked = zip((initial, *grads), ctx.needs_input_grad[2:], strict=True)
        return (None, None, *(grad if needed else None for grad, needed in asked))
