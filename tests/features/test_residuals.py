"""Residuals on disk: stream, fingerprint and dictionaries are those of residuals in memory."""

from __future__ import annotations

import logging

import pytest
import torch
from tests.features.helpers import BATCH, contents, memory, residual_sites, stream

from homolog.corpus import TokenWindows
from homolog.dictionaries import (
    ActivationSource,
    Checkpoint,
    Place,
    ResidualArrays,
    StoredResiduals,
    TrainingConfig,
    save,
    train,
)
from homolog.dictionaries.kinds import relu
from homolog.errors import InputError
from homolog.features import capture, residuals, write_residuals
from homolog.record.receipts import write_receipt

N_WINDOWS = 22
STREAM = {"seed": 3, "name": "transformer-s0"}
pytestmark = pytest.mark.usefixtures("small_passes")


@pytest.fixture(scope="module")
def windows() -> TokenWindows:
    return stream(N_WINDOWS, seed=1)


@pytest.fixture(scope="module")
def in_memory(model, windows, small_passes) -> list[torch.Tensor]:
    return capture(model, windows, residual_sites(model))


def same_stream(a: ActivationSource, b: ActivationSource, layers: list[int]) -> bool:
    """Layers of `a`, which serves all, against those of `b`: one and a half epochs, the sample."""
    pairs = [(a.read(start, 350), b.read(start, 350)) for start in range(0, 1000, 350)]
    pairs.append((a.sample(200), b.sample(200)))
    return all(torch.equal(x[layer], y[i]) for x, y in pairs for i, layer in enumerate(layers))


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("batches", [1, 2, 100])
def test_the_stream_is_that_of_memory(tmp_path, model, windows, in_memory, batches, dtype):
    folder = write_residuals(
        model, windows, tmp_path, key="m", dtype=dtype, memory=memory(model, batches)
    )
    assert len(list((folder / "0").iterdir())) == (
        1 if batches == 100 else -(-N_WINDOWS // BATCH // batches)
    )
    arrays = ResidualArrays([x.to(dtype) for x in in_memory], **STREAM)
    stored = StoredResiduals(folder, **STREAM)
    assert isinstance(stored, ActivationSource) and isinstance(arrays, ActivationSource)
    assert (stored.n_layers, stored.d_model, stored.n_tokens) == (
        arrays.n_layers,
        arrays.d_model,
        arrays.n_tokens,
    )
    assert stored.fingerprint == arrays.fingerprint and stored.stream_hash == windows.hash
    assert same_stream(arrays, stored, list(range(model.n_layers)))
    group = StoredResiduals(folder, **STREAM, layers=[3, 1])
    assert list(group.layer_numbers) == [3, 1] and group.fingerprint == arrays.fingerprint
    assert same_stream(arrays, group, [3, 1])


def test_the_fingerprint_changes_with_the_stream(tmp_path, model, windows, in_memory):
    folder = write_residuals(model, windows, tmp_path, key="m")
    prints = [
        StoredResiduals(folder, **STREAM).fingerprint,
        StoredResiduals(folder, seed=4, name="transformer-s0").fingerprint,
        StoredResiduals(folder, seed=3, name="other").fingerprint,
        ResidualArrays([*in_memory[:3], in_memory[3] + 1], **STREAM).fingerprint,
        ResidualArrays([x[:-1] for x in in_memory], **STREAM).fingerprint,
    ]
    assert len(set(prints)) == len(prints)


def test_layers_trained_in_groups_from_disk_are_those_trained_at_once(
    tmp_path, model, windows, in_memory
):
    options = {
        "config": relu.Settings(d_sae=96, l1=1.0),
        "training": TrainingConfig(n_tokens=4000, batch=128, scale_sample=300),
        "model": "transformer-s0",
        "labels": ("sae", "seed1"),
        "on": Place(workers=1),
    }
    at_once = train(ResidualArrays(in_memory, **STREAM), **options)
    folder = write_residuals(
        model, windows, tmp_path / "residuals", key="m", memory=memory(model, 2)
    )
    for label, saes in at_once.items():
        for layer, sae in enumerate(saes):
            save(sae, tmp_path / "at-once" / label / str(layer))
    for layers in ([2], [0, 3], [1]):
        trained = train(StoredResiduals(folder, **STREAM, layers=layers), **options)
        for label, saes in trained.items():
            for layer, sae in zip(layers, saes, strict=True):
                save(sae, tmp_path / "in-groups" / label / str(layer))
    assert len(contents(tmp_path / "at-once")) == 2 * 4 * 2
    assert contents(tmp_path / "in-groups") == contents(tmp_path / "at-once")


def test_a_checkpoint_of_other_layers_is_refused(tmp_path, model, windows):
    folder = write_residuals(model, windows, tmp_path / "residuals", key="m")
    training = TrainingConfig(n_tokens=40_000, batch=128, scale_sample=300)
    options = {
        "config": relu.Settings(d_sae=32),
        "training": training,
        "model": "m",
        "on": Place(workers=1),
        "checkpoint": Checkpoint(tmp_path / "checkpoint.safetensors", 1),
    }

    def kill(progress) -> None:
        if progress.tokens_done > 16_384:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        train(StoredResiduals(folder, **STREAM, layers=[1]), **options, progress=kill)
    with pytest.raises(InputError, match="layers differ"):
        train(StoredResiduals(folder, **STREAM, layers=[2]), **options)
    train(StoredResiduals(folder, **STREAM, layers=[1]), **options)


@pytest.mark.parametrize("fatal", [1, 7, 24])
def test_a_killed_writing_goes_on(tmp_path, model, windows, monkeypatch, fatal):
    options = {"key": "m", "memory": memory(model, 1)}
    write_residuals(model, windows, tmp_path / "whole", **options)
    calls = {"parts": 0, "passes": 0}

    def dying(*args, real=residuals.write_part):
        calls["parts"] += 1
        if calls["parts"] == fatal:
            raise KeyboardInterrupt
        return real(*args)

    def counted(*args, real=residuals.capture_residuals):
        calls["passes"] += 1
        return real(*args)

    monkeypatch.setattr(residuals, "write_part", dying)
    monkeypatch.setattr(residuals, "capture_residuals", counted)
    with pytest.raises(KeyboardInterrupt):
        write_residuals(model, windows, tmp_path / "killed", **options)
    with pytest.raises(InputError, match="manifest"):
        StoredResiduals(tmp_path / "killed", **STREAM)
    write_residuals(model, windows, tmp_path / "killed", **options)
    assert calls["passes"] == -(-N_WINDOWS // BATCH) + 1
    assert contents(tmp_path / "killed") == contents(tmp_path / "whole")


def test_damage_is_named_and_made_again(tmp_path, model, windows, caplog):
    options = {"key": "m", "memory": memory(model, 2)}
    folder = write_residuals(model, windows, tmp_path, **options)
    whole = contents(folder)
    part = folder / "2" / "part-00001.safetensors"
    data = bytearray(part.read_bytes())
    data[-5] ^= 1
    part.write_bytes(data)
    StoredResiduals(folder, **STREAM, layers=[0, 1, 3]).read(0, 500)  # others are not touched
    with (
        caplog.at_level(logging.WARNING, "homolog"),
        pytest.raises(InputError, match=r"2/part-00001\.safetensors"),
    ):
        StoredResiduals(folder, **STREAM)
    assert str(part) in caplog.text
    write_residuals(model, windows, tmp_path, **options)
    assert contents(folder) == whole


def test_what_is_not_there_is_named(tmp_path, model, windows):
    with pytest.raises(InputError, match="residuals manifest"):
        StoredResiduals(tmp_path, **STREAM)
    folder = write_residuals(model, windows, tmp_path, key="m")
    for layers in ([4], [], [-1]):
        with pytest.raises(InputError, match="those that are stored are 0, 1, 2, 3"):
            StoredResiduals(folder, **STREAM, layers=layers)


def test_a_manifest_that_is_damaged_or_older_is_not_read(tmp_path, model, windows):
    folder = write_residuals(model, windows, tmp_path, key="m")
    manifest = folder / "manifest.json"
    whole = manifest.read_text()
    assert "float32" in whole
    for damaged in ("", "[]", whole[:-9], whole.replace("float32", "float64"), '{"format": 1}'):
        manifest.write_text(damaged)
        with pytest.raises(InputError, match=r"manifest.json', but it must be there and whole"):
            StoredResiduals(folder, **STREAM)
    write_receipt(manifest, {"format": 7}, [], "residuals")
    with pytest.raises(InputError, match="format 2 is read"):
        StoredResiduals(folder, **STREAM)
    write_residuals(model, windows, tmp_path, key="m")
    assert manifest.read_text() == whole
