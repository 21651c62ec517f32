"""A study of two models whose tokenizers differ, from text to report: rows are units."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import numpy as np
import polars as pl
import pytest
import torch
from scipy.sparse import csr_array
from tests.pipeline.outcome import MEANING, RECIPE, told
from tests.reference.tiny_tokenizers import tiny_tokenizer
from transformers import GPTNeoXConfig, GPTNeoXForCausalLM

from homolog.analyses.causal.measure import measure_pair
from homolog.analyses.causal.pairs import LEAST_POSITIONS
from homolog.analyses.causal.two_tokenizers import LEAST_SHARED
from homolog.analyses.material import Material
from homolog.analyses.units import spread
from homolog.corpus import TokenWindows, load_windows
from homolog.corpus.together import Alignment
from homolog.errors import InputError
from homolog.features import load_features
from homolog.pipeline.models import models_of
from homolog.pipeline.recipes import load_recipe
from homolog.pipeline.run_study import finished_report, run_study
from homolog.progress import SilentProgress
from homolog.record.run_folder import RunFolder
from homolog.record.tables import CONTEXTS, MATCHES


def save_model(folder: Path) -> Path:
    """A model of random weights that reads the tokens of a tiny tokenizer."""
    torch.manual_seed(0)
    tokenizer = tiny_tokenizer("metaspace")
    config = GPTNeoXConfig(
        vocab_size=len(tokenizer),
        hidden_size=32,
        num_hidden_layers=2,
        num_attention_heads=4,
        intermediate_size=64,
        max_position_embeddings=64,
        eos_token_id=0,
    )
    GPTNeoXForCausalLM(config).save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return folder


def recipe_of(folder: Path, align: str = "last") -> str:
    text = RECIPE.replace("zoo:transformer-s1", str(save_model(folder / "other")))
    text = text.replace("quality_tokens = 512", "quality_tokens = 12288")
    return text.replace("[matching]", f'[matching]\nalign = "{align}"') + MEANING


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> RunFolder:
    folder = tmp_path_factory.mktemp("two")
    path = folder / "recipe.toml"
    path.write_text(recipe_of(folder))
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(RunFolder, "drop_cache", lambda self: None)  # which the tests look into
        patch.chdir(folder)  # the run folder by a relative path: tasks are given absolute ones
        run_study(load_recipe(str(path)), Path("run"), SilentProgress())
    return RunFolder(folder / "run")


def test_the_study_reaches_its_report_and_nothing_fails(run: RunFolder) -> None:
    assert run.record.get("failed", {}) == {}
    assert (run.report_folder / "index.html").is_file()


def aligned_of(run: RunFolder, use: str = "match") -> tuple[Alignment, list]:
    windows = [load_windows(run.windows_folder(use, text)) for text in ("", other_text(run))]
    return Alignment.of(*windows), windows


def first_bytes(windows: TokenWindows) -> list[int]:
    assert windows.bounds is not None
    return windows.bounds[:, 0].tolist()


def other_text(run: RunFolder) -> str:
    _, other = run.record["compared"]
    return run.text_of(other)


def test_run_json_says_what_the_rows_are(run: RunFolder) -> None:
    aligned, _ = aligned_of(run)
    (said,) = run.record["units"]
    assert [said["model"], said["best_model"]] == run.record["compared"]
    assert {key: said[key] for key in aligned.facts()} == aligned.facts()
    assert said["units"] > 10_000 and said["text_share"] > 0.9 and said["align"] == "last"
    page = told(run.report_folder)
    assert "The two models have different tokenizers." in page


def test_matched_are_the_features_at_the_ends_of_units(run: RunFolder) -> None:
    """r of a match is that of the two features at the last tokens, by numpy."""
    aligned, _ = aligned_of(run)
    a, b = run.record["compared"]
    main = pl.read_parquet(run.table("matches")).filter(comparison="main", model=a)
    row = main.filter(pl.col("r").is_not_nan()).sort("r").row(-1, named=True)
    own = load_features(run.feature_folder(a, row["layer"])).matrix
    best = load_features(run.feature_folder(b, row["best_layer"])).matrix
    x = own[aligned.units.last_a][:, [row["feature"]]].toarray()[:, 0].astype(np.float64)
    y = best[aligned.units.last_b][:, [row["best_feature"]]].toarray()[:, 0].astype(np.float64)
    assert row["r"] == pytest.approx(np.corrcoef(x, y)[0, 1], abs=1e-5)
    assert row["n_active"] == np.count_nonzero(x)


def test_the_current_token_is_that_of_each_model(run: RunFolder) -> None:
    """What the token explains of a feature is at least what the best single token of its own does,
    and the tokens compared are as many as each tokenizer made."""
    _, windows = aligned_of(run)
    matches = pl.read_parquet(run.table("matches")).filter(comparison="tokens")
    for name, text in zip(run.record["compared"], windows, strict=True):
        tokens = matches.filter(model="current-token", best_model=name)
        counts = np.bincount(text.tokens[text.mask])
        assert tokens.sort("feature")["n_active"].to_list()[: len(counts)] == counts.tolist()


def test_contexts_are_spelled_by_the_tokenizer_of_their_model(run: RunFolder) -> None:
    _, other = run.record["compared"]
    texts = json.loads(run.vocabulary_of(run.text_of(other)).read_text("utf-8"))
    assert len(texts) == len(tiny_tokenizer("metaspace"))
    contexts = CONTEXTS.read(run.table(CONTEXTS, other, 0))
    assert contexts["tokens"].explode().to_numpy().max() < len(texts)


def test_features_are_matched_by_weights_with_residuals_at_the_ends_of_units(
    run: RunFolder,
) -> None:
    """Both ways, and within each model, where text of either is its own."""
    assert not run.record.get("failed")
    table = pl.read_parquet(run.table("by_weights"))
    across = table.filter(pl.col("model") != pl.col("best_model"))
    assert len(set(across["model"])) == len(set(table["model"])) == 2
    assert across["r"].is_finite().any() and across["cosine"].is_finite().any()
    assert len(pl.read_parquet(run.table("flow"))) == len(pl.read_parquet(run.table("features")))


def test_residuals_are_transplanted_at_the_ends_of_units(run: RunFolder) -> None:
    aligned, _ = aligned_of(run, "quality")
    table = pl.read_parquet(run.table("transplant"))
    assert (table["n_train"] + table["n_test"]).unique().to_list() == [len(aligned.units)]


def test_spread_rows_stand_where_their_units_end() -> None:
    matrix = csr_array(np.array([[1.0, 0], [0, 2], [3, 4]], np.float32))
    spread_rows = spread(matrix, np.array([1, 2, 4]), 6).toarray()
    assert spread_rows.tolist() == [[0, 0], [1, 0], [0, 2], [0, 0], [3, 4], [0, 0]]


def test_effects_are_compared_and_partners_put_in_features_places_where_units_end(
    run: RunFolder, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The features of the tiny models have no homologs: the best matches are taken for some."""
    recipe = load_recipe(str(run.path.parent / "recipe.toml"))
    material = Material(run.path, recipe, models_of(recipe))
    matches = material.table(MATCHES).with_columns(homolog=pl.col("r") > 0.2)
    monkeypatch.setattr(Material, "table", lambda self, table: matches)
    for pair in (run.record["compared"], run.record["compared"][::-1]):
        made = measure_pair(material, *pair)
        substitutions = made["substitutions"]
        assert len(substitutions) > 0 and substitutions["kl_partner"].is_finite().all()
        causal = made["causal"]
        assert causal["ablate_n"].min() >= LEAST_POSITIONS  # type: ignore[operator]
        shares = causal.select("ablate_shared", "ablate_best_shared")
        assert shares.min_horizontal().min() > 0 and shares.max_horizontal().max() < 1  # type: ignore[operator]
        shared = (shares.min_horizontal() >= LEAST_SHARED).to_list()
        assert causal["ablate_r"].is_not_nan().to_list() == shared
        assert causal["ablate_best_kl"].is_finite().all()


def test_a_finished_run_is_known_by_its_recipe(run: RunFolder) -> None:
    recipe = load_recipe(str(run.path.parent / "recipe.toml"))
    assert finished_report(recipe, run.path) is not None


@pytest.mark.parametrize("use", ["match", "quality", "neurons"])
def test_both_read_the_text_of_a_use_in_one_order(run: RunFolder, use: str) -> None:
    aligned, windows = aligned_of(run, use)
    assert (np.diff(aligned.units.first_b) > 0).all() and aligned.text_share > 0.8
    train = [load_windows(run.windows_folder("train", text)) for text in ("", other_text(run))]
    for of_use, learned in zip(windows, train, strict=True):
        assert not set(first_bytes(of_use)) & set(first_bytes(learned))


def test_what_is_lost_of_a_run_comes_again_to_the_same_bytes(
    run: RunFolder, tmp_path: Path
) -> None:
    again = tmp_path / "run"
    shutil.copytree(run.path, again)
    (again / "matches.parquet").unlink()
    next(again.rglob("cache/units/**/part-00001.safetensors")).write_bytes(b"damaged")
    run_study(load_recipe(str(run.path.parent / "recipe.toml")), again, SilentProgress())
    for table in ("matches", "shared", "summary", "lists"):
        own, other = (RunFolder(path).table(table).read_bytes() for path in (again, run.path))
        assert own == other, table


def test_a_control_has_to_share_the_tokenizer_of_its_model(tmp_path: Path) -> None:
    text = recipe_of(tmp_path).replace("zoo:transformer-s0", "zoo:mamba-s0")
    own = str(tmp_path / "other")
    text = text.replace('ref = "zoo:mamba-s0"', f'ref = "zoo:mamba-s0"\nuntrained = "{own}"', 1)
    text = text.replace(f'ref = "{own}"', 'ref = "zoo:transformer-s1"')
    (tmp_path / "recipe.toml").write_text(text)
    with pytest.raises(InputError, match="must read the same tokens, and their tokenizers differ"):
        run_study(load_recipe(str(tmp_path / "recipe.toml")), tmp_path / "run", SilentProgress())
