"""Crosscoders: trained on planted truth, kept in files, and their latents classed."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import replace
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from tests.dictionaries.helpers import D_MODEL, D_SAE, confine, gradients, random_state, weights64
from tests.reference.crosscoder_forward import forward

from homolog.dictionaries import (
    Checkpoint,
    Crosscoder,
    CrosscoderSettings,
    KindSettings,
    LatentScaling,
    SparseAutoencoder,
    TrainingConfig,
    TrainingProgress,
    convert,
    latent_classes,
    latent_scaling,
    latent_table,
    load,
    save,
    train,
    train_crosscoder,
)
from homolog.dictionaries.crosscoder import dedicated_columns
from homolog.dictionaries.crosscoder_latents import LEAST_ACTIVE
from homolog.dictionaries.joint import JointResiduals
from homolog.dictionaries.kinds import batchtopk, kind_of, relu
from homolog.dictionaries.streams import FACTS, Streams
from homolog.errors import InputError
from homolog.matching.planted_residuals import Followed, ResidualPlanting, World

SMALL = TrainingConfig(n_tokens=20_000, batch=500, precision="float32", scale_sample=2000)
WORLD = World(ResidualPlanting(in_families=0.0, in_groups=0.0, tokens=0), seed=0)
NAMES = tuple(model.name for model in WORLD.planting.models[:2])
OFF = "the other model's columns"


@cache
def planted(text: str, n_documents: int) -> tuple[torch.Tensor, ...]:
    """Residuals of A (96 wide) and B (64 wide); B is a hundred times as loud, and off centre."""
    a, b = (WORLD.residuals(m, WORLD.text(text, n_documents)) for m in WORLD.planting.models[:2])
    return a, 100 * b + 30


def by_name(residuals: tuple[torch.Tensor, ...]) -> dict[str, torch.Tensor]:
    return dict(zip(NAMES, residuals, strict=True))


def small(**settings: Any) -> CrosscoderSettings:
    return CrosscoderSettings(**({"d_sae": 64, "k": 4} | settings))


@pytest.fixture(scope="module")
def trained() -> Crosscoder:
    return train_crosscoder(by_name(planted("train", 8)), small(dedicated=0.1), SMALL)


def test_each_stream_has_the_same_mean_norm(trained: Crosscoder) -> None:
    joined = trained.joined(planted("train", 8))
    for part in trained.streams.columns:
        norm = (joined[:, part] - joined[:, part].mean(0)).norm(dim=1).mean()
        assert float(norm) == pytest.approx(np.sqrt((96 + 64) / 2), rel=0.02)


def test_a_latent_has_decoders_of_norm_1_together_and_dedicated_ones_have_one(
    trained: Crosscoder,
) -> None:
    norms = trained.decoder_norms
    np.testing.assert_allclose(np.square(norms).sum(0), 1, rtol=1e-5)
    assert (norms[:, :52] > 0).all()
    for model, own in enumerate((slice(52, 58), slice(58, 64))):
        np.testing.assert_array_equal(norms[1 - model, own], 0)
        columns = trained.streams.columns[1 - model]
        assert not trained.sae.W_enc[columns, own].any(), OFF


def test_encoding_and_decoding_are_those_of_raw_residuals(trained: Crosscoder) -> None:
    residuals = [x[:300] for x in planted("held out", 4)]
    latents = trained.encode(*residuals)
    joined = torch.cat(
        [x * s for x, s in zip(residuals, trained.streams.scales, strict=True)], dim=1
    )
    expected = trained.sae.encode(joined)
    np.testing.assert_allclose(latents.toarray(), expected, atol=1e-4)
    for model, x in enumerate(trained.decode(latents)):
        # b_dec alone, and on top of it what each latent writes
        silent = trained.decode(latents * 0)[model]
        written = torch.from_numpy(latents.toarray()) @ trained.W_dec(model)
        torch.testing.assert_close(x, silent + written, rtol=1e-4, atol=1e-2)
        assert float((x - residuals[model]).norm() / residuals[model].norm()) < 0.9


def test_the_same_seed_gives_the_same_bytes_and_another_does_not(trained: Crosscoder) -> None:
    residuals = by_name(planted("train", 8))
    again = train_crosscoder(residuals, small(dedicated=0.1), SMALL)
    assert torch.equal(again.sae.W_enc, trained.sae.W_enc)
    assert torch.equal(again.sae.W_dec, trained.sae.W_dec)
    other = train_crosscoder(residuals, small(dedicated=0.1), SMALL, label="seed1")
    assert not torch.equal(other.sae.W_dec, trained.sae.W_dec)


def test_a_killed_training_goes_on_to_the_same_bytes(trained: Crosscoder, tmp_path: Path) -> None:
    file = Checkpoint(tmp_path / "half", every=1)
    long = TrainingConfig(**(SMALL.model_dump() | {"n_tokens": 40_000}))
    given: dict[str, Any] = {"residuals": by_name(planted("train", 8)), "training": long}
    given |= {"config": small(dedicated=0.1)}
    seen: list[int] = []

    def stop_later(progress: TrainingProgress) -> None:
        seen.append(progress.tokens_done)
        if len(seen) == 2:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        train_crosscoder(**given, checkpoint=file, progress=stop_later)
    assert file.path.exists()
    with pytest.raises(InputError, match="columns"):
        train_crosscoder(**(given | {"config": small(dedicated=0.2)}), checkpoint=file)
    continued, whole = train_crosscoder(**given, checkpoint=file), train_crosscoder(**given)
    assert torch.equal(continued.sae.W_dec, whole.sae.W_dec)


def test_rows_that_are_not_kept_are_not_learnt_from() -> None:
    a, b = (x[:1000].clone() for x in planted("train", 8))
    keep = np.arange(1000) % 10 > 0
    wild = torch.from_numpy(~keep)
    first = train_crosscoder({"A": a, "B": b}, small(), SMALL, keep=keep)
    a[wild], b[wild] = 1e6, -1e6
    second = train_crosscoder({"A": a, "B": b}, small(), SMALL, keep=keep)
    assert torch.equal(first.sae.W_dec, second.sae.W_dec)


def test_three_models_of_three_widths() -> None:
    models = WORLD.planting.models
    text = WORLD.text("train", 4)
    residuals = {m.name: WORLD.residuals(m, text) for m in models}
    crosscoder = train_crosscoder(residuals, small(dedicated=0.1), SMALL)
    assert crosscoder.models == ("A", "B", "untrained")
    assert [len(x[0]) for x in crosscoder.decode(crosscoder.encode(*residuals.values()))] == [
        96,
        64,
        80,
    ]
    classes = set(latent_classes(crosscoder))
    assert (
        {"A", "B", "untrained"}
        <= classes
        <= {
            "shared",
            "A",
            "B",
            "untrained",
            "A + B",
            "A + untrained",
            "B + untrained",
        }
    )


# gradients: the loss is that of the kind, and confined weights do not move


@pytest.mark.parametrize("n_dead", [0, 12])
def test_gradients_equal_autograd_within_the_columns(n_dead: int) -> None:
    config = batchtopk.Settings(d_sae=D_SAE, k=5, aux_k=6, aux_weight=0.25)
    state = confine(random_state(config, dead_after=10))
    state.silent[:n_dead] = 10
    x = torch.from_numpy(np.random.default_rng(1).standard_normal((700, D_MODEL))).float()
    leaves, inside = weights64(state), state.inside()
    kind_of("batchtopk").loss(config, x.double(), leaves, torch.arange(D_SAE) < n_dead).backward()
    found = gradients(state, x)
    for name, leaf in leaves.items():
        assert leaf.grad is not None
        expected = leaf.grad.numpy()
        if name == "W_enc":
            expected = expected * inside.T
        if name == "W_dec":
            expected, row = expected * inside, leaf.detach().numpy()
            expected = expected - (expected * row).sum(1, keepdims=True) * row
        np.testing.assert_allclose(found[name], expected, atol=2e-5 * np.abs(expected).max())


@pytest.mark.parametrize("kind", [batchtopk.Settings(d_sae=D_SAE, k=5), relu.Settings(d_sae=D_SAE)])
def test_a_training_keeps_features_to_their_columns(kind: KindSettings) -> None:
    """Also of features that are drawn anew, which those of the second kind are."""
    source = JointResiduals(by_name(planted("train", 8)), SMALL)
    columns = np.tile([0, 160], (D_SAE, 1))
    columns[30:] = 96, 160
    training = TrainingConfig(**(SMALL.model_dump() | {"dead_after": 500, "revive_until": 1.0}))
    (sae,) = train(source, kind, training, model="m", columns=columns)["sae"]
    assert not sae.W_enc[:96, 30:].any() and not sae.W_dec[30:, :96].any(), OFF
    assert sae.W_enc[96:, 30:].any(0).all() and sae.W_dec[:30].any(1).all()


# planted truth


def follow(crosscoder: Crosscoder) -> tuple[np.ndarray, LatentScaling]:
    """Of each latent, "shared", "A" or "B" as the planted latent that it follows is, else ""."""
    text = WORLD.text("held out", 60)
    held_out = planted("held out", 60)
    latents = crosscoder.encode(*held_out)
    owner = np.array(WORLD.latents["owner"].to_list())
    truth = np.full(crosscoder.n_latents, "", dtype="<U8")
    best = np.full(crosscoder.n_latents, 0.7)
    for model in WORLD.planting.models[:2]:
        followed = Followed.of(latents, WORLD.carried(model, text), WORLD.families)
        better = np.nan_to_num(followed.r) >= best
        truth[better], best[better] = owner[followed.best[better]], followed.r[better]
    return truth, latent_scaling(crosscoder, *held_out)


@cache
def on_planted_truth(dedicated: float) -> tuple[Crosscoder, np.ndarray, LatentScaling]:
    config = CrosscoderSettings(d_sae=320, k=7, dedicated=dedicated)
    training = TrainingConfig(n_tokens=500_000, batch=1024, precision="float32")
    crosscoder = train_crosscoder(by_name(planted("train", 300)), config, training)
    return crosscoder, *follow(crosscoder)


def test_the_shared_share_and_no_invented_exclusives() -> None:
    crosscoder, truth, scaling = on_planted_truth(0.05)
    known = truth != ""
    assert known.sum() > 150 and scaling.explained_variance.min() > 0.75
    for classes in (latent_classes(crosscoder), latent_classes(crosscoder, scaling)):
        called = np.array(classes)
        share, true = (called[known] == "shared").mean(), (truth[known] == "shared").mean()
        assert abs(share - true) < 0.05
        false = known & (called != "shared") & (called != truth)
        assert false.sum() <= 0.02 * known.sum()


def test_latent_scaling_takes_back_the_exclusives_that_too_many_dedicated_latents_invent() -> None:
    """With 30 % of the latents for each model, some must share a planted latent between them."""
    crosscoder, truth, scaling = on_planted_truth(0.3)
    by_norm, scaled = (np.array(latent_classes(crosscoder, given)) for given in (None, scaling))
    shared, alone = truth == "shared", (truth == "A") | (truth == "B")
    assert (shared & (by_norm != "shared")).sum() >= 10
    assert (shared & (scaled != "shared")).sum() <= 1
    assert (alone & (scaled == truth)).sum() >= 0.9 * (alone & (by_norm == truth)).sum()


# latent scaling by hand


def by_hand(shrunk: float, others: bool) -> tuple[Crosscoder, tuple[torch.Tensor, torch.Tensor]]:
    """Latent 0 writes 3 in A and nothing in B, where the same concept adds `shrunk` unwritten.

    Latent 1 writes 4 in B alone: another concept, or the same where `others`.
    """
    rng = np.random.default_rng(0)
    n = 4000
    concept, other = (rng.random(n) * (rng.random(n) < 0.2) for _ in range(2))
    a, b = np.zeros((n, 3)), np.zeros((n, 2))
    a[:, 0], b[:, 0] = 3 * concept, shrunk * concept
    b[:, 1] = 4 * (concept if others else other)
    noise = 0.01 * rng.standard_normal((n, 5))
    W_enc, W_dec = torch.zeros(5, 2), torch.zeros(2, 5)
    W_enc[0, 0], W_enc[4, 1] = 1 / 3, 1 / 4
    W_dec[0, 0], W_dec[1, 4] = 3.0, 4.0
    facts = Streams(("A", "B"), (3, 2), (1.0, 1.0)).facts()
    threshold = torch.full((2,), 0.04)
    sae = SparseAutoencoder(
        W_enc, torch.zeros(2), W_dec, torch.zeros(5), "batchtopk", None, threshold, {FACTS: facts}
    )
    x = torch.from_numpy(np.concatenate([a, b], axis=1) + noise).float()
    return Crosscoder(sae), (x[:, :3], x[:, 3:])


def test_complete_shrinkage_is_seen_in_the_error() -> None:
    crosscoder, residuals = by_hand(shrunk=1.5, others=False)
    scaling = latent_scaling(crosscoder, *residuals)
    np.testing.assert_allclose(scaling.beta_error[:, 0], [3.0, 1.5], atol=0.03)
    np.testing.assert_allclose(scaling.beta_reconstruction[:, 0], [3.0, 0.0], atol=0.3)
    assert latent_classes(crosscoder)[0] == "A"
    assert latent_classes(crosscoder, scaling)[0] == "shared"


def test_latent_decoupling_is_seen_in_the_reconstruction() -> None:
    crosscoder, residuals = by_hand(shrunk=0.0, others=True)
    scaling = latent_scaling(crosscoder, *residuals)
    np.testing.assert_allclose(scaling.beta_reconstruction[:, 0], [3.0, 4.0], atol=0.05)
    assert latent_classes(crosscoder) == ["A", "B"]
    assert latent_classes(crosscoder, scaling) == ["shared", "shared"]


def test_an_exclusive_latent_stays_one() -> None:
    crosscoder, residuals = by_hand(shrunk=0.0, others=False)
    scaling = latent_scaling(crosscoder, *residuals)
    assert abs(scaling.beta_error[1, 0]) < 0.2 and abs(scaling.beta_reconstruction[1, 0]) < 0.3
    assert latent_classes(crosscoder, scaling) == ["A", "B"]
    table = latent_table(crosscoder, scaling)
    assert table["class"].to_list() == ["A", "B"]
    assert table["norm A"].to_list() == [3.0, 0.0]
    assert table["n_active"].to_list() == scaling.n_active.tolist()


def test_slopes_are_those_of_least_squares(trained: Crosscoder) -> None:
    """Against numpy's least squares, a latent and a half at a time."""
    residuals = [x[:2000] for x in planted("held out", 60)]
    scaling = latent_scaling(trained, *residuals)
    latents = trained.encode(*residuals).toarray().astype(np.float64)
    x = trained.joined(residuals).double().numpy()
    W_dec, b_dec = (w.double().numpy() for w in (trained.sae.W_dec, trained.sae.b_dec))
    x_hat = latents @ W_dec + b_dec
    halves = slice(0, 1000), slice(1000, 2000)
    checked = 0
    for j in range(0, trained.n_latents, 7):
        if min((latents[part, j] > 0).sum() for part in halves) < LEAST_ACTIVE:
            assert np.isnan(scaling.beta_error[:, j]).all()
            continue
        checked += 1
        for y, beta in (
            (x - x_hat + np.outer(latents[:, j], W_dec[j]), scaling.beta_error),
            (x_hat, scaling.beta_reconstruction),
        ):
            w = [
                np.linalg.lstsq(
                    np.stack([latents[part, j], np.ones(1000)], axis=1), y[part], rcond=None
                )[0][0]
                for part in halves
            ]
            for model, part in enumerate(trained.streams.columns):
                squared = float(w[0][part] @ w[1][part])
                expected = np.sign(squared) * np.sqrt(abs(squared))
                assert beta[model, j] == pytest.approx(expected, rel=1e-4, abs=1e-4)
    assert checked >= 3
    raw = [row.double() for row in residuals]
    for model, (own, made) in enumerate(
        zip(raw, trained.decode(trained.encode(*residuals)), strict=True)
    ):
        total = (own - own.mean(0)).square().sum()
        explained = 1 - float((own - made).square().sum() / total)
        assert scaling.explained_variance[model] == pytest.approx(explained, abs=1e-4)


def test_a_latent_that_never_fires_is_undefined_and_keeps_its_class() -> None:
    crosscoder, residuals = by_hand(shrunk=1.5, others=False)
    silent = replace(crosscoder.sae, threshold=torch.full((2,), 1e30))
    scaling = latent_scaling(Crosscoder(silent), *residuals)
    assert np.isnan(scaling.beta_error).all() and scaling.n_active.sum() == 0
    assert latent_classes(Crosscoder(silent), scaling) == ["A", "B"]


# files


def test_a_file_holds_all_of_it(trained: Crosscoder, tmp_path: Path) -> None:
    trained.save(tmp_path)
    again = Crosscoder.load(tmp_path)
    assert again.streams == trained.streams and again.sae.kind == "batchtopk"
    for name in ("W_enc", "b_enc", "W_dec", "b_dec", "threshold"):
        assert torch.equal(getattr(again.sae, name), getattr(trained.sae, name))
    facts = json.loads((tmp_path / "cfg.json").read_text())["metadata"]
    assert facts["homolog"]["model"] == "A + B" and "hook_name" not in facts


def test_a_dictionary_of_one_model_is_no_crosscoder(tmp_path: Path) -> None:
    save(SparseAutoencoder(torch.eye(2), torch.zeros(2), torch.eye(2), torch.zeros(2)), tmp_path)
    with pytest.raises(InputError, match="it must hold a crosscoder"):
        Crosscoder.load(tmp_path)


@pytest.fixture(scope="module")
def of_one_width() -> Crosscoder:
    a, b = (x[:, :64].contiguous() for x in planted("train", 8))
    return train_crosscoder({"A": a, "B": b}, small(dedicated=0.1), SMALL)


def test_dictionary_learning_reads_ours_as_it_is(of_one_width: Crosscoder, tmp_path: Path) -> None:
    of_one_width.save(tmp_path, format="dictionary_learning")
    residuals = [x[:200, :64] for x in planted("held out", 4)]
    theirs = torch.load(tmp_path / "ae.pt", weights_only=True)
    f, x_hat = forward(theirs, torch.stack(residuals, dim=1))
    latents = of_one_width.encode(*residuals)
    np.testing.assert_allclose(latents.toarray(), f, atol=2e-3)
    for model, x in enumerate(of_one_width.decode(latents)):
        torch.testing.assert_close(x, x_hat[:, model].float(), rtol=1e-3, atol=0.05)
    trainer = json.loads((tmp_path / "config.json").read_text())["trainer"]
    assert trainer["dict_class"] == "BatchTopKCrossCoder" and trainer["activation_dim"] == 64
    again = Crosscoder.load(tmp_path)
    assert again.streams == of_one_width.streams
    torch.testing.assert_close(again.sae.W_dec, of_one_width.sae.W_dec)
    torch.testing.assert_close(again.sae.threshold, of_one_width.sae.threshold)
    convert(tmp_path, tmp_path / "back", "homolog")
    torch.testing.assert_close(load(tmp_path / "back").W_enc, of_one_width.sae.W_enc)


def foreign(name: str, **more: torch.Tensor) -> dict[str, torch.Tensor]:
    rng = torch.Generator().manual_seed(3)
    shapes = {
        "encoder.weight": (2, 6, 10),
        "encoder.bias": (10,),
        "decoder.weight": (2, 10, 6),
        "decoder.bias": (2, 6),
    }
    weights = {key: torch.randn(shape, generator=rng) for key, shape in shapes.items()}
    if name == "BatchTopKCrossCoder":
        weights |= {"k": torch.tensor(3, dtype=torch.int), "threshold": torch.tensor(2.5)}
    return weights | more


NORMAL = {
    "activation_mean": torch.arange(12.0).reshape(2, 6) / 6,
    "activation_std": torch.ones(2, 6),
    "activation_global_scale": torch.tensor(0.4),
    "target_rms": torch.tensor(1.0),
}
UNSET = NORMAL | {
    "activation_mean": torch.full((2, 6), torch.nan),
    "activation_std": torch.full((2, 6), torch.nan),
}


def write_foreign(folder: Path, name: str, weights: dict[str, torch.Tensor]) -> None:
    torch.save(weights, folder / "ae.pt")
    trainer = {"dict_class": name, "activation_dim": 6, "dict_size": 10, "lm_name": "a-b"}
    (folder / "config.json").write_text(json.dumps({"trainer": trainer}))


@pytest.mark.parametrize("normal", [{}, NORMAL, UNSET], ids=["none", "normalised", "unset"])
@pytest.mark.parametrize("code", [None, 1, 2, 4])
@pytest.mark.parametrize("name", ["CrossCoder", "BatchTopKCrossCoder"])
def test_theirs_is_read_as_it_computes(
    name: str, code: int | None, normal: dict[str, torch.Tensor], tmp_path: Path
) -> None:
    more = {} if code is None else {"code_normalization_id": torch.tensor(code)}
    weights = foreign(name, **more, **normal)
    write_foreign(tmp_path, name, weights)
    crosscoder = Crosscoder.load(tmp_path)
    x = torch.randn(200, 2, 6, generator=torch.Generator().manual_seed(0))
    f, x_hat = forward(weights, x)
    latents = crosscoder.encode(x[:, 0], x[:, 1])
    np.testing.assert_allclose(latents.toarray(), f, atol=1e-4)
    assert 0 < latents.nnz < latents.shape[0] * latents.shape[1]
    for model, found in enumerate(crosscoder.decode(latents)):
        torch.testing.assert_close(found, x_hat[:, model].float(), rtol=1e-4, atol=1e-4)
    assert crosscoder.models == ("stream 0", "stream 1")
    assert crosscoder.sae.metadata["model"] == "a-b"


# what is refused


def refused(call: Callable[[], object]) -> str:
    with pytest.raises(InputError) as error:
        call()
    return str(error.value)


@pytest.mark.parametrize(
    ("changed", "message"),
    [
        ({"threshold": torch.tensor(-1.0)}, "it was not estimated yet"),
        ({"code_normalization_id": torch.tensor(5)}, "it must be 1, 2 or 4"),
        ({"encoder.weight": torch.zeros(6, 10)}, "of two streams or more"),
        ({"decoder.bias": torch.zeros(6)}, "it must be of shape (2, 6)"),
        ({"surprise": torch.zeros(1)}, "surprise"),
        (NORMAL | {"activation_global_scale": torch.tensor(0.0)}, "it must be above 0"),
    ],
)
def test_files_of_theirs_that_are_none(
    changed: dict[str, torch.Tensor], message: str, tmp_path: Path
) -> None:
    weights = foreign("BatchTopKCrossCoder", **changed)
    write_foreign(tmp_path, "BatchTopKCrossCoder", weights)
    assert message in refused(lambda: Crosscoder.load(tmp_path))


def test_what_their_layout_cannot_hold(
    trained: Crosscoder, of_one_width: Crosscoder, tmp_path: Path
) -> None:
    said = refused(lambda: trained.save(tmp_path, format="dictionary_learning"))
    assert "widths is [96, 64]" in said and "one width alone" in said
    uneven = torch.linspace(0.1, 1, 64)
    other = Crosscoder(replace(of_one_width.sae, threshold=uneven))
    said = refused(lambda: other.save(tmp_path, format="dictionary_learning"))
    assert "one threshold for all latents" in said
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(
    ("residuals", "message"),
    [
        ({"A": torch.ones(9, 3)}, "a crosscoder is of two models or more"),
        ({"A": torch.ones(9, 3), "B": torch.ones(8, 3)}, "equal numbers of tokens"),
        ({"A": torch.ones(9, 3), "B": torch.ones(9)}, "(token, d_model)"),
        ({"A": torch.ones(9, 3), "B": torch.rand(9, 3)}, "residuals of A is 'constant'"),
    ],
)
def test_residuals_that_are_not_of_the_same_rows(
    residuals: dict[str, torch.Tensor], message: str
) -> None:
    assert message in refused(lambda: train_crosscoder(residuals, small(), SMALL))


def test_marks_of_other_rows_and_too_many_dedicated_latents() -> None:
    residuals = by_name(planted("train", 8))
    said = refused(lambda: train_crosscoder(residuals, small(), SMALL, keep=np.ones(7, bool)))
    assert "it must mark two at least of 2048 rows" in said
    said = refused(lambda: train_crosscoder(residuals, small(dedicated=0.5), SMALL))
    assert "2 models have 32 of 64 latents each" in said
    assert dedicated_columns(small(dedicated=0.0), Streams(NAMES, (96, 64), (1.0, 1.0))) is None


def test_residuals_of_other_models(trained: Crosscoder) -> None:
    a, b = (x[:20] for x in planted("held out", 4))
    assert "A (token, 96), B (token, 64)" in refused(lambda: trained.encode(b, a))
    assert "Give one of each model" in refused(lambda: trained.encode(a))
    assert "on the same tokens" in refused(lambda: trained.encode(a, b[:10]))
    broken = b.clone()
    broken[3, 5] = torch.nan
    assert "residuals of B" in refused(lambda: trained.encode(a, broken))
    assert "two halves are needed" in refused(lambda: latent_scaling(trained, a[:1], b[:1]))


@pytest.mark.parametrize(
    ("facts", "message"),
    [
        ("A and B", "it must say models, widths and scales"),
        ({"models": ["A"], "widths": [1], "scales": [1.0]}, "it must be a str for each"),
        ({"models": ["A", "B"], "widths": [1, 2.5], "scales": [1.0, 1.0]}, "crosscoder.widths"),
        ({"models": ["A", "B"], "widths": [1, 2], "scales": [1.0, -1.0]}, "a scale above 0"),
        ({"models": ["A", "B"], "widths": [1, 2, 3], "scales": [1.0, 1.0]}, "every model has"),
        ({"models": ["A", "B"], "widths": [96, 63], "scales": [1.0, 1.0]}, "of width 160"),
    ],
)
def test_files_whose_models_are_not_said(
    trained: Crosscoder, facts: Any, message: str, tmp_path: Path
) -> None:
    save(replace(trained.sae, metadata={FACTS: facts}), tmp_path)
    assert message in refused(lambda: Crosscoder.load(tmp_path))


@pytest.mark.parametrize(
    ("columns", "message"),
    [
        (np.zeros((D_SAE, 3), np.int64), "integers (40, 2) are needed"),
        (np.zeros((D_SAE, 2)), "integers (40, 2) are needed"),
        (np.tile([0, 161], (D_SAE, 1)), "some of the 160 columns"),
        (np.tile([5, 5], (D_SAE, 1)), "[5, 5] of feature 0"),
    ],
)
def test_columns_that_are_not_there(columns: np.ndarray, message: str) -> None:
    source = JointResiduals(by_name(planted("train", 8)), SMALL)
    config = batchtopk.Settings(d_sae=D_SAE, k=5)
    assert message in refused(lambda: train(source, config, SMALL, model="m", columns=columns))
