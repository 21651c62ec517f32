"""Controls whose directions are held: a frozen encoder, a decoder near its random start."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from tests.dictionaries.helpers import D_MODEL, D_SAE

from homolog.dictionaries.configs import TrainingConfig
from homolog.dictionaries.kinds import relu, topk
from homolog.dictionaries.training import device_plain, on_device
from homolog.dictionaries.training.bounds import into_cone
from homolog.dictionaries.training.device_state import DeviceState
from homolog.dictionaries.training.state import SaeState, Trainee
from homolog.dictionaries.training.step import take_step

X = torch.from_numpy(np.random.default_rng(3).standard_normal((96, D_MODEL)).astype(np.float32))
STEPS = 8
TRAINING = TrainingConfig(n_tokens=96 * STEPS, batch=96, lr=0.1, warmup=0.0)


def trained(config: relu.Settings | topk.Settings, on: str) -> tuple[SaeState, Trainee]:
    """(the start, the state after a few large steps)."""
    start, host = (SaeState(config, TRAINING, D_MODEL, False, ("m", "sae", 0)) for _ in range(2))
    if on == "arrays":
        for step in range(STEPS):
            take_step(host, X, X, step)
        return start, host
    state = DeviceState(host, "cpu", False, engine=device_plain)
    with torch.no_grad():
        for step in range(STEPS):
            on_device.take_step(state, X, X, step)
    return start, state.export()


def cosines(state: Trainee, start: Trainee) -> np.ndarray:
    rows, axes = (np.float64(s.weights.W_dec) for s in (state, start))
    return (rows * axes).sum(1) / np.linalg.norm(rows, axis=1) / np.linalg.norm(axes, axis=1)


def test_a_row_outside_the_cone_is_turned_to_its_rim_and_one_inside_stays() -> None:
    # (0, 2) is 90 degrees from (1, 0), the cone of cosine 0.6 has its rim at (0.6, 0.8); (3, 1) is
    # inside.
    rows = torch.tensor([[0.0, 2.0], [3.0, 1.0], [0.0, -1.0]])
    into_cone(rows, torch.tensor([[1.0, 0.0]] * 3), 0.6)
    torch.testing.assert_close(rows, torch.tensor([[1.2, 1.6], [3.0, 1.0], [0.6, -0.8]]))


@pytest.mark.parametrize("on", ["arrays", "tensors"])
@pytest.mark.parametrize("kind", ["relu", "topk"])
def test_a_frozen_encoder_stays_and_the_rest_learns(kind: str, on: str) -> None:
    made = {"relu": relu.Settings, "topk": topk.Settings}[kind]
    more = {"k": 5} if kind == "topk" else {}
    start, state = trained(made(d_sae=D_SAE, freeze_encoder=True, **more), on)
    np.testing.assert_array_equal(state.weights.W_enc_T, start.weights.W_enc_T)
    for name in ("W_dec", "vectors", "b_dec"):
        assert (getattr(state.weights, name) != getattr(start.weights, name)).any(), name


@pytest.mark.parametrize("on", ["arrays", "tensors"])
@pytest.mark.parametrize("kind", ["relu", "topk"])
def test_a_decoder_row_comes_to_the_rim_of_its_cone_and_no_further(kind: str, on: str) -> None:
    made = {"relu": relu.Settings, "topk": topk.Settings}[kind]
    more = {"k": 5} if kind == "topk" else {}
    start, free = trained(made(d_sae=D_SAE, **more), on)
    assert cosines(free, start).min() < 0.7
    start, state = trained(made(d_sae=D_SAE, decoder_cosine=0.8, **more), on)
    found = cosines(state, start)
    assert found.min() == pytest.approx(0.8, abs=1e-5)
    assert (state.weights.W_enc_T != start.weights.W_enc_T).any()
    if state.unit:
        np.testing.assert_allclose(np.linalg.norm(state.weights.W_dec, axis=1), 1, atol=1e-5)
