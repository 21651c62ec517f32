"""Training: recovery of planted features, exact folding, seeds, determinism, resuming, divergence."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from tests.dictionaries.helpers import D_MODEL, D_SAE, random_state, small_source

from homolog.dictionaries import (
    Progress,
    ReluConfig,
    ResidualArrays,
    TopKConfig,
    TrainingConfig,
    TrainingDivergedError,
    checkpoint,
    explained_variance,
    plant,
    train,
)
from homolog.dictionaries.seeds import derive_seed
from homolog.dictionaries.state import SaeState
from homolog.dictionaries.trainer import Normalisation, _fold, estimate_normalisation
from homolog.errors import InputError

SMALL = TrainingConfig(n_tokens=40_000, batch_size=256, scale_sample=2000)
NAMES = ("W_enc", "b_enc", "W_dec", "b_dec")


def same_bytes(a, b) -> bool:
    return all(getattr(a, n).numpy().tobytes() == getattr(b, n).numpy().tobytes() for n in NAMES)


@pytest.mark.parametrize("config", [ReluConfig(d_sae=96, l1=2.0), TopKConfig(d_sae=96, k=4, dead_after=5000)])
def test_planted_features_are_recovered(config: ReluConfig | TopKConfig) -> None:
    truth = plant(20_000, 32, 48, seed=7, mean_active=3.0, zipf=0.5)
    source = ResidualArrays(truth.x[None, :16_000], seed=0)
    training = TrainingConfig(n_tokens=300_000, batch_size=256, learning_rate=3e-3)
    sae = train(source, config, training, model="planted")["sae"][0]
    cosine = (truth.directions @ sae.W_dec.T).max(dim=1).values
    assert float(cosine.mean()) > 0.9
    assert explained_variance(truth.x[16_000:], sae.reconstruct(truth.x[16_000:])) > 0.75
    torch.testing.assert_close(sae.W_dec.norm(dim=1), torch.ones(96))


@pytest.mark.parametrize("config", [ReluConfig(d_sae=D_SAE), TopKConfig(d_sae=D_SAE, k=5)])
def test_scale_and_mean_fold_exactly(config: ReluConfig | TopKConfig) -> None:
    state = random_state(config)
    if config.kind == "topk":
        state.W_dec /= np.linalg.norm(state.W_dec, axis=1, keepdims=True)
    rng = np.random.default_rng(0)
    raw = torch.from_numpy(rng.standard_normal((300, D_MODEL)) * 7 + 20)
    normal = Normalisation(torch.from_numpy(rng.standard_normal(D_MODEL) * 5 + 20).float(), 0.31, 1.0)
    sae = _fold(state, normal, {})
    x = ((raw - normal.mean.double()) * normal.scale).numpy()  # what training saw, in float64
    f = np.maximum(x @ state.W_enc_T.T.astype(np.float64) + state.b_enc, 0)
    if isinstance(config, TopKConfig):
        f[f < np.sort(f, axis=1)[:, [-config.k]]] = 0
    x_hat = (f @ state.W_dec.astype(np.float64) + state.b_dec) / normal.scale + normal.mean.numpy()
    lengths = f * np.linalg.norm(state.W_dec.astype(np.float64), axis=1) / normal.scale
    np.testing.assert_allclose(sae.encode(raw.float()).numpy(), lengths, atol=1e-4)
    np.testing.assert_allclose(sae.reconstruct(raw.float()).numpy(), x_hat, atol=1e-4)


def test_normalisation_gives_mean_zero_and_norm_sqrt_d_model() -> None:
    x = torch.tensor([[3.0, 0.0], [-1.0, 0.0], [1.0, 2.0], [1.0, -2.0]])  # mean (1, 0), all at distance 2
    normal = estimate_normalisation(x)
    assert normal.mean.tolist() == [1.0, 0.0]
    assert normal.scale == pytest.approx(2**0.5 / 2)
    assert normal.variance == pytest.approx(2.0)


def test_seeds_differ_by_model_label_and_layer() -> None:
    names = [("a", "sae", 0), ("a", "sae", 1), ("a", "seed1", 0), ("b", "sae", 0)]
    states = [SaeState(ReluConfig(d_sae=8), SMALL, 4, False, n) for n in names]
    cosines = [float(abs((s.W_dec[0] @ states[0].W_dec[0]) / 0.01)) for s in states[1:]]
    assert all(c < 0.99 for c in cosines)
    assert len({derive_seed(0, *n) for n in names}) == 4
    assert derive_seed(0, "ab", "c") != derive_seed(0, "a", "bc")


def test_same_seed_same_bytes_whatever_the_threads() -> None:
    runs = [
        train(small_source(), ReluConfig(d_sae=D_SAE), SMALL, model="m", labels=("sae", "seed1"), workers=w)
        for w in (1, 2)
    ]
    for label in ("sae", "seed1"):
        assert all(same_bytes(a, b) for a, b in zip(runs[0][label], runs[1][label], strict=True))
    assert not same_bytes(runs[0]["sae"][0], runs[0]["seed1"][0])
    other = train(small_source(), ReluConfig(d_sae=D_SAE), SMALL, model="other")
    assert not same_bytes(runs[0]["sae"][0], other["sae"][0])


@pytest.mark.parametrize("config", [ReluConfig(d_sae=D_SAE), TopKConfig(d_sae=D_SAE, k=5, dead_after=500)])
def test_killed_run_resumes_to_the_same_bytes(config: ReluConfig | TopKConfig, tmp_path: Path) -> None:
    training = SMALL.model_copy(update={"n_tokens": 60_000})
    whole = train(small_source(), config, training, model="m")["sae"]
    file = tmp_path / "checkpoint.safetensors"

    def kill(progress: Progress) -> None:
        if progress.tokens_done > 40_000:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        train(small_source(), config, training, model="m", checkpoint=file, checkpoint_every=1, progress=kill)
    assert file.exists()
    reports: list[Progress] = []
    resumed = train(small_source(), config, training, model="m", checkpoint=file, progress=reports.append)["sae"]
    assert reports[-1].tokens_total < 40_000  # it did not start again
    assert all(same_bytes(a, b) for a, b in zip(whole, resumed, strict=True))
    assert not file.exists()


def test_checkpoint_of_another_run_is_refused(tmp_path: Path) -> None:
    file = tmp_path / "checkpoint.safetensors"

    def kill(progress: Progress) -> None:
        if progress.tokens_done > 20_000:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        train(small_source(), ReluConfig(d_sae=D_SAE), SMALL, model="m", checkpoint=file, checkpoint_every=1,
              progress=kill)  # fmt: skip
    with pytest.raises(InputError, match="config, stream differ"):
        train(small_source(seed=9), ReluConfig(d_sae=D_SAE, l1=1.0), SMALL, model="m", checkpoint=file)


def test_a_flipped_bit_of_a_checkpoint_is_named_and_training_starts_again(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    file, config = tmp_path / "checkpoint.safetensors", ReluConfig(d_sae=8)

    def states() -> list[SaeState]:
        return [SaeState(config, SMALL, D_MODEL, False, ("m", "sae", layer)) for layer in range(2)]

    checkpoint.write(file, states(), {"model": "m"}, 7)
    assert checkpoint.restore(file, states(), {"model": "m"}) == 7
    whole, rng = file.read_bytes(), np.random.default_rng(0)
    header = 8 + int.from_bytes(whole[:8], "little")
    places = np.concatenate([rng.integers(0, 8 * header, 400), rng.integers(0, 8 * len(whole), 200)])
    for number, bit in enumerate(places.tolist()):
        data = bytearray(whole)
        data[bit // 8] ^= 1 << bit % 8
        file.write_bytes(data)
        caught = states()
        assert checkpoint.restore(file, caught, {"model": "m"}) == 0, bit
        assert not file.exists() and len(caplog.records) == number + 1 and str(file) in caplog.messages[-1]
        for a, b in zip(states(), caught, strict=True):
            assert all(np.array_equal(a.arrays()[name], b.arrays()[name]) for name in a.arrays())


def test_divergence_names_layer_and_step() -> None:
    training = SMALL.model_copy(update={"learning_rate": 1e30, "warmup": 0.0})
    with pytest.raises(TrainingDivergedError, match=r"model 'm', dictionary 'sae', layer \d, step \d+ of"):
        train(small_source(), ReluConfig(d_sae=D_SAE), training, model="m")


def test_unusable_activations_are_named() -> None:
    bad = small_source()
    bad.layers[1] = torch.full_like(bad.layers[1], float("nan"))
    with pytest.raises(InputError, match="activations of m, layer 1"):
        train(bad, ReluConfig(d_sae=D_SAE), SMALL, model="m")
    with pytest.raises(InputError, match="must vary"):
        estimate_normalisation(torch.ones(5, 3))


def test_stream_covers_each_epoch_once_and_skips_masked_tokens() -> None:
    x = torch.arange(10.0)[None, :, None]
    keep = np.arange(10) % 5 != 0
    source = ResidualArrays(x, seed=0, keep=keep)
    read = source.read(0, 16)[0].flatten().tolist()
    assert sorted(read[:8]) == sorted(read[8:]) == [1, 2, 3, 4, 6, 7, 8, 9]
    assert read[:8] != read[8:]
    assert source.read(3, 9)[0].flatten().tolist() == read[3:12]  # addressed, not consumed
