"""Hand-written gradients against autograd in float64, and losses against the real sae-lens."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file
from tests.dictionaries.helpers import D_MODEL, D_SAE, gradients, random_state, weights64

from homolog.dictionaries import KindSettings
from homolog.dictionaries.kinds import batchtopk, gated, jumprelu, kind_of, relu, topk
from homolog.dictionaries.kinds.base import keep_largest, squared_error
from homolog.dictionaries.training.step import take_step

ORACLE = Path(__file__).parents[1] / "reference" / "sae_lens_losses.py"
SAE_LENS = ("relu", "topk", "batchtopk", "jumprelu", "gated", "auxiliary")
X = torch.from_numpy(np.random.default_rng(1).standard_normal((1100, D_MODEL)).astype(np.float32))
KINDS: dict[str, KindSettings] = {
    "relu": relu.Settings(d_sae=D_SAE, l1=1.5),
    "plain relu": relu.Settings(d_sae=D_SAE, l1=1.5, weighted=False),
    "topk": topk.Settings(d_sae=D_SAE, k=5),
    "batchtopk": batchtopk.Settings(d_sae=D_SAE, k=5),
    "jumprelu": jumprelu.Settings(d_sae=D_SAE, l0=0.7, l0_warmup=0, bandwidth=0.8),
    "gated": gated.Settings(d_sae=D_SAE, l1=1.5),
}
WAYS = [(name, False) for name in KINDS] + [(name, True) for name in KINDS if "topk" not in name]


def loss_of(
    config: KindSettings,
    x: torch.Tensor,
    w: dict[str, torch.Tensor],
    dead: torch.Tensor | None = None,
) -> torch.Tensor:
    """The loss as its kind defines it."""
    return kind_of(config.kind).loss(config, x, w, dead)


def off_rows(gradient: np.ndarray, W_dec: np.ndarray) -> np.ndarray:
    """What is left of each row without its part along the unit rows of W_dec."""
    return gradient - (gradient * W_dec).sum(1, keepdims=True) * W_dec


def assert_same(
    found: dict[str, np.ndarray], expected: dict[str, torch.Tensor], unit: bool
) -> None:
    for name, leaf in expected.items():
        assert leaf.grad is not None
        gradient = leaf.grad.numpy()
        if name == "W_dec" and unit:
            gradient = off_rows(gradient, leaf.detach().numpy())
        scale = float(np.abs(gradient).max())
        np.testing.assert_allclose(found[name], gradient, atol=2e-5 * scale, err_msg=name)


@pytest.mark.parametrize(("name", "dense"), WAYS)
def test_gradients_equal_autograd(name: str, dense: bool) -> None:
    config = KINDS[name]
    state = random_state(config)
    leaves = weights64(state)
    loss = loss_of(config, X.double(), leaves)
    loss.backward()
    found = gradients(state, X, dense)
    assert_same(found, leaves, state.unit)
    report = state.take_report()
    frozen = 0.0
    if config.kind == "gated":  # the report leaves the frozen twin's error out
        chosen = torch.relu(X.double() @ leaves["W_enc"] + leaves["b_gate"])
        frozen = squared_error(X.double(), chosen @ leaves["W_dec"] + leaves["b_dec"]).item()
    assert report.loss == pytest.approx(loss.item() - frozen, rel=1e-5)


@pytest.mark.parametrize("name", ["relu", "jumprelu", "gated"])
def test_both_ways_count_the_same(name: str) -> None:
    sparse, dense = random_state(KINDS[name]), random_state(KINDS[name])
    gradients(sparse, X), gradients(dense, X, dense=True)
    np.testing.assert_array_equal(sparse.fired, dense.fired)
    assert sparse.fired.sum() > 0 and sparse.take_report().l0 == dense.take_report().l0


def test_more_active_features_than_entries_have_scratch_for_take_the_other_way() -> None:
    narrow, wide = (random_state(KINDS["relu"]) for _ in range(2))
    narrow.scalars[0] = 0  # expects none, finds half
    take_step(narrow, X, X, 0)
    found = gradients(wide, X, dense=True)
    np.testing.assert_array_equal(narrow.mean.W_dec, found["W_dec"])
    assert narrow.scalars[0] == wide.scalars[0] > 0


@pytest.mark.parametrize("kind", ["relu", "gated", "jumprelu"])
def test_penalty_rises_over_the_warm_up(kind: str) -> None:
    config = {
        "relu": relu.Settings(l1=2.0, l1_warmup=0.1),
        "gated": gated.Settings(l1=2.0, l1_warmup=0.1),
        "jumprelu": jumprelu.Settings(l0=2.0, l0_warmup=0.1),
    }[kind]
    state = random_state(config, n_tokens=100 * 10, batch=10)
    assert [state.penalty_at(step) for step in (0, 4, 9, 50)] == pytest.approx([0.2, 1.0, 2.0, 2.0])


@pytest.mark.parametrize("whole_batch", [False, True])
@pytest.mark.parametrize("n_dead", [1, 3, 12])
def test_auxiliary_loss_of_dead_features_equals_autograd(n_dead: int, whole_batch: bool) -> None:
    kind = batchtopk if whole_batch else topk
    config = kind.Settings(d_sae=D_SAE, k=5, aux_k=6, aux_weight=0.25)
    state = random_state(config, dead_after=10)
    state.silent[:n_dead] = 10
    leaves = weights64(state)
    dead = torch.arange(D_SAE) < n_dead
    loss_of(config, X.double(), leaves, dead).backward()
    assert_same(gradients(state, X), leaves, unit=True)


@pytest.mark.parametrize(("name", "dense"), WAYS)
def test_bfloat16_products_keep_the_gradients_close(name: str, dense: bool) -> None:
    config = KINDS[name]
    exact, half = random_state(config), random_state(config, half=True)
    expected = gradients(exact, X, dense)
    found = gradients(half, X, dense, seen=X.bfloat16())
    for key, gradient in expected.items():
        # a threshold learns from few tokens, those near it, and rounding moves some of them in or
        # out
        limit = 0.1 if key == "threshold" else 0.05 if "topk" in name else 0.02
        assert np.linalg.norm(found[key] - gradient) / np.linalg.norm(gradient) < limit, key


def test_a_frozen_decoder_stays_and_the_rest_learns() -> None:
    state = random_state(relu.Settings(d_sae=D_SAE, freeze_decoder=True), lr=0.01)
    before = state.weights.flat.copy()
    gradients(state, X)
    W_dec = state.weights.W_dec.copy()
    changed = state.weights.flat != before
    np.testing.assert_array_equal(
        W_dec, before[D_MODEL * D_SAE : 2 * D_MODEL * D_SAE].reshape(D_SAE, D_MODEL)
    )
    assert changed[: D_MODEL * D_SAE].mean() > 0.9


def test_batchtopk_keeps_the_largest_of_the_batch_and_follows_the_smallest_kept() -> None:
    state = random_state(batchtopk.Settings(d_sae=D_SAE, k=5, threshold_rate=0.25), lr=1e-30)
    pre = torch.relu(
        X.double() @ torch.from_numpy(state.weights.W_enc_T.T.astype(np.float64))
        + torch.from_numpy(state.weights.vectors[0].astype(np.float64))
    )
    cut = pre.flatten().topk(5 * len(X)).values[-1].item()
    gradients(state, X)
    assert state.fired.sum() == 5 * len(X) and state.scalars[1] == pytest.approx(cut, rel=1e-5)
    gradients(state, X[:550])
    second = pre[:550].flatten().topk(5 * 550).values[-1].item()
    assert state.scalars[1] == pytest.approx(cut + 0.25 * (second - cut), rel=1e-5)


def test_batchtopk_where_one_part_of_the_batch_holds_all_that_is_kept() -> None:
    """The sample misjudges such a batch; what is kept is exact all the same."""
    x = X.clone()
    x[:1000] *= 1e-3
    state = random_state(batchtopk.Settings(d_sae=D_SAE, k=5))
    state.weights.vectors[0] = -0.5
    leaves = weights64(state)
    loss_of(state.config, x.double(), leaves).backward()
    assert_same(gradients(state, x), leaves, unit=True)


def sae_lens_weights(kind: str) -> dict[str, torch.Tensor]:
    """What sae-lens and ours are compared with."""
    leaves = weights64(random_state(KINDS["topk" if kind == "auxiliary" else kind]))
    if (
        kind == "auxiliary"
    ):  # sae-lens lets values below 0 into its auxiliary loss; ours, like Gao's, are above
        with torch.no_grad():
            leaves["b_enc"][:3] = 20.0
    return leaves


@pytest.fixture(scope="module")
def sae_lens(tmp_path_factory: pytest.TempPathFactory) -> dict[str, torch.Tensor]:
    """Losses and gradients of the real sae-lens on X[:200], by kind and name."""
    folder = tmp_path_factory.mktemp("sae-lens")
    given = {"x": X[:200].clone()}
    for kind in SAE_LENS:
        given |= {
            f"{kind}.{k}": v.detach().float().contiguous()
            for k, v in sae_lens_weights(kind).items()
        }
    save_file(given, folder / "in.safetensors")
    command = [sys.executable, "-W", "ignore", str(ORACLE), str(folder / "in.safetensors")]
    done = subprocess.run(
        [*command, str(folder / "out.safetensors")], capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, (
        f"sae-lens, a development dependency, failed:\n{done.stderr[-3000:]}"
    )
    return load_file(folder / "out.safetensors")


@pytest.mark.parametrize("kind", SAE_LENS)
def test_losses_and_gradients_equal_sae_lens(kind: str, sae_lens: dict[str, torch.Tensor]) -> None:
    x, leaves = X[:200].double(), sae_lens_weights(kind)
    if kind == "auxiliary":
        dead = torch.arange(D_SAE) < 3
        config = topk.Settings(d_sae=D_SAE, k=5, aux_k=D_MODEL // 2, aux_weight=1.0)
        loss = loss_of(config, x, leaves, dead)
    else:
        loss = loss_of(KINDS[kind], x, leaves)
    loss.backward()
    assert float(sae_lens[f"{kind}.loss"]) == pytest.approx(loss.item(), rel=1e-5)
    assert_same({key: sae_lens[f"{kind}.{key}"].numpy() for key in leaves}, leaves, unit=False)


def test_ties_go_to_the_lowest_index() -> None:
    f = torch.tensor([[1.0, 3.0, 1.0, 1.0, 0.0]])
    assert keep_largest(f, 3).tolist() == [[1.0, 3.0, 1.0, 0.0, 0.0]]
    assert keep_largest(f, 9).tolist() == f.tolist()
