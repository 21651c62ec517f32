"""Alignment search: a model whose stream was rotated, a planted subspace, hooks of transformers."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch
from scipy.stats import ortho_group
from tests.reference.tiny_models import tiny_gpt_neox, tiny_mamba

from homolog.analyses.alignment_search.measure import FittedMap, Source, measured
from homolog.analyses.alignment_search.swap import (
    Swap,
    Target,
    dimensions,
    procrustes,
    train_swap,
)
from homolog.corpus import TokenWindows
from homolog.errors import InputError
from homolog.models.gpt_neox import GPTNeoX
from homolog.models.mamba import Mamba
from homolog.record.sides import StudyModel

LAYER = 1
MODELS = {"gpt_neox": (GPTNeoX, tiny_gpt_neox), "mamba": (Mamba, tiny_mamba)}


def windows(n: int, seed: int) -> TokenWindows:
    """Random tokens, a document for each two windows, special tokens here and there."""
    rng = np.random.default_rng(seed)
    tokens = rng.integers(2, 97, (n, 24)).astype(np.int32)
    mask = rng.random(tokens.shape) > 0.1
    document = np.repeat(np.arange(n) // 2, 24).reshape(n, 24).astype(np.int32)
    return TokenWindows(tokens, document, mask, tokenizer_fingerprint="none")


def target_of(name: str) -> Target:
    adapter, build = MODELS[name]
    return Target(adapter(name, build().eval().requires_grad_(False)), LAYER)


def stream(target: Target, text: TokenWindows) -> torch.Tensor:
    return target.own(text).h


def rows_of(x: torch.Tensor, text: TokenWindows) -> torch.Tensor:
    return x[torch.from_numpy(text.mask)]


def shares(target: Target, swap: Swap, x: torch.Tensor, text: TokenWindows) -> dict[int, dict]:
    """The rows of a map by k."""
    source = Source("main", StudyModel("other", "source"), LAYER)
    return {r["k"]: r for r in measured(target, text, [FittedMap(source, "trained", swap, x)])}


def trained(target: Target, text: TokenWindows, x: torch.Tensor, **changes: float) -> Swap:
    start = procrustes(rows_of(x, text), rows_of(stream(target, text), text))
    asked = {"steps": 10, "batch": 8, "lr": 0.003} | changes
    return train_swap(start, target, text, x, **asked, rng=np.random.default_rng(0))


@pytest.mark.parametrize("name", MODELS)
def test_a_rotated_scaled_shifted_stream_keeps_all_predictions(name: str) -> None:
    target, train, test = target_of(name), windows(48, 0), windows(16, 1)
    d = target.model.d_model
    turn = torch.from_numpy(ortho_group.rvs(d, random_state=3)).float()
    x, tested = (40 * stream(target, text) @ turn + 7 for text in (train, test))
    start = procrustes(rows_of(x, train), rows_of(stream(target, train), train))
    for swap in (start, trained(target, train, x)):
        row = shares(target, swap, tested, test)[d]
        assert row["kept"] > 0.99 and row["kept"] == pytest.approx(row["alone"], abs=1e-5)
        assert row["carried"] == pytest.approx(1, abs=1e-4)


def test_rows_in_random_order_keep_nothing() -> None:
    target, train, test = target_of("gpt_neox"), windows(48, 0), windows(16, 1)
    mixed = []
    for text in (train, test):
        x = stream(target, text).clone()
        rows = rows_of(x, text)
        x[torch.from_numpy(text.mask)] = rows[torch.randperm(len(rows), generator=seeded())]
        mixed.append(x)
    found = shares(target, trained(target, train, mixed[0]), mixed[1], test)
    assert abs(found[target.model.d_model]["kept"]) < 0.05
    assert all(abs(row["alone"]) < 0.05 for row in found.values())


def seeded() -> torch.Generator:
    return torch.Generator().manual_seed(5)


def test_a_shared_subspace_is_kept_up_to_its_dimension() -> None:
    """Eight leading directions of the stream are in the source, turned; the rest is noise."""
    shared, target, train, test = 8, target_of("gpt_neox"), windows(48, 0), windows(16, 1)
    d, h = target.model.d_model, rows_of(stream(target, train), train)
    leading = torch.linalg.svd(h - h.mean(0), full_matrices=False)[2].T
    turn = torch.from_numpy(ortho_group.rvs(d, random_state=3)).float()

    def source(text: TokenWindows) -> torch.Tensor:
        z = (stream(target, text) - h.mean(0)) @ leading
        size = z[..., shared:].std()
        z[..., shared:] = size * torch.randn(z[..., shared:].shape, generator=seeded())
        return z @ turn.T

    x = source(train)
    swap = procrustes(rows_of(x, train), h)
    found = shares(target, swap, source(test), test)
    # The one scale is shrunk by the directions that are noise: a little is lost of all.
    assert all(found[k]["kept"] > 0.9 for k in (1, 2, 4, 8))
    assert found[d]["kept"] < found[16]["kept"] < found[8]["kept"] - 0.1
    assert found[8]["alone"] > found[d]["alone"] and found[8]["alone"] > found[4]["alone"] + 0.03


def test_training_keeps_more_than_the_start_and_stays_orthogonal() -> None:
    target, train, test = target_of("gpt_neox"), windows(64, 0), windows(24, 1)
    d = target.model.d_model
    source = GPTNeoX("source", tiny_gpt_neox().eval().requires_grad_(False))
    distort = torch.diag(torch.logspace(-1, 1, d))
    turn = torch.from_numpy(ortho_group.rvs(d, random_state=3)).float()
    x, tested = (stream(Target(source, LAYER), text) @ distort @ turn for text in (train, test))
    start, after = trained(target, train, x, steps=0), trained(target, train, x, steps=40, lr=0.01)
    ends = [shares(target, swap, tested, test)[d]["kept"] for swap in (start, after)]
    assert ends[1] > ends[0] + 0.01
    for each in (after.turn_x, after.turn_h):
        torch.testing.assert_close(each.T @ each, torch.eye(d), atol=1e-4, rtol=0)
    again = trained(target, train, x, steps=40, lr=0.01)
    assert all(
        torch.equal(a, b) for a, b in zip(vars(after).values(), vars(again).values(), strict=True)
    )


@pytest.mark.parametrize("name", MODELS)
def test_changed_passes_are_those_of_a_forward_hook(name: str) -> None:
    """Every stream at every token by numpy, put there by a plain hook on the module's block."""
    target, text, k = target_of(name), windows(3, 1), 5
    hf, rng = target.model.hf, np.random.default_rng(2)
    own = target.own(text)
    d, d_x = target.model.d_model, 24
    swap = Swap(
        *(torch.from_numpy(ortho_group.rvs(n, random_state=n)).float() for n in (d_x, d)),
        torch.from_numpy(rng.normal(size=d_x)).float(),
        torch.from_numpy(rng.normal(size=d)).float(),
        torch.tensor(1.5),
    )
    x = torch.from_numpy(rng.normal(size=(*text.tokens.shape, d_x))).float()
    kept = swap.first(torch.full((3,), k))
    by_name = {
        "swapped": swap.swapped(own.h, x, kept),
        "ablated": swap.ablated(own.h, kept),
        "alone": swap.alone(x, kept),
    }
    q_x, q_h = (m.double().numpy()[:, :k] for m in (swap.turn_x, swap.turn_h))
    mean_x, mean_h = (m.double().numpy() for m in (swap.mean_x, swap.mean_h))

    def by_hand(what: str, h: np.ndarray, one: np.ndarray) -> np.ndarray:
        z, w = 1.5 * q_x.T @ (one - mean_x), q_h.T @ (h - mean_h)
        return {"swapped": h + q_h @ (z - w), "ablated": h - q_h @ w, "alone": mean_h + q_h @ z}[
            what
        ]

    for what, changed in by_name.items():

        def hook(module, inputs, output, what: str = what):
            h = (output[0] if isinstance(output, tuple) else output).clone()
            for window, position in np.argwhere(text.mask):
                old = h[window, position].double().numpy()
                new = by_hand(what, old, x[window, position].double().numpy())
                h[window, position] = torch.from_numpy(new).to(h)
            return (h, *output[1:]) if isinstance(output, tuple) else h

        layers = hf.gpt_neox.layers if name == "gpt_neox" else hf.backbone.layers
        handle = layers[LAYER].register_forward_hook(hook)
        logits = hf(torch.from_numpy(text.tokens).long()).logits
        handle.remove()
        torch.testing.assert_close(
            target.logs(own, changed), logits.log_softmax(-1), atol=2e-4, rtol=1e-3
        )


def test_tokens_beside_special_ones_are_not_counted() -> None:
    target, text = target_of("gpt_neox"), windows(2, 0)
    text = replace(text, mask=np.ones_like(text.mask))
    text.mask[0, [3, 23]] = False
    counted = target.own(text).counted
    assert counted.sum() == 2 * 23 - 3  # the last of each window; 3 and what precedes it; 22
    assert not counted[0, [2, 3, 22, 23]].any() and not counted[1, 23]


def test_dimensions_are_powers_of_two_and_the_whole() -> None:
    assert dimensions(1) == [1] and dimensions(8) == [1, 2, 4, 8]
    assert dimensions(12) == [1, 2, 4, 8, 12]


def test_constant_residuals_are_refused() -> None:
    with pytest.raises(InputError, match="directions are found in residuals that vary"):
        procrustes(torch.ones(9, 3), torch.randn(9, 4, generator=seeded()))
