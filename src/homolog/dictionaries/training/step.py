"""The step of a training on the CPU.

Only the product x W_enc touches all features of a token (torch.mm, bfloat16 where native).
Everything after it touches active features alone (`sparse.py`): tokens are decoded and
differentiated in blocks, then each feature's gradient is summed and used.  Where many features are
active, as in the first steps, products of whole matrices are cheaper (`dense.py`).
Blocks of tokens and ranges of features may be spread over threads; their sums are in a fixed order,
so the bytes do not depend on how.
"""

from __future__ import annotations

import numpy as np
import torch

from homolog.dictionaries.configs import TrainingConfig
from homolog.dictionaries.hardware import Threads
from homolog.dictionaries.training import rows
from homolog.dictionaries.training.dense import dense_step
from homolog.dictionaries.training.revive import revive
from homolog.dictionaries.training.scratch import DENSE, Job, scratch_for
from homolog.dictionaries.training.sparse import sparse_step
from homolog.dictionaries.training.state import SaeState, TrainingDivergedError

_PIECE = 512  # features that a thread updates at once
_EPSILON = 1e-8
ALONE = Threads(1)


def take_step(
    state: SaeState, x: torch.Tensor, seen: torch.Tensor, step: int, threads: Threads = ALONE
) -> None:
    """One step of Adam on a batch.

    x: float32, contiguous.  seen: what products see of it, bfloat16 or x itself.  Raises
    TrainingDivergedError when the loss is not finite.
    """
    scratch, penalty = scratch_for(state, len(x)), state.penalty_at(step)
    job = Job(state, x, seen, penalty / len(x), scratch, threads)
    many = state.may_be_dense and state.scalars[0] > DENSE[state.half] * state.d_sae
    update = None if many else sparse_step(job)
    if update is None:
        update = dense_step(job)
    squared = float(scratch.squared.sum())
    if not np.isfinite(squared):
        raise TrainingDivergedError(state.where(step, "the loss is not a finite number"))
    rates = rates_at(state.training, step)

    def move(first: int) -> None:
        last = min(first + _PIECE, state.d_sae)
        update(first, last, rates)
        if not state.unit:
            rows.row_norms(state.weights.W_dec[first:last], state.norms[first:last])

    threads.run(move, range(0, state.d_sae, _PIECE))
    w, mean, square = state.weights, state.mean, state.square
    rows.adam(w.b_dec, scratch.d_bias.sum(0), mean.b_dec, square.b_dec, rates)
    for name in state.kind.thresholds:
        row = w.vectors[state.vectors.index(name)]
        np.maximum(row, 0, out=row)
    state.put_back()
    state.silent += len(x)
    state.silent[state.fired > 0] = 0
    state.add_to_report(squared, penalty * float(scratch.penalised.sum()), len(x))
    if state.target_l0 is not None:
        state.target_l0.follow(step, float(state.fired.sum()) / len(x))


def advance(
    state: SaeState, x: torch.Tensor, seen: torch.Tensor, step: int, threads: Threads = ALONE
) -> None:
    """The steps of a chunk of tokens, then dead features drawn anew; arguments as `take_step`."""
    size = state.training.batch
    parts = [slice(first, first + size) for first in range(0, len(x) - size + 1, size)]
    for i, part in enumerate(parts):
        take_step(state, x[part], seen[part], step + i, threads)
    error = scratch_for(state, size).g[:size]
    revive(state, x[parts[-1]], error, step + len(parts) - 1)


def rates_at(training: TrainingConfig, step: int) -> tuple[np.float32, ...]:
    """Of Adam at a step: rate, beta1, beta2, 1 / (1 - beta1^t), 1 / (1 - beta2^t), epsilon."""
    t, betas = step + 1, (training.beta1, training.beta2)
    corrections = (1 / (1 - beta**t) for beta in betas)
    numbers = training.lr_at(step), *betas, *corrections, _EPSILON
    return tuple(np.float32(number) for number in numbers)
