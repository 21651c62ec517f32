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

Backends: `running.py`; the kernels are in `matrix_cpu.py` and `matrix_gpu.py`.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from homolog.errors import InputError
from homolog.models.scan.inputs import MatrixInputs, ScanResult
from homolog.models.scan.running import Backend, Recurrence


def matrix_scan(
    inputs: MatrixInputs,
    initial_state: Tensor | None,
    return_states: bool | Sequence[int],
    backend: Backend | None,
) -> ScanResult:
    """Run the recurrence of the module docstring; arguments as in the two scans that call it."""
    _check(inputs, initial_state)
    if inputs.log_decay.ndim == 4:
        inputs = inputs._replace(log_decay=inputs.log_decay[..., None])
    return MATRIX.run(inputs, initial_state, return_states, backend)


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


MATRIX = Recurrence(MatrixInputs, _loop, {"numba": "matrix_cpu", "triton": "matrix_gpu"})
