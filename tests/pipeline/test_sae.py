"""Dictionaries on their own: training to the same bytes after a kill, held-out text, quality,
trackers, settings.
"""

from __future__ import annotations

import importlib
import json
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import pytest
import torch

from homolog import dictionaries
from homolog.corpus import TokenWindows
from homolog.dictionaries import (
    SparseAutoencoder,
    TrainingConfig,
    TrainingDivergedError,
    parse_config,
    saved_quality,
)
from homolog.dictionaries.formats import CONFIG_FILE, WEIGHTS_FILE
from homolog.errors import InputError
from homolog.models import load_tokenizer
from homolog.pipeline import sae as module
from homolog.pipeline import sae_inputs
from homolog.pipeline.recipes import parse_saes, sparsity_of
from homolog.pipeline.sae import seed_agreement, train_saes, training_config
from homolog.pipeline.sae_eval import evaluate_sae
from homolog.pipeline.sae_text import Text, heldout_again, hold_out, read_text
from homolog.progress import SilentProgress
from homolog.record.recipe import EvaluationRecipe, SaeRecipe
from homolog.record.run_folder import RunFolder

SMALL = {
    "model": "zoo:transformer-s0",
    "layers": (1, 3),
    "d_sae": 64,
    "l1": 1.0,
    "tokens": 60_000,
    "context": 64,
    "heldout": 5120,
    "pool_tokens": 8192,
    "batch": 256,
}

TOPK = {"kind": "topk", "k": 4, "l1": None}


class Words(SilentProgress):
    """Keeps the words of the bar, and may stop the training."""

    def __init__(self, stop_after: int | None = None) -> None:
        self.stop_after = stop_after
        self.words: list[str] = []
        self.skipped, self.advanced = 0.0, 0.0
        self.stages: list[str] = []

    @contextmanager
    def stage(self, name: str, total: float | None = None) -> Iterator[Words]:
        self.stages.append(name)
        yield self

    def advance(self, n: float = 1, words: str = "") -> None:
        if self.stages[-1].startswith("train"):
            self.advanced += n
            self.words.append(words)
            if len(self.words) == self.stop_after:
                raise KeyboardInterrupt

    def skip(self, n: float) -> None:
        self.skipped += n


def files(run: Path) -> dict[str, bytes]:
    return {
        p.relative_to(run).as_posix(): p.read_bytes()
        for p in sorted((run / "saes").rglob("*"))
        if p.is_file()
    }


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, list[dict[str, Any]], Words]:
    out, progress = tmp_path_factory.mktemp("trained") / "run", Words()
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    rows = train_saes(
        parse_saes(**SMALL), out, progress, workers=1, tensorboard_folder=out.parent / "events"
    )
    torch.set_num_threads(threads)
    return out, rows, progress


def test_all_layers_and_seeds_lie_in_a_run_folder_with_their_quality(trained) -> None:
    out, rows, _ = trained
    run = RunFolder(out)
    assert run.verify() == []
    assert sorted(files(out)) == sorted(
        f"saes/{name}/{layer}/{file}"
        for name in ("transformer-s0", "transformer-s0@seed1")
        for layer in (1, 3)
        for file in (CONFIG_FILE, WEIGHTS_FILE)
    )
    assert [(row["label"], row["layer"]) for row in rows] == [
        ("sae", 1),
        ("sae", 3),
        ("seed1", 1),
        ("seed1", 3),
    ]
    assert pl.read_parquet(run.table("saes")).to_dicts() == rows
    for row in rows:
        sae = dictionaries.load(run.sae_folder("transformer-s0", row["layer"], row["label"]))
        quality = saved_quality(sae)
        assert quality is not None and quality.explained_variance == row["explained_variance"] > 0.3
        assert (
            quality.loss_recovered == row["loss_recovered"]
            and row["loss_clean"] < row["loss_spliced"]
        )
        assert sae.d_sae == 64 and sae.metadata["config"]["l1"] == row["sparsity"] == 1.0
        assert row["tokens_trained"] == 234 * 256
        assert (row["seed_agreement"] is None) == (row["label"] == "sae")
    assert not (out / "cache").exists()


def test_the_file_says_which_model_tokenizer_and_text(trained) -> None:
    out, _, _ = trained
    sae = dictionaries.load(out / "saes/transformer-s0/3")
    tokenizer = load_tokenizer("zoo:transformer-s0")
    assert (sae.metadata["ref"], sae.metadata["model"], sae.metadata["layer"]) == (
        SMALL["model"],
        "transformer-s0",
        3,
    )
    assert sae.metadata["revision"] is None
    assert sae.metadata["tokenizer"] == RunFolder(out).record["corpus"]["tokenizer"]
    heldout = heldout_again(Text(**sae.metadata["text"]), tokenizer)
    assert (
        heldout.n_tokens == 5120 and heldout.hash == RunFolder(out).record["corpus"]["heldout_hash"]
    )
    facts = json.loads((out / "saes/transformer-s0/3" / CONFIG_FILE).read_text())["metadata"]
    assert facts["model_name"] == SMALL["model"] and facts["tokenizer"] == sae.metadata["tokenizer"]


def test_the_display_is_told_how_it_goes(trained) -> None:
    _, _, progress = trained
    assert progress.stages == ["read the text", "train 4 dictionaries", "measure quality"]
    assert progress.advanced == 234 * 256 and progress.skipped == 0
    for part in ("loss ", "L0 ", "explained ", "silent ", " tokens/s"):
        assert all(part in words for words in progress.words)


def test_a_complete_run_is_answered_without_the_model(trained, monkeypatch) -> None:
    out, rows, _ = trained
    monkeypatch.setattr(sae_inputs, "load", lambda *_, **__: pytest.fail("the model was loaded"))
    assert train_saes(parse_saes(**SMALL), out, SilentProgress()) == rows


@pytest.mark.parametrize("stream", ["pool", "store"])
def test_a_killed_training_ends_with_the_same_bytes(tmp_path, trained, stream: str) -> None:
    settings = parse_saes(
        **SMALL | {"stream": stream, "layers": (1,), "seeds": 1, "tokens": 55_000} | TOPK
    )
    torch.set_num_threads(1)
    train_saes(settings, tmp_path / "whole", SilentProgress(), workers=1)
    with pytest.raises(KeyboardInterrupt):
        train_saes(
            settings, tmp_path / "killed", Words(stop_after=3), workers=1, checkpoint_every=1
        )
    assert (
        RunFolder(tmp_path / "killed").record["stages"]["dictionaries transformer-s0"]["status"]
        == "interrupted"
    )
    progress = Words()
    train_saes(settings, tmp_path / "killed", progress, workers=1)
    assert progress.skipped == 2 * 16_384 and len(progress.words) == 2  # it did not start again
    assert files(tmp_path / "killed") == files(tmp_path / "whole")
    assert RunFolder(tmp_path / "killed").verify() == []


def test_nothing_is_trained_again_when_measuring_is_stopped(tmp_path, monkeypatch) -> None:
    settings = parse_saes(**SMALL | {"layers": (1,), "tokens": 20_000} | TOPK)
    torch.set_num_threads(1)
    train_saes(settings, tmp_path / "whole", SilentProgress(), workers=1)

    def stopped(*_: object, **__: object) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(module, "measure_on_text", stopped)
        with pytest.raises(KeyboardInterrupt):
            train_saes(settings, tmp_path / "stopped", SilentProgress(), workers=1)
    progress = Words()
    train_saes(settings, tmp_path / "stopped", progress, workers=1)
    assert progress.stages == ["read the text", "measure quality"]
    assert files(tmp_path / "stopped") == files(tmp_path / "whole")


def test_stored_residuals_are_those_of_the_running_model(tmp_path) -> None:
    """Both ways give one dictionary of the same text, up to the order of tokens: much the same
    quality.
    """
    torch.set_num_threads(1)
    options = SMALL | {"layers": (1,), "seeds": 1, "tokens": 33_000} | TOPK
    rows = [
        train_saes(
            parse_saes(**options | {"stream": stream}),
            tmp_path / stream,
            SilentProgress(),
            workers=1,
        )[0]
        for stream in ("pool", "store")
    ]
    assert rows[0]["explained_variance"] == pytest.approx(rows[1]["explained_variance"], abs=0.03)
    assert rows[0]["loss_clean"] == rows[1]["loss_clean"]  # the same text is held out


def test_other_settings_are_refused_with_what_differs(trained) -> None:
    out, _, _ = trained
    with pytest.raises(InputError, match=r"--out is .* which differs in l1 \(1.0 there, 2.0 now\)"):
        train_saes(parse_saes(**SMALL | {"l1": 2.0}), out, SilentProgress())


def test_what_cannot_be_trained_leaves_no_folder(tmp_path) -> None:
    for wrong, message in [
        ({"layers": (1, 9)}, "--layers is 9, but zoo:transformer-s0 has layers 0 to 3"),
        ({"d_sae": 10**9}, r"--layers is '4 dictionaries of .* Train fewer layers at a time"),
        ({"context": 1024}, "--context is 1024, but zoo:transformer-s0 has 512 positions"),
        ({"heldout": 400_000}, "--text is 'zoo:demo', but it has .* smaller --heldout"),
        ({"text": "/nowhere"}, "corpus"),
        ({"device": "gpu"}, "--device is 'gpu', but it is the name of no device"),
    ]:
        with pytest.raises(InputError, match=message):
            train_saes(parse_saes(**SMALL | wrong), tmp_path / "run", SilentProgress())
        assert not (tmp_path / "run").exists()


def test_a_training_that_diverges_says_where_and_is_not_done(tmp_path) -> None:
    settings = parse_saes(**SMALL | {"lr": 1e30, "layers": (1,), "tokens": 20_000})
    with pytest.raises(TrainingDivergedError, match="layer 1, step"):
        train_saes(settings, tmp_path / "run", SilentProgress())
    assert (
        RunFolder(tmp_path / "run").record["stages"]["dictionaries transformer-s0"]["status"]
        == "failed"
    )


def test_trackers_get_training_and_held_out_numbers(trained) -> None:
    out, rows, progress = trained
    accumulator = importlib.import_module("tensorboard.backend.event_processing.event_accumulator")
    events = accumulator.EventAccumulator(str(out.parent / "events"))
    events.Reload()
    tags = events.Tags()["scalars"]
    for name in ("loss", "l0", "explained_variance", "silent_share", "tokens_per_second"):
        assert [event.step for event in events.Scalars(name)] == [16_384, 32_768, 49_152, 59_904]
    assert f"loss {events.Scalars('loss')[0].value:.4g}" in progress.words[0]
    final = {row["label"]: row for row in rows if row["layer"] == 3}
    for label in ("sae", "seed1"):
        (event,) = events.Scalars(f"heldout/{label}/3/loss_recovered")
        assert event.value == pytest.approx(final[label]["loss_recovered"]) and event.step == 59_904
    assert "heldout/sae/3/seed_agreement" not in tags and "heldout/seed1/3/seed_agreement" in tags


def test_evaluated_again_it_is_what_its_file_says(trained) -> None:
    out, rows, _ = trained
    torch.set_num_threads(1)
    found = evaluate_sae(
        EvaluationRecipe(sae=str(out / "saes/transformer-s0@seed1/3")), SilentProgress()
    )
    row = next(row for row in rows if row["label"] == "seed1" and row["layer"] == 3)
    assert (
        found.agrees
        and found.carried is not None
        and (found.model, found.layer) == (SMALL["model"], 3)
    )
    assert found.quality.explained_variance == pytest.approx(row["explained_variance"], abs=1e-9)
    assert found.quality.loss_recovered == pytest.approx(row["loss_recovered"], abs=1e-9)
    assert found.notes == ("As its file says, within tolerance.",)
    values = json.loads(json.dumps(found.values(), allow_nan=False))
    assert (
        values["quality"]["l0"] == row["l0"]
        and values["text"] == "zoo:demo, held out from its training"
    )
    text = "\n".join(found.lines())
    assert (
        f"gates: {row['reason']}" in text and f"(its file: {row['explained_variance']:.3f})" in text
    )


def test_a_file_that_names_a_wrong_layer_does_not_agree_with_its_quality(trained, tmp_path) -> None:
    out, _, _ = trained
    sae = dictionaries.load(out / "saes/transformer-s0/3")
    dictionaries.save(
        replace(sae, metadata={**sae.metadata, "layer": 0}), tmp_path / "moved", saved_quality(sae)
    )
    with pytest.raises(
        InputError, match=r"--layer is 3, but by its file, the dictionary .*moved is of layer 0"
    ):
        evaluate_sae(EvaluationRecipe(sae=str(tmp_path / "moved"), layer=3), SilentProgress())
    found = evaluate_sae(EvaluationRecipe(sae=str(tmp_path / "moved")), SilentProgress())
    assert found.agrees is False and "Not what its file says" in found.notes[0]


def test_other_text_is_measured_and_named(trained, tmp_path) -> None:
    out, _, _ = trained
    text = tmp_path / "text.txt"
    text.write_text("One two three four five, six seven eight nine ten. " * 200)
    found = evaluate_sae(
        EvaluationRecipe(
            sae=str(out / "saes/transformer-s0/3"), text=str(text), context=64, tokens=1500
        ),
        SilentProgress(),
    )
    assert found.text == str(text) and 1400 < found.quality.n_tokens <= 1536
    known = evaluate_sae(
        EvaluationRecipe(
            sae=str(out / "saes/transformer-s0/3"), text="zoo:demo", context=64, tokens=500
        ),
        SilentProgress(),
    )
    assert known.agrees is None and "too little" in known.notes[0]
    assert "It was trained on this text" in known.notes[1]


def test_a_dictionary_without_facts_needs_model_and_layer(tmp_path, trained) -> None:
    out, _, _ = trained
    sae = dictionaries.load(out / "saes/transformer-s0/3")
    bare = SparseAutoencoder(sae.W_enc, sae.b_enc, sae.W_dec, sae.b_dec)
    dictionaries.save(bare, tmp_path / "bare")
    with pytest.raises(
        InputError, match=r"--model is None, but the file of .*bare does not say it"
    ):
        evaluate_sae(EvaluationRecipe(sae=str(tmp_path / "bare")), SilentProgress())
    with pytest.raises(InputError, match="--layer is None"):
        evaluate_sae(
            EvaluationRecipe(sae=str(tmp_path / "bare"), model="zoo:transformer-s0"),
            SilentProgress(),
        )
    with pytest.raises(InputError, match="--layer is 9, but zoo:transformer-s0 has layers 0 to 3"):
        evaluate_sae(
            EvaluationRecipe(sae=str(tmp_path / "bare"), model="zoo:transformer-s0", layer=9),
            SilentProgress(),
        )
    found = evaluate_sae(
        EvaluationRecipe(
            sae=str(tmp_path / "bare"), model="zoo:transformer-s0", layer=3, tokens=2000
        ),
        SilentProgress(),
    )
    assert found.agrees is None and found.carried is None and "carries no quality" in found.notes[0]
    narrow = SparseAutoencoder(torch.ones(8, 4), torch.zeros(4), torch.ones(4, 8), torch.zeros(8))
    dictionaries.save(narrow, tmp_path / "narrow")
    with pytest.raises(InputError, match=r"it is 128 wide, and the dictionary .*narrow 8"):
        evaluate_sae(
            EvaluationRecipe(sae=str(tmp_path / "narrow"), model="zoo:transformer-s0", layer=3),
            SilentProgress(),
        )


# Text


@pytest.fixture(scope="module")
def whole() -> TokenWindows:
    tokens = np.arange(100 * 16, dtype=np.int32).reshape(100, 16)
    return TokenWindows(tokens, tokens // 40, tokens % 7 > 0, tokenizer_fingerprint="f")


def test_what_is_held_out_is_never_trained_on_and_nothing_is_lost(whole) -> None:
    heldout, train, text = hold_out(whole, Text("s", context=16), 70)
    assert (len(heldout), len(train), text.n_heldout, text.n_first) == (5, 95, 5, 100)
    assert not np.isin(heldout.tokens, train.tokens).any()
    assert sorted([*heldout.tokens.flat, *train.tokens.flat]) == list(range(1600))
    assert np.ptp(heldout.document) > 20  # from all over the text
    assert hold_out(whole, Text("s", context=16, seed=1), 70)[0].hash != heldout.hash


def test_what_is_held_out_does_not_depend_on_what_follows(whole) -> None:
    short, long = (hold_out(text, Text("s", context=16), 32) for text in (whole[:70], whole))
    assert short[0].hash == long[0].hash and short[2] == long[2]
    assert short[2].n_first == 64


def test_text_that_has_changed_is_refused(tmp_path) -> None:
    tokenizer, file = load_tokenizer("zoo:transformer-s0"), tmp_path / "a.txt"
    file.write_text("The quick brown fox jumps over the lazy dog. " * 100)
    text = Text(str(file), context=16)
    heldout, _, known = hold_out(read_text(text, tokenizer, 10_000), text, 100)
    assert heldout_again(known, tokenizer).hash == heldout.hash
    file.write_text("The quick brown cat jumps over the lazy dog. " * 100)
    with pytest.raises(InputError, match="it is not the text that the dictionary was trained on"):
        heldout_again(known, tokenizer)
    file.write_text("The quick brown fox. " * 20)
    with pytest.raises(InputError, match="it is not the text"):
        heldout_again(known, tokenizer)


def test_documents_in_their_own_order(tmp_path) -> None:
    file = tmp_path / "a.jsonl"
    file.write_text(
        "\n".join(json.dumps({"text": f"{word} " * 40}) for word in ("one", "two", "three", "four"))
    )
    tokenizer = load_tokenizer("zoo:transformer-s0")
    in_order = read_text(Text(str(file), context=16, shuffle=False), tokenizer, 64)
    assert tokenizer.decode(in_order.tokens[0]).startswith("one one")
    orders = {
        read_text(Text(str(file), context=16, seed=seed), tokenizer, 64).hash for seed in range(5)
    }
    assert len(orders) > 1


# Agreement of seeds


def test_agreement_of_two_dictionaries_against_numpy() -> None:
    rng = np.random.default_rng(0)
    x = torch.from_numpy(rng.standard_normal((400, 6)).astype(np.float32))

    def draw() -> SparseAutoencoder:
        W = torch.from_numpy(rng.standard_normal((6, 9)).astype(np.float32))
        return SparseAutoencoder(W, torch.full((9,), -1.0), W.T.contiguous(), torch.zeros(6))

    a, b = draw(), draw()
    assert seed_agreement(a, a, x) == pytest.approx(1.0, abs=1e-6)
    f, g = a.encode(x).numpy(), b.encode(x).numpy()
    r = np.corrcoef(f.T, g.T)[:9, 9:]
    often = (f > 0).sum(0) >= 100, (g > 0).sum(0) >= 100
    expected = np.concatenate([r.max(1)[often[0]], r.max(0)[often[1]]])
    assert 0 < expected.size < 18
    assert seed_agreement(a, b, x, least=100) == pytest.approx(expected.mean(), abs=1e-6)
    assert np.isnan(seed_agreement(a, b, x, least=401))


# Settings


@pytest.mark.parametrize(
    ("kind", "given", "key", "value"),
    [
        ("relu", {}, "l1", 4.0),
        ("relu", {"l1": 2.5}, "l1", 2.5),
        ("gated", {"l1": 2.5}, "l1", 2.5),
        ("topk", {}, "k", 32),
        ("topk", {"k": 8}, "k", 8),
        ("batchtopk", {"k": 8}, "k", 8),
        ("jumprelu", {"l0": 0.5}, "l0", 0.5),
    ],
)
def test_sparsity_of_each_kind(kind: str, given: dict, key: str, value: float) -> None:
    settings = parse_saes(model="m", kind=kind, **given)
    config = parse_config(settings.config(32))
    assert config.kind == kind and getattr(config, key) == value == sparsity_of(settings, 32)
    assert config.d_sae == 192  # six times the width
    assert parse_saes(model="m", expansion=2.0).width(32) == 64
    assert parse_saes(model="m", d_sae=77).width(32) == 77


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        (
            {"kind": "topk", "l1": 3.0},
            "--l1 is 3.0, but it belongs to relu or gated, and --kind is topk. Give --k, or",
        ),
        (
            {"k": 8},
            "--k is 8, but it belongs to topk or batchtopk, and --kind is relu. Give --l1, or",
        ),
        (
            {"kind": "gated", "l0": 1.0},
            "--l0 is 1.0, but it belongs to jumprelu, and --kind is gated",
        ),
        (
            {"d_sae": 5, "expansion": 2.0},
            "--expansion is 2.0, but --d-sae says the number of features",
        ),
        ({"tokens": 100}, "--tokens is 100, but a step takes 512"),
        ({"pool_tokens": 0}, "--pool-tokens is 0, but it breaks a rule"),
        ({"l1": float("nan")}, "--l1 is nan, but it breaks a rule"),
        ({"kind": "standard"}, "--kind is 'standard', but it must be one of relu, topk"),
        ({"d_sea": 5}, "--d-sea is 5"),
    ],
)
def test_settings_that_cannot_be(wrong: dict, message: str) -> None:
    with pytest.raises(InputError, match=message):
        parse_saes(model="m", **wrong)


def test_defaults_are_those_of_the_training() -> None:
    assert training_config(SaeRecipe(model="m")) == TrainingConfig()
    training = training_config(SaeRecipe(model="m", tokens=5000, batch=100, lr=0.1, seed=3))
    assert training.n_steps == 50
    assert (training.batch, training.lr, training.seed) == (100, 0.1, 3)
