"""What RWKV-4 reads out of its states, position by position, with no state kept.

    y[t] = (n[t-1] + e^u w[t] v[t]) / (d[t-1] + e^u w[t])
    n[t] = a n[t-1] + w[t] v[t],    d[t] = a d[t-1] + w[t]

for each channel, with n and d zero before the first position.  All float64, on the CPU; where
gradients or states are asked for, `mixers/time_mixing.py` has the same in parts.
"""

from __future__ import annotations

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from homolog.compiled import jit
from homolog.models.scan.cpu import OPTIONS, array_of, over_tasks

BLOCK = 128  # channels of a task


def wkv(
    w: Float[Tensor, "batch position channel"],
    v: Float[Tensor, "batch position channel"],
    decay: Float[Tensor, " channel"],
    bonus: Float[Tensor, " channel"],
) -> Float[Tensor, "batch position channel"]:
    """y in the dtype of v.

    w = e^key, decay = a and bonus = e^u in float64; v in float32 or float64.
    """
    arrays = w_, v_, _, _ = tuple(map(array_of, (w, v, decay, bonus)))
    y = np.empty_like(v_)
    over_tasks(len(w_), w_.shape[2], BLOCK, lambda b, lo, hi: _wkv(b, lo, hi, *arrays, y))
    return torch.from_numpy(y)


@jit(**OPTIONS)
def _wkv(row, lo, hi, w, v, decay, bonus, y):  # type: ignore[no-untyped-def]
    a, e_u, width = decay[lo:hi], bonus[lo:hi], hi - lo
    n, d = np.zeros(width), np.zeros(width)
    for t in range(w.shape[1]):
        w_t, v_t, y_t = w[row, t, lo:hi], v[row, t, lo:hi], y[row, t, lo:hi]
        for j in range(width):
            written = w_t[j] * v_t[j]
            y_t[j] = (n[j] + e_u[j] * written) / (d[j] + e_u[j] * w_t[j])
            n[j] = a[j] * n[j] + written
            d[j] = a[j] * d[j] + w_t[j]
