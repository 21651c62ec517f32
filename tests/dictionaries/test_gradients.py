"""Hand-written gradients against autograd in float64, and both losses against the real sae-lens."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from tests.dictionaries.helpers import D_MODEL, D_SAE, gradients, random_state, weights64

from homolog.dictionaries import ReluConfig, TopKConfig, losses

X = torch.from_numpy(np.random.default_rng(1).standard_normal((1100, D_MODEL)).astype(np.float32))


def assert_same(found: dict[str, np.ndarray], expected: dict[str, torch.Tensor]) -> None:
    for name, leaf in expected.items():
        assert leaf.grad is not None
        scale = float(leaf.grad.abs().max())
        np.testing.assert_allclose(found[name], leaf.grad.numpy(), atol=2e-5 * scale, err_msg=name)


def test_relu_gradients_equal_autograd() -> None:
    state = random_state(ReluConfig(d_sae=D_SAE, l1=1.5, l1_warmup=0))
    squared = state.gradients(X, None, step=0)
    leaves = weights64(state)
    loss = losses.relu_loss(X.double(), **leaves, l1=1.5)
    loss.backward()
    assert_same(gradients(state), leaves)
    f = losses.relu_features(X.double(), leaves["W_enc"], leaves["b_enc"])
    penalty = 1.5 * (f * leaves["W_dec"].norm(dim=1)).sum(1).mean().item()
    assert squared / len(X) + penalty == pytest.approx(loss.item(), rel=1e-5)


def test_penalty_rises_over_the_warm_up() -> None:
    state = random_state(ReluConfig(d_sae=D_SAE, l1=2.0, l1_warmup=0.1), n_tokens=100 * 10, batch_size=10)
    assert [state.penalty_at(step) for step in (0, 4, 9, 50)] == pytest.approx([0.2, 1.0, 2.0, 2.0])


@pytest.mark.parametrize("n_dead", [0, 3, 12])
def test_topk_gradients_equal_autograd(n_dead: int) -> None:
    config = TopKConfig(d_sae=D_SAE, k=5, aux_k=6, aux_weight=0.25, dead_after=10)
    state = random_state(config)
    state.silent[:n_dead] = 10
    state.gradients(X, None, step=0)
    leaves = weights64(state)
    dead = torch.arange(D_SAE) < n_dead
    losses.topk_loss(X.double(), **leaves, k=5, dead=dead, aux_k=6, aux_weight=0.25).backward()
    assert_same(gradients(state), leaves)


def test_bfloat16_products_keep_the_gradients_close() -> None:
    exact, half = (random_state(ReluConfig(d_sae=D_SAE, l1=1.0, l1_warmup=0)) for _ in range(2))
    half.half, half.W_product = True, half.W_product.bfloat16()
    exact.gradients(X, None, step=0)
    half.gradients(X, X.bfloat16(), step=0)
    for name, expected in gradients(exact).items():
        error = np.linalg.norm(gradients(half)[name] - expected) / np.linalg.norm(expected)
        assert error < 0.02, name


@pytest.mark.parametrize("kind", ["relu", "topk"])
def test_losses_and_gradients_equal_sae_lens(kind: str, sae_lens_results: dict[str, torch.Tensor]) -> None:
    leaves = weights64(random_state(ReluConfig(d_sae=D_SAE)))
    x = sae_lens_results["x"].double()
    loss = losses.relu_loss(x, **leaves, l1=1.5) if kind == "relu" else losses.topk_loss(x, **leaves, k=5)
    loss.backward()
    assert float(sae_lens_results[f"{kind}.loss"]) == pytest.approx(loss.item(), rel=1e-5)
    assert_same({name: sae_lens_results[f"{kind}.{name}"].numpy() for name in leaves}, leaves)


def test_ties_go_to_the_lowest_index() -> None:
    f = torch.tensor([[1.0, 3.0, 1.0, 1.0, 0.0]])
    assert losses.keep_largest(f, 3).tolist() == [[1.0, 3.0, 1.0, 0.0, 0.0]]
    assert losses.keep_largest(f, 9).tolist() == f.tolist()
