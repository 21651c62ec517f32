"""How a state space model begins, so that it learns to copy: near linear attention.

    h_t = exp(dt A) h_{t-1} + dt B_t x_t,    y_t = C_t h_t

With the rows of C those of B a position reads what was written at tokens like its own; with A near
0 what was written stays through the window; with dt near `STEP` it stands out beside the input.
From the usual start (rows drawn apart, dt between 0.001 and 0.1) models of this size take several
times as many tokens [Trockman 2024].

[Trockman 2024] "Mimetic Initialization Helps State Space Models Learn to Recall", arXiv 2410.11135.
"""

from __future__ import annotations

import math
from typing import Any

import torch

STEP = 0.3
SLOWEST, FASTEST = 0.01, 1.0  # of -A, over the states of a channel
SOFTPLUS_INVERSE = math.log(math.expm1(STEP))


@torch.no_grad()
def near_linear_attention(hf: Any) -> None:
    """Change the fresh weights of a `MambaForCausalLM` so that it begins as above."""
    for block in hf.backbone.layers:
        mixer = block.mixer
        rank, states = mixer.time_step_rank, mixer.ssm_state_size
        rows = mixer.x_proj.weight
        rows[rank + states :] = rows[rank : rank + states]
        decays = torch.linspace(math.log(SLOWEST), math.log(FASTEST), states)
        mixer.A_log.copy_(decays.expand_as(mixer.A_log))
        mixer.dt_proj.bias.fill_(SOFTPLUS_INVERSE)
