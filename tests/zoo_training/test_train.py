"""Training the zoo: what windows hold, and that a killed run ends with the same bytes."""

import dataclasses
import json

import numpy as np
import pytest
import torch

from homolog.errors import InputError
from homolog.models.load import from_folder
from homolog.progress import SilentProgress
from homolog.zoo_training import train as training
from homolog.zoo_training.data import Mixture, batch_at
from homolog.zoo_training.families import FAMILIES, Training
from homolog.zoo_training.text.tokenizer import tokens, train_tokenizer

STREAM = np.random.default_rng(0).integers(1, 50, 10_000)
SHORT = Training(
    steps=6, warmup=2, mixture=Mixture(context=16, batch=2, longest_start=6, longest_end=6)
)


@pytest.fixture(scope="module")
def text(tmp_path_factory):
    """A folder as `gather` and `tokenizer` leave it, of a few hundred words."""
    folder = tmp_path_factory.mktemp("text")
    rng = np.random.default_rng(0)
    words = ["".join(rng.choice(list("abcdefgh"), 4)) for _ in range(300)]
    lines = [json.dumps({"text": " ".join(rng.choice(words, 200))}) for _ in range(30)]
    for name in ("train.jsonl", "domains.jsonl"):
        (folder / name).write_text("\n".join(lines) + "\n")
    train_tokenizer(folder)
    tokens(folder)
    return folder


@pytest.fixture
def short(monkeypatch):
    """Six steps, with a checkpoint after every two."""
    for name, family in FAMILIES.items():
        monkeypatch.setitem(FAMILIES, name, dataclasses.replace(family, training=SHORT))
    monkeypatch.setattr(training, "BETWEEN", 2)
    monkeypatch.setattr(training, "KEPT", (0, 4))
    monkeypatch.setattr(training, "write_card", lambda folder, text: folder)


ALL_RANDOM = Mixture(
    context=40, batch=8, random_start=1, random_end=1, shortest=3, longest_start=9, ids=(1, 200)
)


def test_text_windows_cover_the_text_once_an_epoch():
    mixture = Mixture(context=10, batch=4, random_start=0, random_end=0)
    seen = np.concatenate([batch_at(mixture, STREAM, step)[0] for step in range(249)])
    starts = {
        int(np.flatnonzero((np.lib.stride_tricks.sliding_window_view(STREAM, 11) == row).all(1))[0])
        for row in seen
    }
    assert len(starts) == len(seen) == 996  # of the 999 windows of the text, none twice
    assert all(start % 10 == 0 for start in starts)


def test_repeats_fill_the_window_and_the_first_pass_has_no_weight():
    mixture = dataclasses.replace(ALL_RANDOM, recall_share=0)
    tokens, weights = batch_at(mixture, STREAM, 5)
    for row, weight in zip(tokens, weights, strict=True):
        # targets 1 ... length - 1 are the rest of the first pass
        length = int((weight == 0).sum()) + 1
        assert 3 <= length <= 9
        assert (row[length:] == row[:-length]).all()


def test_recalls_ask_for_what_followed_a_token_and_nothing_else_could():
    mixture = dataclasses.replace(ALL_RANDOM, recall_share=1, shortest=20, longest_start=20)
    n_asked = 0
    for step in range(20):
        tokens, weights = batch_at(mixture, STREAM, step)
        for row, weight in zip(tokens, weights, strict=True):
            asked = np.flatnonzero(weight) + 1
            n_asked += len(asked)
            episode = row[:40].tolist()
            for place in asked[asked < 40]:
                key = episode[place - 1]
                before = [i for i in range(place - 1) if episode[i] == key]
                assert before and {episode[i + 1] for i in before} == {episode[place]}
            again = [i for i, token in enumerate(episode) if token in episode[:i]]
            assert set(again) == {i for place in asked[asked < 40] for i in (place - 1, place)}
    assert 4 < n_asked / 160 < 12  # windows of 41 tokens; 0.3 of them would be 9 at most


def test_batches_follow_from_the_step_alone():
    mixture = Mixture()
    first, again = batch_at(mixture, STREAM, 7), batch_at(mixture, STREAM, 7)
    assert all(np.array_equal(a, b) for a, b in zip(first, again, strict=True))
    assert not np.array_equal(first[0], batch_at(mixture, STREAM, 8)[0])


class _Killed(Exception):
    pass


@pytest.mark.parametrize("name", ["gpt-neox-s1", "mamba-1-s1"])
def test_a_killed_run_ends_with_the_same_bytes(name, tmp_path, monkeypatch, short, text):
    whole = training.train(name, tmp_path / "whole", text, progress=SilentProgress())
    steps = []
    step = training._step

    def dies(model, optimizers, config, stream, number):
        if number == 5 and not steps:
            steps.append(number)
            raise _Killed
        return step(model, optimizers, config, stream, number)

    monkeypatch.setattr(training, "_step", dies)
    with pytest.raises(_Killed):
        training.train(name, tmp_path / "cut", text, progress=SilentProgress())
    assert (tmp_path / "cut" / "checkpoint.safetensors").exists()
    training.train(name, tmp_path / "cut", text, progress=SilentProgress())
    assert (whole / "model.safetensors").read_bytes() == (
        tmp_path / "cut" / "model.safetensors"
    ).read_bytes()
    assert not (tmp_path / "cut" / "checkpoint.safetensors").exists()


def test_weights_are_kept_at_steps_on_the_way(tmp_path, short, text):
    made = training.train("llama-s0", tmp_path, text, progress=SilentProgress())
    chosen, seed = training.family("llama-s0")
    fresh = training.new_model(chosen, seed, text).hf.half().state_dict()
    first = from_folder(made / "steps" / "step0", torch.float16).hf.state_dict()
    assert all(torch.equal(first[key], value) for key, value in fresh.items())
    later = from_folder(made / "steps" / "step4", torch.float16).hf.state_dict()
    last = from_folder(made, torch.float16).hf.state_dict()
    assert not any(
        torch.equal(later["lm_head.weight"], at["lm_head.weight"]) for at in (first, last)
    )


@pytest.mark.parametrize("name", FAMILIES)
def test_families_are_small_and_start_at_chance(name, text):
    """As likely every token as any other: the loss of a fresh model is near log(vocabulary)."""
    chosen, _ = training.family(f"{name}-s0")
    model = training.new_model(chosen, 0, text)
    assert 2e6 <= model.n_parameters <= 3e6
    assert model.d_model == 192
    windows = torch.from_numpy(np.random.default_rng(1).integers(1, 4096, (2, 33)))
    with torch.inference_mode():
        logits = model.run(windows[:, :-1]).logits
    loss = torch.nn.functional.cross_entropy(logits.flatten(0, 1), windows[:, 1:].flatten())
    assert loss < np.log(4096) + 1.5


def test_a_mamba_begins_near_linear_attention(text):
    """A token is written and read by one direction, stays, and weighs what its neighbours do."""
    chosen, seed = training.family("mamba-1-s0")
    model = training.new_model(chosen, seed, text)
    for block in model.hf.backbone.layers:
        mixer = block.mixer
        _, written, read = mixer.x_proj.weight.split([mixer.time_step_rank, 16, 16])
        assert torch.equal(written, read)
        dt = torch.nn.functional.softplus(mixer.dt_proj.bias)
        torch.testing.assert_close(dt, torch.full_like(dt, 0.3))
        kept = torch.exp(-dt[:, None] * torch.exp(mixer.A_log))  # of the state, to the next token
        assert kept.max() > 0.996 and kept.min() > 0.74


@pytest.mark.parametrize("name", FAMILIES)
def test_products_in_bfloat16_change_little(name, text, monkeypatch):
    """A step's loss and gradients; scans, norms and the residual stream stay float32."""
    mixture = Mixture(batch=2, context=48)
    config, stream = Training(mixture=mixture, warmup=1), tokens(text)
    losses, gradients = [], []
    for precision in ("float32", "bfloat16"):
        monkeypatch.setattr(training, "product_precision", lambda *_, chosen=precision: chosen)
        chosen, seed = training.family(f"{name}-s0")
        model = training.new_model(chosen, seed, text)
        losses.append(training._step(model, training._optimizers(model, config), config, stream, 0))
        own = [p.grad for p in model.hf.parameters() if p.grad is not None]
        assert all(gradient.dtype == torch.float32 for gradient in own)
        gradients.append(torch.cat([gradient.flatten().double() for gradient in own]))
    assert abs(losses[0] - losses[1]) < 0.02 and not torch.equal(*gradients)
    assert torch.nn.functional.cosine_similarity(*gradients, dim=0) > 0.99


def test_a_checkpoint_of_another_recipe_is_refused(tmp_path, monkeypatch, short, text):
    monkeypatch.setattr(training, "_publish", lambda *_: (_ for _ in ()).throw(_Killed))
    with pytest.raises(_Killed):
        training.train("mamba-1-s1", tmp_path, text, progress=SilentProgress())
    with pytest.raises(InputError, match="another recipe"):
        training.train("mamba-1-s2", tmp_path, text, progress=SilentProgress())


@pytest.mark.parametrize("name", ["mamba", "mamba-random", "bert-s0"])
def test_only_families_with_a_seed_are_trained(name, tmp_path, text):
    with pytest.raises(InputError, match="a family and a seed"):
        training.train(name, tmp_path, text, progress=SilentProgress())


def test_without_text_the_command_that_makes_it_is_named(tmp_path):
    with pytest.raises(InputError, match=r"text\.gather"):
        train_tokenizer(tmp_path)
