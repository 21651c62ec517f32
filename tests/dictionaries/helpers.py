"""What several tests of dictionaries build."""

from __future__ import annotations

import numpy as np
import torch

from homolog.dictionaries import KindSettings, ResidualArrays, TrainingConfig, plant
from homolog.dictionaries.training import scratch, step
from homolog.dictionaries.training.state import SaeState, Weights

D_MODEL, D_SAE = 16, 40


def random_state(config: KindSettings, half: bool = False, **training) -> SaeState:
    """A state with random weights in general position, encoder and decoder unrelated.

    Its moments keep whole gradients.
    """
    settings = {"beta1": 0.0, "lr": 1e-30, **training}
    state = SaeState(config, TrainingConfig(**settings), D_MODEL, half, ("m", "sae", 0))
    rng = np.random.default_rng(5)
    state.weights.flat[:] = rng.standard_normal(state.weights.flat.size) * 0.3
    if config.kind == "jumprelu":
        state.weights.vectors[1] = np.abs(state.weights.vectors[1])
    if state.unit:
        state.weights.W_dec /= np.linalg.norm(state.weights.W_dec, axis=1, keepdims=True)
    state.refresh()
    return state


def confine(state: SaeState) -> SaeState:
    """Keep a third of the features to all columns, one to the first seven, one to the others."""
    columns = np.tile([0, D_MODEL], (D_SAE, 1))
    columns[12:24], columns[24:] = (0, 7), (7, D_MODEL)
    state.columns, state.confined = columns, True
    for rows in (state.weights.W_enc_T, state.weights.W_dec):
        rows *= state.inside()
    if state.unit:
        state.weights.W_dec /= np.linalg.norm(state.weights.W_dec, axis=1, keepdims=True)
    state.refresh()
    return state


def weights64(state: SaeState) -> dict[str, torch.Tensor]:
    """The weights as float64 leaves for autograd, W_enc in its public orientation."""
    named = by_name(state, state.weights)
    return {k: torch.from_numpy(v.astype(np.float64)).requires_grad_() for k, v in named.items()}


def by_name(state: SaeState, flat: Weights) -> dict[str, np.ndarray]:
    """Weights, or moments, by their public names and orientation."""
    matrices = {"W_enc": flat.W_enc_T.T, "W_dec": flat.W_dec, "b_dec": flat.b_dec}
    return matrices | dict(zip(state.vectors, flat.vectors, strict=True))


def gradients(
    state: SaeState,
    x: torch.Tensor,
    dense: bool = False,
    at: int = 0,
    seen: torch.Tensor | None = None,
) -> dict[str, np.ndarray]:
    """The gradients of a step on x, as `weights64` names them.

    From Adam's first moment with beta1 = 0.

    dense: through products of whole matrices.  For decoders held at norm 1, without the part along
    each row.
    """
    if state.config.kind in ("relu", "jumprelu", "gated"):
        state.scalars[0] = state.d_sae if dense else 0
        if not dense:  # more is active in these small examples than entries usually have room for
            scratch.scratch_for(state, len(x)).make_entries(
                min(scratch.BLOCK, len(x)) * state.d_sae
            )
    step.take_step(state, x, x if seen is None else seen, at)
    return by_name(state, state.mean)


def small_source(n_layers: int = 2, n_tokens: int = 6000, seed: int = 0) -> ResidualArrays:
    """Planted activations, different in each layer."""
    layers = [
        plant(n_tokens, D_MODEL, 24, seed=seed + i, mean_active=2.0).x for i in range(n_layers)
    ]
    return ResidualArrays(torch.stack(layers), seed=1, name="planted")
