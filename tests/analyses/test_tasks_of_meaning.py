"""Every task on meaning in a small run on disk: from what the run holds to checked tables."""

from __future__ import annotations

import numpy as np
import polars as pl
import pytest
import torch
from tests.analyses.meaning import CHAPTERS

from homolog.analyses import ANALYSES
from homolog.analyses.analysis import Analysis, each_direction_with_homologs, function_of
from homolog.analyses.material import Material
from homolog.corpus import TokenWindows, save_windows
from homolog.dictionaries import SparseAutoencoder, save
from homolog.features import SparseFeatures, capture
from homolog.models import Site
from homolog.record.comparisons import MAIN
from homolog.record.recipe import Recipe
from homolog.record.run_folder import RunFolder
from homolog.record.sides import MAIN_LABEL, Models, StudyModel
from homolog.record.tables import FEATURES, LAYERS, LEFT_CONTEXT, MATCHES, SAES

A, B = "transformer-s0", "transformer-s1"
LAYERS_EACH, D_SAE, CONTEXT = 4, 24, 32
RECIPE = {
    "name": "small",
    "models": [{"ref": f"zoo:{A}"}, {"ref": f"zoo:{B}"}],
    "corpus": {"source": "zoo:demo", "train_tokens": 64, "match_tokens": 20_000},
    "sae": {"d_sae": D_SAE, "l1": 1.0},
    "interpretation": {"top": 4, "context_tokens": 4000, "causal_pairs": 4, "listed": 5},
}
OF_MEANING = [
    each
    for each in ANALYSES
    if (each.chapter in CHAPTERS or each.name == "flow") and each.measure is not None
]


@pytest.fixture(scope="module")
def material(tmp_path_factory: pytest.TempPathFactory) -> Material:
    """A run whose features of both models are read by dictionaries of random directions."""
    recipe = Recipe.parse(RECIPE)
    run = RunFolder.open(tmp_path_factory.mktemp("tasks") / "run", recipe.values())
    rng = np.random.default_rng(0)
    tokens = rng.integers(5, 400, (80, CONTEXT)).astype(np.int32)
    document = np.repeat(np.arange(40, dtype=np.int32), 2 * CONTEXT).reshape(80, CONTEXT)
    windows = TokenWindows(tokens, document, np.ones_like(tokens, bool), tokenizer_fingerprint="f")
    for use in ("match", "quality"):
        save_windows(windows, run.cache_folder / "windows" / use)
    run.note(corpus={"match_documents": 40, "quality_documents": 40})
    compared = tuple(StudyModel(f"zoo:{name}", "compared") for name in (A, B))
    made = Material(run.path.absolute(), recipe, Models(compared, {}, {}))
    for name in (A, B):
        with run.stage(f"dictionaries {name}", []) as facts:
            facts["model"] = {"n_layers": LAYERS_EACH}
        sites = [Site("resid", layer) for layer in range(LAYERS_EACH)]
        for layer, x in enumerate(capture(made.model(name), windows, sites)):
            scale = float(x.std())
            W = torch.randn(x.shape[1], D_SAE, generator=torch.Generator().manual_seed(layer))
            W = W / W.norm(dim=0) / scale
            sae = SparseAutoencoder(W, torch.full((D_SAE,), -0.5), W.T, torch.zeros(x.shape[1]))
            save(sae, run.sae_folder(name, layer))
            matrix = sae.encode_sparse(x, "float32")
            features = SparseFeatures(matrix, windows.hash, windows.token_document, name, layer)
            features.save(run.feature_folder(name, layer))
    _write_tables(run)
    run.close()
    return made


def _write_tables(run: RunFolder) -> None:
    """Every feature of A has the one of its number in B, and the other way, as its partner."""
    rng, matches, layers, saes = np.random.default_rng(1), [], [], []
    for model, other in ((A, B), (B, A)):
        direction = {"comparison": MAIN.name, "kind": "sae", "model": model, "label": MAIN_LABEL}
        direction |= {"best_model": other, "best_label": MAIN_LABEL}
        for layer in range(LAYERS_EACH):
            saes.append({"model": model, "label": MAIN_LABEL, "layer": layer, "passed": True})
            layers.append(direction | {"layer": layer, "best_layer": layer, "mean": 0.5})
            for feature in range(D_SAE):
                r = float(rng.beta(4, 2))
                numbers = {"r": r, "excess": r - 0.1, "freq": 0.3, "mutual": True}
                place = {"layer": layer, "feature": feature, "homolog": model == A and r > 0.6}
                partner = {"best_layer": layer, "best_feature": feature}
                matches.append(direction | place | partner | numbers)
    for table, rows in ((MATCHES, matches), (LAYERS, layers), (SAES, saes)):
        table.write(table.frame(rows), run.table(table))


def tables_of(material: Material, analysis: Analysis) -> dict[str, pl.DataFrame]:
    """What its tasks make, joined and finished, as a study does; written to its place."""
    assert analysis.measure is not None
    units = list(analysis.units(material))
    parts = [function_of(analysis.measure)(material, *unit) for unit in units]
    names = [table.name for table in analysis.tables]
    assert parts and all(sorted(part) == sorted(names) for part in parts)
    joined = {name: pl.concat([part[name] for part in parts]) for name in names}
    if analysis.finish is not None:
        joined |= function_of(analysis.finish)(material, joined)
    for table in analysis.tables:
        if not table.per_layer:
            table.write(joined[table.name], material.run.table(table))
            continue
        for unit, part in zip(units, parts, strict=True):
            table.write(part[table.name], material.run.table(table, *unit))
    return joined


def test_every_analysis_writes_the_tables_that_it_says(material: Material) -> None:
    made = {analysis.name: tables_of(material, analysis) for analysis in OF_MEANING}
    n_features = 2 * LAYERS_EACH * D_SAE
    features, left = made["features"]["features"], made["left_context"]["left_context"]
    assert len(features) == len(left) == n_features
    assert features["context_tokens"].equals(left["context_tokens"], null_equal=True)
    assert features["context_tokens"].is_finite().any()
    assert set(made["relation"]["relation"]["measure"]) >= {"token_entropy", "context_tokens"}
    assert set(made["causal"]["causal"]["model"]) == {A}  # features of B have no homolog
    assert set(made["exclusive"]["lists"]["list"]) == {"shared", "exclusive"}
    transplants = made["transplant"]["transplant"]
    assert len(transplants) == 2 * LAYERS_EACH * 2  # directions, layers, maps
    assert transplants["model"].is_sorted() and (transplants["r2"] <= 1).all()
    assert made["scatter"]["scatter"]["scatter_x"].list.len().max() == 60
    laid = made["overlay"]["overlay"]
    assert laid["of_partner"].any() and not laid["of_partner"].all()
    assert laid["values"].list.max().max() > 0
    places = made["map"]["map"]
    assert set(places["model"]) == {A, B} and places["x"].is_finite().all()
    _check_flow(**made["flow"])
    causal = next(analysis for analysis in OF_MEANING if analysis.name == "causal")
    assert causal.says is not None
    assert {said["model"] for said in function_of(causal.says)(material)} <= {A}


def _check_flow(flow: pl.DataFrame, by_weights: pl.DataFrame) -> None:
    """Every feature once; by weights, those within a model and in the other, with what r says."""
    assert (
        flow.select("model", "layer", "feature").n_unique() == len(flow) == 2 * LAYERS_EACH * D_SAE
    )
    firsts = flow.filter(pl.col("layer") == 0)
    assert set(firsts["comes"]) <= {"first", None} and (firsts["ancestor_feature"] == -1).all()
    inner = flow.filter(pl.col("layer") > 0)
    assert set(inner["comes"]) <= {"born", "changed", "kept", None}
    assert inner["ancestor_r"].is_finite().any() and (inner["born_layer"] <= inner["layer"]).all()
    within, across = (
        by_weights.filter(pl.col("model").ne_missing(pl.col("best_model")) == other)
        for other in (False, True)
    )
    assert len(within) == 2 * 2 * (LAYERS_EACH - 1) * D_SAE  # both directions
    assert len(across) == 2 * LAYERS_EACH * D_SAE
    assert set(across.select("model", "best_model").unique().iter_rows()) == {(A, B), (B, A)}
    # Dictionaries of one layer were drawn from one seed in both models, but no basis is common.
    chance = across["null_cosine"].unique()
    assert chance.is_between(0.1, 0.6).all() and across["distance"].is_finite().all()
    # The best partner in the test's matches is the feature of the same number.
    agreeing = across["best_feature"] == across["feature"]
    assert across["agrees"].equals(agreeing.rename("agrees"))
    assert within["r"].is_finite().any() and within["agrees"].is_not_null().any()


def test_features_do_without_the_left_context_where_it_is_not_there(material: Material) -> None:
    features = next(analysis for analysis in OF_MEANING if analysis.name == "features")
    measured = {FEATURES.name: FEATURES.frame()}
    assert features.finish is not None
    file = material.run.table(LEFT_CONTEXT)
    kept = file.rename(file.with_suffix(".kept")) if file.is_file() else None
    try:
        assert (
            "context_tokens"
            not in function_of(features.finish)(material, measured)[FEATURES.name].columns
        )
    finally:
        if kept is not None:
            kept.rename(file)


def test_only_directions_with_homologs_are_tested_and_listed(material: Material) -> None:
    assert each_direction_with_homologs(material) == [(A, B)]


def test_what_a_recipe_asks_for(material: Material) -> None:
    def wanted(recipe: Recipe) -> set[str]:
        return {analysis.name for analysis in OF_MEANING if analysis.wanted(recipe)}

    everything = {analysis.name for analysis in OF_MEANING}
    assert wanted(material.recipe) == everything
    none = {"context_tokens": 0, "causal_pairs": 0, "listed": 0, "transplant": False}
    none |= {"flow_tokens": 0}
    few = material.recipe.changed(interpretation=none)
    assert wanted(few) == {"features", "scatter", "overlay", "map", "relation"}
    assert wanted(material.recipe.changed(interpretation=None)) == set()


def test_text_of_one_document_leaves_out_what_exchanges_or_splits_documents(
    material: Material, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert all(analysis.left_out(material) is None for analysis in OF_MEANING)
    monkeypatch.setattr(Material, "n_documents", lambda self, use: 1)
    said = {each.name: each.left_out(material) for each in OF_MEANING if each.left_out(material)}
    assert said.keys() == {"left_context", "transplant", "flow"}
    assert "corpus.quality_tokens" in str(said["transplant"])
