"""The gated delta rule: the recurrence of DeltaNet, Qwen3-Next, OLMo-Hybrid and Kimi Linear.

For each batch row and head, with S (d_k, d_v) and S[-1] the initial state (zero unless given):

    S'   = exp(log_decay[t]) * S[t-1]
    S[t] = S' + beta[t] k[t] (v[t] - S'^T k[t])^T
    y[t] = S[t]^T q[t]

What the state holds under the key k[t] moves towards v[t] by the share beta[t] (for a key of length
one).  log_decay is one for each head (Qwen3-Next, Qwen3.5, OLMo-Hybrid) or key channel (Kimi
Linear).  Keys and queries are used as given: normalise and scale them beforehand.

Sources: Yang, Kautz and Hatamizadeh, "Gated Delta Networks: Improving Mamba2 with Delta Rule",
2025, section 3.1; Kimi Team, "Kimi Linear", 2025, equation 1, for a decay of each key channel.
Gradients and backends: `matrix.py`.
"""

from __future__ import annotations

from collections.abc import Sequence

from jaxtyping import Float
from torch import Tensor

from homolog.models.scan.inputs import MatrixInputs, ScanResult
from homolog.models.scan.matrix import matrix_scan
from homolog.models.scan.running import Backend


def delta_scan(
    q: Float[Tensor, "batch position group d_k"],
    k: Float[Tensor, "batch position group d_k"],
    v: Float[Tensor, "batch position head d_v"],
    beta: Float[Tensor, "batch position head"],
    log_decay: Float[Tensor, "batch position head _"],
    initial_state: Float[Tensor, "_ _ _ _"] | None = None,
    return_states: bool | Sequence[int] = False,
    backend: Backend | None = None,
) -> ScanResult:
    """Outputs and states of the gated delta rule, all float32 or float64.

    log_decay is (batch, position, head, 1 | d_k), of any value, -inf too; the rest as in
    `linear_scan`.  Gradients flow from y, last_state and states to q, k, v, beta, log_decay and
    initial_state.
    Errors: InputError when shapes do not fit, dtypes differ or a position lies outside.
    """
    inputs = MatrixInputs(q, k, v, log_decay, beta)
    return matrix_scan(inputs, initial_state, return_states, backend)
