"""What several tests of dictionaries build."""

from __future__ import annotations

import numpy as np
import torch

from homolog.dictionaries import ReluConfig, ResidualArrays, TopKConfig, TrainingConfig, plant
from homolog.dictionaries.state import SaeState

D_MODEL, D_SAE = 16, 40


def random_state(config: ReluConfig | TopKConfig, **training) -> SaeState:
    """A state with random weights in general position, encoder and decoder unrelated."""
    state = SaeState(config, TrainingConfig(precision="float32", **training), D_MODEL, False, ("m", "sae", 0))
    rng = np.random.default_rng(5)
    state.weights[:] = rng.standard_normal(state.weights.size) * 0.3
    return state


def weights64(state: SaeState) -> dict[str, torch.Tensor]:
    """The weights as float64 leaves for autograd, W_enc in its public orientation."""
    arrays = {"W_enc": state.W_enc_T.T, "b_enc": state.b_enc, "W_dec": state.W_dec, "b_dec": state.b_dec}
    return {k: torch.from_numpy(v.astype(np.float64)).requires_grad_() for k, v in arrays.items()}


def gradients(state: SaeState) -> dict[str, np.ndarray]:
    """The gradients a state has gathered, as `weights64` names them."""
    return {"W_enc": state.d_enc_T.T, "b_enc": state.d_b_enc, "W_dec": state.d_W_dec, "b_dec": state.d_b_dec}


def small_source(n_layers: int = 2, n_tokens: int = 6000, seed: int = 0) -> ResidualArrays:
    """Planted activations, different in each layer."""
    layers = [plant(n_tokens, D_MODEL, 24, seed=seed + i, mean_active=2.0).x for i in range(n_layers)]
    return ResidualArrays(torch.stack(layers), seed=1, name="planted")
