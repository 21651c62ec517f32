"""Training: planted features recovered, exact folding, seeds, resuming, divergence."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from tests.dictionaries.helpers import D_MODEL, D_SAE, random_state, small_source, weights64

from homolog.dictionaries import (
    Checkpoint,
    KindSettings,
    Place,
    ResidualArrays,
    TrainingConfig,
    TrainingDivergedError,
    TrainingProgress,
    explained_variance,
    parse_config,
    plant,
    train,
)
from homolog.dictionaries.kinds import batchtopk, gated, jumprelu, relu, topk
from homolog.dictionaries.seeds import derive_seed
from homolog.dictionaries.training import checkpoint, trainer
from homolog.dictionaries.training.fold import Normalisation, estimate_normalisation, fold
from homolog.dictionaries.training.revive import revive
from homolog.dictionaries.training.state import SaeState
from homolog.errors import InputError

SMALL = TrainingConfig(n_tokens=40_000, batch=256, scale_sample=2000)
NAMES = ("W_enc", "b_enc", "W_dec", "b_dec")
KINDS: list[KindSettings] = [
    relu.Settings(d_sae=D_SAE),
    relu.Settings(d_sae=D_SAE, weighted=False),
    topk.Settings(d_sae=D_SAE, k=5),
    batchtopk.Settings(d_sae=D_SAE, k=5),
    jumprelu.Settings(d_sae=D_SAE),
    gated.Settings(d_sae=D_SAE),
    relu.Settings(d_sae=D_SAE, target_l0=5),
]


def named(config: KindSettings) -> str:
    kind = config.kind if config.target_l0 is None else f"{config.kind} with a target"
    return kind if getattr(config, "weighted", True) else f"plain {config.kind}"


def same_bytes(a, b) -> bool:
    return all(getattr(a, n).numpy().tobytes() == getattr(b, n).numpy().tobytes() for n in NAMES)


@pytest.mark.parametrize(
    ("config", "recovered"),
    [
        (relu.Settings(d_sae=96, l1=2.0), 0.97),
        (relu.Settings(d_sae=96, l1=2.0, weighted=False), 0.97),
        (topk.Settings(d_sae=96, k=4), 0.97),
        (batchtopk.Settings(d_sae=96, k=4), 0.9),
        (jumprelu.Settings(d_sae=96), 0.9),
        (gated.Settings(d_sae=96, l1=2.0), 0.95),
    ],
    ids=lambda value: named(value) if not isinstance(value, float) else "",
)
def test_planted_features_are_recovered(config: KindSettings, recovered: float) -> None:
    truth = plant(20_000, 32, 48, seed=7, mean_active=3.0, zipf=0.5)
    source = ResidualArrays(truth.x[None, :16_000], seed=0)
    training = TrainingConfig(n_tokens=300_000, batch=256, dead_after=5000)
    reports: list[TrainingProgress] = []
    sae = train(source, config, training, model="planted", progress=reports.append)["sae"][0]
    cosine = (truth.directions @ sae.W_dec.T).max(dim=1).values
    assert float(cosine.mean()) > recovered
    held_out = truth.x[16_000:]
    f = sae.encode(held_out)
    score, l0 = explained_variance(held_out, sae.decode(f)), float((f > 0).sum(1).float().mean())
    assert score > 0.8 and score == pytest.approx(reports[-1].explained_variance, abs=0.02)
    assert l0 == pytest.approx(reports[-1].l0, rel=0.1)
    assert reports[-1].loss < reports[0].loss
    torch.testing.assert_close(sae.W_dec.norm(dim=1), torch.ones(96))


@pytest.mark.parametrize("config", KINDS, ids=named)
def test_scale_and_mean_fold_exactly(config: KindSettings) -> None:
    state = random_state(config)
    state.scalars[1] = 0.4
    rng = np.random.default_rng(0)
    raw = torch.from_numpy(rng.standard_normal((300, D_MODEL)) * 7 + 20)
    normal = Normalisation(
        torch.from_numpy(rng.standard_normal(D_MODEL) * 5 + 20).float(), 0.31, 1.0
    )
    sae = fold(state, normal, {})
    x = (raw.numpy() - normal.mean.double().numpy()) * normal.scale  # what training saw, in float64
    w = weights64(state)
    product = torch.from_numpy(x) @ w["W_enc"]
    if config.kind == "gated":
        f = (product + w["b_gate"] > 0) * torch.relu(torch.exp(w["r_mag"]) * product + w["b_mag"])
    else:
        f = torch.relu(product + w["b_enc"])
        if config.kind == "topk":
            f = f * (f >= f.topk(5, dim=1).values[:, -1:])
        if config.kind in ("batchtopk", "jumprelu"):
            f = f * (f > (w["threshold"] if config.kind == "jumprelu" else 0.4))
    x_hat = (f @ w["W_dec"] + w["b_dec"]) / normal.scale + normal.mean
    lengths = f * w["W_dec"].norm(dim=1) / normal.scale
    torch.testing.assert_close(
        sae.encode(raw.float()).double(), lengths.detach(), atol=1e-4, rtol=1e-4
    )
    torch.testing.assert_close(
        sae.reconstruct(raw.float()).double(), x_hat.detach(), atol=1e-4, rtol=1e-4
    )
    assert (sae.kind, sae.k) == (config.kind, 5 if config.kind == "topk" else None)


def test_normalisation_gives_mean_zero_and_norm_sqrt_d_model() -> None:
    x = torch.tensor(
        [[3.0, 0.0], [-1.0, 0.0], [1.0, 2.0], [1.0, -2.0]]
    )  # mean (1, 0), all at distance 2
    normal = estimate_normalisation(x)
    assert normal.mean.tolist() == [1.0, 0.0]
    assert normal.scale == pytest.approx(2**0.5 / 2)
    assert normal.variance == pytest.approx(2.0)


def test_seeds_differ_by_model_label_and_layer() -> None:
    names = [("a", "sae", 0), ("a", "sae", 1), ("a", "seed1", 0), ("b", "sae", 0)]
    states = [SaeState(relu.Settings(d_sae=8), SMALL, 4, False, n) for n in names]
    rows = [s.weights.W_dec[0] for s in states]
    cosines = [float(abs(row @ rows[0]) / 0.01) for row in rows[1:]]
    assert all(c < 0.99 for c in cosines)
    assert len({derive_seed(0, *n) for n in names}) == 4
    assert derive_seed(0, "ab", "c") != derive_seed(0, "a", "bc")


@pytest.mark.parametrize("precision", ["float32", "bfloat16"])
@pytest.mark.parametrize("config", KINDS, ids=named)
def test_same_seed_same_bytes_whatever_the_threads(config: KindSettings, precision: str) -> None:
    """With two threads and three layers each takes a layer, with four all work on each."""
    training = SMALL.model_copy(update={"n_tokens": 20_000, "batch": 1200, "precision": precision})
    runs = [
        train(
            small_source(3),
            config,
            training,
            model="m",
            labels=("sae", "seed1"),
            on=Place(workers=workers),
        )
        for workers in (1, 2, 4)
    ]
    for other in runs[1:]:
        for label in ("sae", "seed1"):
            assert all(same_bytes(a, b) for a, b in zip(runs[0][label], other[label], strict=True))
    assert not same_bytes(runs[0]["sae"][0], runs[0]["seed1"][0])


def test_models_start_from_seeds_of_their_own() -> None:
    one, other = (
        train(small_source(), relu.Settings(d_sae=D_SAE), SMALL, model=model)
        for model in ("m", "other")
    )
    assert not same_bytes(one["sae"][0], other["sae"][0])


@pytest.mark.parametrize("config", KINDS, ids=named)
def test_killed_run_resumes_to_the_same_bytes(config: KindSettings, tmp_path: Path) -> None:
    training = SMALL.model_copy(update={"n_tokens": 60_000, "dead_after": 500, "revive_until": 1.0})
    whole = train(small_source(), config, training, model="m")["sae"]
    file = tmp_path / "checkpoint.safetensors"

    def kill(progress: TrainingProgress) -> None:
        if progress.tokens_done > 40_000:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        train(
            small_source(),
            config,
            training,
            model="m",
            checkpoint=Checkpoint(file, 1),
            progress=kill,
        )
    assert file.exists()
    reports: list[TrainingProgress] = []
    resumed = train(
        small_source(),
        config,
        training,
        model="m",
        checkpoint=Checkpoint(file),
        progress=reports.append,
    )["sae"]
    assert reports[-1].tokens_total < 40_000  # it did not start again
    assert all(same_bytes(a, b) for a, b in zip(whole, resumed, strict=True))
    assert not file.exists()


@pytest.mark.parametrize("config", [KINDS[0], KINDS[1], KINDS[4], KINDS[5]], ids=named)
def test_dead_features_are_drawn_anew_from_errors(config: KindSettings) -> None:
    state = random_state(config, dead_after=100, revive_until=0.5, n_tokens=1000, batch=10, seed=3)
    for moment in (state.mean, state.square):
        moment.flat[:] = 1
    state.silent[:5] = 100
    rng = np.random.default_rng(0)
    x = torch.from_numpy(rng.standard_normal((50, D_MODEL)).astype(np.float32))
    error = np.zeros(
        (50, D_MODEL), np.float32
    )  # only tokens 0 to 9 have errors: their inputs are not explained
    error[:10] = -0.1 * x[:10].numpy()
    before = state.weights.W_dec.copy()
    assert revive(state, x, error, 50) == 0  # too late
    assert revive(state, x, error, 49) == 5
    np.testing.assert_array_equal(state.weights.W_dec[5:], before[5:])
    cosine = np.abs(state.weights.W_dec[:5] @ x[:10].numpy().T) / np.linalg.norm(x[:10], axis=1)
    chosen = (cosine / np.linalg.norm(state.weights.W_dec[:5], axis=1, keepdims=True)).argmax(1)
    assert len(set(chosen.tolist())) == 5  # a token each
    sae = fold(state, Normalisation(torch.zeros(D_MODEL), 1.0, 1.0), {})
    fires = sae.encode(x) > 0
    assert all(fires[token, i] for i, token in enumerate(chosen.tolist()))
    assert (state.silent[:5] == 0).all()
    for moment in (state.mean, state.square):
        assert (
            (moment.W_enc_T[:5] == 0).all()
            and (moment.W_enc_T[5:] == 1).all()
            and (moment.vectors[:, :5] == 0).all()
        )


def test_revival_leaves_fewer_dead() -> None:
    """Features that start far below 0 stay silent for good, unless they are drawn anew."""
    truth = plant(8_000, 32, 48, seed=7, mean_active=3.0, zipf=0.5)
    config, dead = relu.Settings(d_sae=96, l1=2.0, init_active=1e-5), []
    for share in (0.0, 0.6):
        training = TrainingConfig(n_tokens=200_000, batch=256, dead_after=5000, revive_until=share)
        sae = train(ResidualArrays(truth.x[None], seed=0), config, training, model="p")["sae"][0]
        dead.append(float(((sae.encode(truth.x) > 0).sum(0) == 0).float().mean()))
    assert dead[0] > 0.1 and dead[1] < 0.2 * dead[0]


def test_checkpoint_of_another_run_is_refused(tmp_path: Path) -> None:
    file = tmp_path / "checkpoint.safetensors"

    def kill(progress: TrainingProgress) -> None:
        if progress.tokens_done > 20_000:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        train(
            small_source(),
            relu.Settings(d_sae=D_SAE),
            SMALL,
            model="m",
            checkpoint=Checkpoint(file, 1),
            progress=kill,
        )
    with pytest.raises(InputError, match="config, stream differ"):
        train(
            small_source(seed=9),
            relu.Settings(d_sae=D_SAE, l1=1.0),
            SMALL,
            model="m",
            checkpoint=Checkpoint(file),
        )


def test_a_flipped_bit_of_a_checkpoint_is_named_and_training_starts_again(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    file, config = tmp_path / "checkpoint.safetensors", relu.Settings(d_sae=8)

    def states() -> list[SaeState]:
        return [SaeState(config, SMALL, D_MODEL, False, ("m", "sae", layer)) for layer in range(2)]

    checkpoint.write(file, states(), {"model": "m"}, 7)
    assert checkpoint.restore(file, states(), {"model": "m"}) == 7
    whole, rng = file.read_bytes(), np.random.default_rng(0)
    header = 8 + int.from_bytes(whole[:8], "little")
    places = np.concatenate(
        [rng.integers(0, 8 * header, 400), rng.integers(0, 8 * len(whole), 200)]
    )
    for number, bit in enumerate(places.tolist()):
        data = bytearray(whole)
        data[bit // 8] ^= 1 << bit % 8
        file.write_bytes(data)
        caught = states()
        assert checkpoint.restore(file, caught, {"model": "m"}) == 0, bit
        assert (
            not file.exists()
            and len(caplog.records) == number + 1
            and str(file) in caplog.messages[-1]
        )
        for a, b in zip(states(), caught, strict=True):
            assert all(np.array_equal(a.arrays()[name], b.arrays()[name]) for name in a.arrays())


@pytest.mark.parametrize("value", [np.inf, -np.inf, np.nan])
@pytest.mark.parametrize("device", ["cpu", "twin"])
def test_one_activation_that_is_no_number_is_named(
    value: float, device: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """In the sample that the scale comes from, and later in the stream, on both paths."""
    if device == "twin":
        monkeypatch.setattr(trainer, "_is_cpu", lambda device: False)
    training = SMALL.model_copy(update={"scale_sample": 64, "n_tokens": 6000})
    source = small_source()
    source.layers[1][1234, 3] = value
    with pytest.raises(
        InputError, match=rf"activations of m, layer 1 is {value}, but every value must be finite"
    ):
        train(
            source,
            topk.Settings(d_sae=D_SAE, k=5),
            training.model_copy(update={"scale_sample": 6000}),
            model="m",
        )
    place = next(
        token for token in range(6000) if not torch.isfinite(source.read(token, 1)[1]).all()
    )
    with pytest.raises(InputError, match=rf"layer 1 is {value}, .* that of token {place} is not"):
        train(source, topk.Settings(d_sae=D_SAE, k=5), training, model="m")


def test_divergence_names_layer_and_step() -> None:
    training = SMALL.model_copy(update={"lr": 1e30, "warmup": 0.0})
    with pytest.raises(
        TrainingDivergedError, match=r"model 'm', dictionary 'sae', layer \d, step \d+ of"
    ):
        train(small_source(), relu.Settings(d_sae=D_SAE), training, model="m")


def test_unusable_activations_are_named() -> None:
    bad = small_source()
    bad.layers[1] = torch.full_like(bad.layers[1], float("nan"))
    with pytest.raises(InputError, match="activations of m, layer 1"):
        train(bad, relu.Settings(d_sae=D_SAE), SMALL, model="m")
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


@pytest.mark.parametrize("kind", ["topk", "batchtopk"])
def test_no_more_features_of_a_token_than_there_are(kind: str) -> None:
    with pytest.raises(
        InputError, match=r"k is 9, but there are 8 features to choose from\. Lower k"
    ):
        parse_config({"kind": kind, "d_sae": 8, "k": 9})
    with pytest.raises(ValueError, match="k is 9, but there are 8 features"):
        (topk.Settings if kind == "topk" else batchtopk.Settings)(d_sae=8, k=9)
    assert parse_config({"kind": kind, "d_sae": 8, "k": 8}).k == 8
    with pytest.raises(
        InputError, match="k is 0, but it breaks a rule: Input should be greater than or equal to 1"
    ):
        parse_config({"kind": kind, "k": 0})
    with pytest.raises(InputError, match=r"kind is 'other', but it must be one of relu, topk, "):
        parse_config({"kind": "other"})
