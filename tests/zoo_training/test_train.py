"""Training the zoo: what windows hold, and that a killed run ends with the same bytes."""

import dataclasses

import numpy as np
import pytest

from homolog.progress import SilentProgress
from homolog.zoo_training import train as training
from homolog.zoo_training.data import Mixture, batch_at

STREAM = np.random.default_rng(0).integers(1, 50, 10_000)


def test_text_windows_cover_the_text_once_an_epoch():
    mixture = Mixture(context=10, batch=4, repeats_start=0, repeats_end=0)
    seen = np.concatenate([batch_at(mixture, STREAM, step, 1)[0] for step in range(249)])
    starts = {
        int(np.flatnonzero((np.lib.stride_tricks.sliding_window_view(STREAM, 11) == row).all(1))[0])
        for row in seen
    }
    assert len(starts) == len(seen) == 996  # of the 999 windows of the text, none twice
    assert all(start % 10 == 0 for start in starts)


def test_repeats_fill_the_window_and_the_first_pass_has_no_weight():
    mixture = Mixture(
        context=40, batch=8, repeats_start=1, repeats_end=1, shortest=3, longest_start=9
    )
    tokens, weights = batch_at(mixture, STREAM, 5, 1)
    for row, weight in zip(tokens, weights, strict=True):
        # targets 1 ... length - 1 are the rest of the first pass
        length = int((weight == 0).sum()) + 1
        assert 3 <= length <= 9
        assert (row[length:] == row[:-length]).all()


def test_batches_follow_from_the_step_alone():
    mixture = Mixture()
    first, again = batch_at(mixture, STREAM, 7, 1), batch_at(mixture, STREAM, 7, 1)
    assert all(np.array_equal(a, b) for a, b in zip(first, again, strict=True))
    assert not np.array_equal(first[0], batch_at(mixture, STREAM, 8, 1)[0])


class _Killed(Exception):
    pass


@pytest.mark.parametrize("name", ["transformer-s1", "mamba-s1"])
def test_a_killed_run_ends_with_the_same_bytes(name, tmp_path, monkeypatch):
    architecture = training.entry(name).architecture
    short = dataclasses.replace(
        training.CONFIGS[architecture], steps=6, mixture=Mixture(context=16, batch=2)
    )
    monkeypatch.setitem(training.CONFIGS, architecture, short)
    monkeypatch.setattr(training, "CHECKPOINT_EVERY", 2)
    monkeypatch.setattr(training, "token_stream", lambda: STREAM)
    monkeypatch.setattr(training, "write_card", lambda folder: folder)
    whole = training.train(name, tmp_path / "whole", progress=SilentProgress())
    steps = []
    step = training._step

    def dies(model, optimizer, config, stream, number):
        if number == 5 and not steps:
            steps.append(number)
            raise _Killed
        return step(model, optimizer, config, stream, number)

    monkeypatch.setattr(training, "_step", dies)
    with pytest.raises(_Killed):
        training.train(name, tmp_path / "cut", progress=SilentProgress())
    assert (tmp_path / "cut" / "checkpoint.safetensors").exists()
    training.train(name, tmp_path / "cut", progress=SilentProgress())
    assert (whole / "model.safetensors").read_bytes() == (
        tmp_path / "cut" / "model.safetensors"
    ).read_bytes()
    assert not (tmp_path / "cut" / "checkpoint.safetensors").exists()


def test_a_checkpoint_of_another_recipe_is_refused(tmp_path, monkeypatch):
    short = dataclasses.replace(
        training.CONFIGS["mamba"], steps=3, mixture=Mixture(context=16, batch=2)
    )
    monkeypatch.setitem(training.CONFIGS, "mamba", short)
    monkeypatch.setattr(training, "CHECKPOINT_EVERY", 2)
    monkeypatch.setattr(training, "token_stream", lambda: STREAM)
    monkeypatch.setattr(training, "_publish", lambda *_: (_ for _ in ()).throw(_Killed))
    with pytest.raises(_Killed):
        training.train("mamba-s1", tmp_path, progress=SilentProgress())
    with pytest.raises(ValueError, match="another recipe"):
        training.train("mamba-s1", tmp_path, seed=5, progress=SilentProgress())


def test_twins_are_not_trained(tmp_path):
    with pytest.raises(ValueError, match="made from their seed"):
        training.train("mamba-random", tmp_path, progress=SilentProgress())
