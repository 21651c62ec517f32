"""A study of a model with a planted sink: the same rows in all, and what the run says of it."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import pytest
from tests.pipeline.outcome import beside_the_zoo, told
from tests.reference.planted_sinks import save_sink_llama, sink_llama, sink_token
from tests.reference.tiny_tokenizers import tiny_tokenizer

from homolog import dictionaries
from homolog.analyses.material import Material
from homolog.analyses.units import alignment
from homolog.corpus import TokenWindows
from homolog.corpus.together import Alignment
from homolog.engine import InProcess
from homolog.errors import InputError
from homolog.features import load_features
from homolog.pipeline import run_study as module
from homolog.pipeline.context import Context
from homolog.pipeline.models import models_of
from homolog.pipeline.recipes import parse_saes
from homolog.pipeline.run_study import run_study
from homolog.pipeline.sae import train_saes
from homolog.pipeline.sae_eval import evaluate_sae
from homolog.pipeline.sinks import store_windows
from homolog.pipeline.text import read_texts
from homolog.pipeline.units import units_facts
from homolog.progress import SilentProgress
from homolog.record.names import model_name
from homolog.record.recipe import EvaluationRecipe, Recipe
from homolog.record.run_folder import RunFolder

MEANING = {"top": 2, "context_tokens": 256, "causal_pairs": 2, "listed": 2}


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save_sink_llama(tmp_path_factory.mktemp("models") / "with-sinks")


@pytest.fixture(scope="module")
def asked(folder: Path) -> Recipe:
    return beside_the_zoo(folder, {}, 0.1, interpretation=MEANING)


@pytest.fixture(scope="module")
def run(asked: Recipe, tmp_path_factory: pytest.TempPathFactory) -> RunFolder:
    out = tmp_path_factory.mktemp("runs") / "run"
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(RunFolder, "drop_cache", lambda self: None)  # which the tests look into
        run_study(asked, out, SilentProgress())
    return RunFolder(out)


@pytest.fixture(scope="module")
def name(folder: Path) -> str:
    """Of the planted model in tables and folders."""
    return model_name(str(folder))


def material_of(asked: Recipe, run: RunFolder) -> Material:
    return Material(run.path, asked, models_of(asked))


def stored(asked: Recipe, out: Path) -> tuple[Material, dict[str, dict[str, TokenWindows]]]:
    """A run that has its windows and nothing else, and the text as it was read."""
    models = models_of(asked)
    tokenizers, text_of = module._check_models(models, asked)
    texts = read_texts(asked, tokenizers, SilentProgress())
    run = RunFolder.open(out, asked.values())
    run.note(corpus={"texts": text_of})
    material = Material(out.absolute(), asked, models)
    store_windows(Context(run, material, InProcess(), SilentProgress(), None, 1 << 30), texts)
    run.close()
    return material, texts


def changed(asked: Recipe, *models: dict[str, Any], **changes: Any) -> Recipe:
    return asked.changed(models=list(models), interpretation=None, **changes)


def test_both_models_and_all_controls_have_the_rows_that_are_no_sink_of_either(
    asked, run, name
) -> None:
    assert run.record.get("failed", {}) == {} and run.verify() == []
    material = material_of(asked, run)
    for use in ("match", "quality", "neurons"):
        windows = material.windows(use)
        unmasked = material.windows("unmasked")[: len(windows)]
        assert (windows.tokens == unmasked.tokens).all()
        assert (windows.mask == unmasked.mask & (windows.tokens != sink_token())).all()
        assert windows.mask.sum() < unmasked.mask.sum()
    train = material.windows("train")  # of which each model leaves out its own
    assert (train.tokens[train.mask] == sink_token()).any()
    match = material.windows("match")
    for model in ("transformer-s0", name):
        features = load_features(run.feature_folder(model, 1))
        assert features.n_tokens == match.mask.sum() and features.stream_hash == match.hash
    summary = pl.read_parquet(run.table("matches"))
    assert summary["n_active"].max() <= match.mask.sum()


def test_no_dictionary_has_seen_a_sink_and_files_say_so(asked, run, name) -> None:
    saes = pl.read_parquet(run.table("saes"))
    assert saes["sink_share"].max() == 0
    files = [dictionaries.load(run.sae_folder(name, 1)) for name in ("transformer-s0", name)]
    assert [sae.metadata.get("sinks") for sae in files] == [None, [1, 2]]


def test_run_json_and_the_report_say_rule_and_number(asked, run, name) -> None:
    known, match = run.record["sinks"], material_of(asked, run).windows("match")
    n = int((match.tokens == sink_token()).sum())
    assert (known["norm"], known["share"], known["masked"]) == (10, 0.1, {"": n})
    rows = [(row["model"], row["layer"], row["n"]) for row in known["layers"]]
    assert rows == [(name, 1, n), (name, 2, n)]
    for row in known["layers"]:
        assert row["limit"] == 10 * row["median"] and row["sink_share"] > 0.9
    page = told(run.report_folder)
    assert f"Masked as sinks: {n} tokens of the matched text" in page


def test_a_run_goes_on_with_the_same_rows(asked, run, name, tmp_path) -> None:
    """Where a table, the cache and the places of the sinks are lost."""
    again = tmp_path / "run"
    shutil.copytree(run.path, again)
    shutil.rmtree(again / "cache")
    (again / "matches.parquet").unlink()
    RunFolder(again).sinks_file(name).write_bytes(b"damaged")
    (again / f"features/{name}/1/part-00000.safetensors").unlink()
    run_study(asked, again, SilentProgress())
    for table in ("matches", "shared", "summary", "saes", "features"):
        assert RunFolder(again).table(table).read_bytes() == run.table(table).read_bytes(), table
    assert RunFolder(again).sinks_file(name).read_bytes() == run.sinks_file(name).read_bytes()
    assert RunFolder(again).record["sinks"] == run.record["sinks"]


def test_kept_sinks_are_in_every_row_and_the_gate_says_what_to_set(asked, name, tmp_path) -> None:
    kept = asked.changed(corpus={"sinks": "keep"}, interpretation=None)
    kept = kept.changed(controls={"neurons": False, "rotated": False, "stability": False})
    run_study(kept, tmp_path / "run", SilentProgress())
    run = RunFolder(tmp_path / "run")
    saes = pl.read_parquet(run.table("saes")).filter(model=name, layer=1, label="sae")
    assert saes["sink_share"].item() > 0.9
    assert 'is above 0.1 (sinks = "mask" leaves these tokens out)' in saes["reason"].item()
    features = load_features(run.feature_folder(name, 1))
    assert features.n_tokens == run.record["corpus"]["match_tokens"]
    assert "sinks" not in run.record and not (run.path / "sinks").exists()
    assert "Masked as sinks" not in told(run.report_folder)


def test_models_that_ship_have_no_sinks(asked, tmp_path) -> None:
    models = [{"ref": f"zoo:{n}0", "other_seed": f"zoo:{n}1"} for n in ("transformer-s", "mamba-s")]
    corpus = {"context": 128, "quality_tokens": 8192, "match_tokens": 8192, "seed": 42}
    plain = changed(asked, *models, corpus=corpus)
    material, texts = stored(plain, tmp_path / "run")
    assert material.run.record["sinks"]["layers"] == []
    assert material.windows("match").hash == texts[""]["match"].hash
    assert not (material.path / "sinks").exists()


def test_another_training_of_a_model_has_a_say_and_an_untrained_twin_has_none(
    folder, asked, tmp_path
) -> None:
    other = {"ref": "zoo:transformer-s1"}
    for role, is_masked in (("other_seed", True), ("untrained", False)):
        plain = changed(asked, {"ref": "zoo:transformer-s0", role: str(folder)}, other)
        material, texts = stored(plain, tmp_path / role)
        windows = texts[""]["match"]
        left = windows.mask & (windows.tokens != sink_token()) if is_masked else windows.mask
        assert (material.windows("match").mask == left).all()


def test_a_gate_that_lets_everything_pass_masks_all_the_same(asked, tmp_path) -> None:
    material, _ = stored(asked.changed(gates={"sink_share": 1}), tmp_path / "run")
    assert material.run.record["sinks"]["share"] == 0.1
    assert material.run.record["sinks"]["masked"][""] > 0


def test_units_with_a_sink_on_either_side_do_not_count(asked, tmp_path) -> None:
    """Two tokenizers: the planted model reads one of its own, in which another token is a sink."""
    tokenizer = tiny_tokenizer("metaspace")
    token = int(tokenizer.get_vocab()["e"])
    sink_llama(len(tokenizer), token).save_pretrained(tmp_path / "other")
    tokenizer.save_pretrained(tmp_path / "other")
    two = changed(asked, {"ref": "zoo:transformer-s0"}, {"ref": str(tmp_path / "other")})
    material, texts = stored(two, tmp_path / "run")
    own, other = sorted(texts)
    read = texts[other]["match"]
    masked = material.windows_of("match", other)
    assert (masked.mask == (read.mask & (read.tokens != token))).all()
    assert material.windows_of("match", own).hash == texts[own]["match"].hash
    plain, units = Alignment.of(texts[own]["match"], read), alignment(material, (own, other))
    tokens = read.tokens[read.mask]
    runs = zip(plain.units.first_b, plain.units.last_b, strict=True)
    expected = [not (tokens[first : last + 1] == token).any() for first, last in runs]
    assert 0 < sum(expected) < len(expected)
    assert len(units.units) == sum(expected) == units_facts(material)[0]["units"]
    assert units.units.n_bytes.tolist() == plain.units.n_bytes[np.array(expected)].tolist()
    known = material.run.record["sinks"]["masked"]
    assert known == {own: 0, other: int((read.mask & ~masked.mask).sum())}


TRAINING = {
    "layers": (0, 1),
    "kind": "topk",
    "k": 8,
    "l1": None,
    "d_sae": 128,
    "tokens": 30_000,
    "context": 64,
    "heldout": 5120,
    "pool_tokens": 8192,
    "batch": 256,
    "seeds": 1,
    "bos": "false",
}


def explained(ref: Path, out: Path, **settings: Any) -> dict[str, Any]:
    """The row of layer 1."""
    rows = train_saes(parse_saes(model=str(ref), **TRAINING | settings), out, SilentProgress())
    return rows[1]


@pytest.mark.parametrize("stream", ["pool", "store"])
def test_explained_variance_is_that_of_the_model_without_the_sink(
    folder, tmp_path, stream: str
) -> None:
    plain = save_sink_llama(tmp_path / "plain", height=0)
    masked = explained(folder, tmp_path / "masked", stream=stream)
    of_plain = explained(plain, tmp_path / "of-plain", stream=stream)
    assert masked["sink_share"] == of_plain["sink_share"] == 0
    assert masked["explained_variance"] == pytest.approx(of_plain["explained_variance"], abs=0.05)
    kept = explained(folder, tmp_path / "kept", stream=stream, sinks="keep")
    assert kept["sink_share"] > 0.9
    assert kept["explained_variance"] > masked["explained_variance"] + 0.1
    run = RunFolder(tmp_path / "masked")
    assert [row["layer"] for row in run.record["sinks"]["layers"]] == [1]
    assert "sinks" not in RunFolder(tmp_path / "kept").record


def test_a_dictionary_is_evaluated_on_what_it_was_measured_on(folder, name, tmp_path) -> None:
    row = explained(folder, tmp_path / "run")
    sae = RunFolder(tmp_path / "run").sae_folder(name, 1)

    def measured(**settings: Any) -> Any:
        given = {"sae": str(sae), "bos": "false"} | settings
        return evaluate_sae(EvaluationRecipe.parse(given), SilentProgress())

    own = measured()
    assert own.agrees and own.quality.explained_variance == row["explained_variance"]
    masked = RunFolder(tmp_path / "run").record["sinks"]["masked"][""]
    assert f"Left out are {masked} tokens" in own.notes[-1]
    kept = measured(sinks="keep")
    assert kept.quality.sink_share > 0.9
    assert kept.quality.n_tokens == own.quality.n_tokens + masked
    kept_out = tmp_path / "kept"
    explained(folder, kept_out, sinks="keep")
    sae = RunFolder(kept_out).sae_folder(name, 1)
    assert measured().quality.sink_share > 0.9  # as its training had it
    assert measured(sinks="mask").quality.sink_share == 0


def test_other_words_for_sinks_are_refused(asked) -> None:
    with pytest.raises(InputError, match=r"corpus\.sinks"):
        asked.changed(corpus={"sinks": "drop"})
