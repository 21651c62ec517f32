"""Linear attention with a decay: the recurrence of Mamba-2, gated linear attention and their kin.

For each batch row and head, with S (d_k, d_v) and S[-1] the initial state (zero unless given):

    S[t] = exp(log_decay[t]) * S[t-1] + k[t] v[t]^T
    y[t] = S[t]^T q[t]

    log_decay for each   architectures                 q, k, v
    head                 Mamba-2, mLSTM, RetNet        C, B, dt x: the write is scaled beforehand
    key channel          gated linear attention, Mamba-1 with a head for each channel
    value channel        RG-LRU, RWKV-4                d_k = 1

Sources: Katharopoulos et al., "Transformers are RNNs", 2020, section 3.3, without the normaliser;
Yang et al., "Gated Linear Attention Transformers with Hardware-Efficient Training", 2024, table 1,
which lists the architectures above by their decay.
Gradients and backends: `matrix.py`.
"""

from __future__ import annotations

from collections.abc import Sequence

from jaxtyping import Float
from torch import Tensor

from homolog.models.scan.inputs import MatrixInputs, ScanResult
from homolog.models.scan.matrix import matrix_scan
from homolog.models.scan.running import Backend


def linear_scan(
    q: Float[Tensor, "batch position group d_k"],
    k: Float[Tensor, "batch position group d_k"],
    v: Float[Tensor, "batch position head d_v"],
    log_decay: Float[Tensor, "batch position head _ _"],
    initial_state: Float[Tensor, "_ _ _ _"] | None = None,
    return_states: bool | Sequence[int] = False,
    backend: Backend | None = None,
) -> ScanResult:
    """Outputs and states of linear attention with a decay, all float32 or float64.

    log_decay is (batch, position, head, 1 | d_k, 1 | d_v), of any value, -inf too; the initial
    state (batch, head, d_k, d_v).  Head h of v uses head h // (heads / groups) of q and k, which
    are not repeated in memory.  `return_states` is True for all positions or the positions to read
    (negative ones count from the end); memory is used for those alone.  Gradients flow from y,
    last_state and states to q, k, v, log_decay and initial_state.
    Errors: InputError when shapes do not fit, dtypes differ or a position lies outside.
    """
    inputs = MatrixInputs(q, k, v, log_decay, None)
    return matrix_scan(inputs, initial_state, return_states, backend)
