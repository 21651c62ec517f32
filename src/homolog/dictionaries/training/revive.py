"""Dead features drawn anew, for kinds whose loss does not train them [Bricken 2023].

Source: "Towards Monosemanticity", transformer-circuits.pub.

Each gets a token, drawn with a probability proportional to its squared error, and the direction e /
||e|| of that error for its decoder; its encoder column is the same direction at a fifth of the mean
norm of the others, with a bias at which it fires where the input lies more than half as far along
it as at that token; its moments start at 0.
"""

from __future__ import annotations

import numpy as np
import torch

from homolog.dictionaries.seeds import generator
from homolog.dictionaries.training.state import Trainee

_NORM = 0.2  # of an encoder column, to the mean of the others


def revive(state: Trainee, x: torch.Tensor, error: np.ndarray, step: int) -> int:
    """Draw the dead features of a state anew after a step on the batch x; returns how many.

    x (token, d_model); error (token, d_model), up to a common factor.  A function of state, batch
    and seeds.
    """
    training = state.training
    if not state.kind.redraws or state.config.is_held:
        return 0
    if step + 1 > training.revive_until * training.n_steps:
        return 0
    silent = state.tokens_silent()
    dead = np.flatnonzero(silent >= training.dead_after)
    weight = np.square(error.astype(np.float64)).sum(1)
    n = min(len(dead), int((weight > 0).sum()))
    if n == 0:
        return 0
    rng = generator(training.seed, *state.names, "revive", step)
    dead = np.sort(rng.permutation(dead)[:n])
    chosen = rng.choice(len(weight), n, replace=False, p=weight / weight.sum())
    # the error counts what is there too much
    direction = -error[chosen].astype(np.float64) * state.inside(dead)
    direction /= np.linalg.norm(direction, axis=1, keepdims=True)
    along = np.einsum("ij,ij->i", direction, x.numpy()[chosen].astype(np.float64))
    alive = silent < training.dead_after
    encoder, decoder = state.kind.start(state.config).norm / _NORM, 1.0
    if alive.any():
        encoder, decoder = state.mean_norms(alive)
    size = _NORM * encoder
    vectors = np.zeros((len(state.vectors), n))
    for name in state.kind.biases:
        vectors[state.vectors.index(name)] = -0.5 * size * np.maximum(along, 0)
    state.replace(dead, size * direction, direction * (1.0 if state.unit else decoder), vectors)
    return n
