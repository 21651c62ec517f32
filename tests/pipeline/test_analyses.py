"""A small study that says what its features mean, and what a language model makes of them."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path

import polars as pl
import pytest
from tests.analyses.chat import chat_server
from tests.processes import HANGS

from homolog import Study
from homolog.analyses import ANALYSES
from homolog.analyses.causal.measure import causal_words
from homolog.analyses.ratings import Budget, Endpoint
from homolog.errors import InputError
from homolog.pipeline.analyses import is_made
from homolog.pipeline.rate import rate_run
from homolog.pipeline.recipes import parse_recipe
from homolog.pipeline.run_study import run_study
from homolog.progress import make_progress
from homolog.record.run_folder import RunFolder
from homolog.record.tables import RATINGS, RELATION
from homolog.report.export import export_figures

pytestmark = pytest.mark.drawn

MODELS = ("transformer-s0", "transformer-s1")
LAYERS = [1, 2]
RECIPE = {
    "name": "meaning",
    "models": [{"ref": f"zoo:{name}", "layers": LAYERS} for name in MODELS],
    "corpus": {
        "source": "zoo:demo",
        "context": 64,
        "train_tokens": 65_536,
        "match_tokens": 32_768,
        "neuron_tokens": 1024,
        "quality_tokens": 8192,
    },
    "sae": {"d_sae": 128, "l1": 4.0, "batch": 256, "epochs": 1, "lr": 3e-3},
    "gates": {
        "explained_variance": -1.0,
        "loss_recovered": -9.0,
        "l0_share_most": 1.0,
        "dead_share": 1.0,
        "dense_share": 1.0,
    },
    "controls": {"rotated": False, "stability": False, "neurons": False, "current_token": False},
    "matching": {"resamples": 4, "null_exchanges": 1, "space_tokens": 1024},
    "interpretation": {"top": 8, "context_tokens": 20_000, "causal_pairs": 12, "listed": 6},
}


@pytest.fixture(scope="module")
def run(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("meaning") / "run"
    run_study(parse_recipe(RECIPE, "meaning"), folder, make_progress(quiet=True))
    return folder


def test_every_table_is_there_and_checked(run):
    study = Study.load(run)
    features, relation, auc = study.features, study.relation, study.causal_auc
    assert features.select("model", "layer", "feature").rows() == [
        (model, layer, i) for model in MODELS for layer in LAYERS for i in range(128)
    ]
    alive = features.filter(pl.col("n_active") > 30)
    assert (alive["token_entropy"] >= 0).all() and alive["context_tokens"].is_finite().mean() > 0.9
    assert alive["promoted"].list.len().min() == 10
    assert dict(relation.schema) == RELATION.schema
    assert set(relation.filter(pl.col("comparison") == "main")["measure"]) >= {
        "token_entropy",
        "context_tokens",
    }
    assert set(auc.select("model", "best_model").rows()) == {MODELS, MODELS[::-1]}
    assert {"shared", "exclusive"} >= set(study.lists["list"]) and study.lists[
        "exclusive_r2"
    ].drop_nulls().len() > 0
    assert len(study.transplant) == 2 * 2 * 2  # directions, layers, maps
    record = RunFolder(run).record
    assert record["causal"] == causal_words(auc, study.loss_recovered)
    assert len(study.substitutions) > 0
    assert all("change the next token more alike" in said["words"] for said in record["causal"])
    assert RunFolder(run).verify() == []


def test_examples_show_what_the_matrix_says(run):
    study = Study.load(run)
    matches = study.matches.filter(
        pl.col("comparison") == "main", pl.col("model") == MODELS[0], pl.col("layer") == 2
    )
    contexts = study.contexts(MODELS[0], 2)
    most = (
        contexts.filter(pl.col("quantile") == 1.0)
        .group_by("feature")
        .agg(pl.col("value").max(), pl.len())
    )
    joined = most.join(matches, on="feature").join(
        study.features.filter(model=MODELS[0], layer=2), on="feature"
    )
    assert joined["value"].to_list() == pytest.approx(joined["max"].to_list())
    assert most["len"].max() == 8
    for row in contexts.head(50).iter_rows(named=True):
        assert row["values"][row["position"] - row["start"]] == row["value"]


def test_the_page_the_explorer_and_the_figures(run, tmp_path):
    page = (run / "report" / "index.html").read_text("utf-8")
    assert 'id="meaning"' in page and "explorer/index.html" in page and "figure-relation" in page
    assert (run / "report" / "explorer" / "data" / "manifest.js").is_file()
    for number in RunFolder(run).record["causal"]:
        assert (
            number["words"].split(" features of ")[0] in page
        )  # names of models have tags around them
    for name in ("layers", "depth"):
        assert "explorer/index.html#from=" in (
            run / "report" / "figures" / f"{name}.vl.json"
        ).read_text("utf-8")
    images = [file.with_suffix("").with_suffix("") for file in run.rglob("*.vl.json")]
    for image in images:
        assert image.with_suffix(".svg").read_bytes().startswith(b"<svg")
        assert image.with_suffix(".png").read_bytes().startswith(b"\x89PNG")
    assert len(images) > 10
    files = export_figures(run / "report", tmp_path, names=["relation"])
    assert [file.suffix for file in files] == [".svg", ".pdf", ".png"] and files[
        1
    ].read_bytes().startswith(b"%PDF")
    with pytest.raises(InputError, match="figure is 'nope'"):
        export_figures(run / "report", tmp_path, names=["nope"])
    shown = Study.load(run).figures["relation"]._repr_mimebundle_()
    assert shown["image/svg+xml"].startswith("<svg") and "layer" in json.dumps(
        shown["application/vnd.vegalite.v5+json"]
    )


def answer(question: str) -> str:
    """Explains every feature alike, and says that the first texts are the active ones."""
    explained = {"explanation": "words", "complexity": 2, "consistency": 4}
    return json.dumps(explained if "complexity" in question else {"active": [1, 2, 3]})


@pytest.fixture
def endpoint() -> Iterator[Endpoint]:
    with chat_server(answer) as server:
        yield Endpoint(server.url, "m", attempts=1, timeout=HANGS)


def test_a_language_model_rates_afterwards_and_is_asked_only_once(run, endpoint):
    said: list[str] = []
    rate_run(run, endpoint, 12, Budget(), make_progress(quiet=True), said.append)
    assert "at most 48 requests" in said[0] and said[1].startswith("48 requests, 480 tokens")
    ratings = Study.load(run).ratings
    assert dict(ratings.schema) == RATINGS.schema and len(ratings) == 24
    assert (ratings["complexity"] == 2).all() and ratings["detection"].is_between(0, 1).all()
    assert {"complexity", "detection"} <= set(Study.load(run).relation["measure"])
    readers = [analysis for analysis in ANALYSES if RATINGS in analysis.reads]
    assert readers and all(is_made(RunFolder(run), analysis) for analysis in readers)
    explorer = (run / "report" / "explorer").rglob("*.js")
    assert "words" in "".join(file.read_text("utf-8") for file in explorer)
    rate_run(run, endpoint, 12, Budget(), make_progress(quiet=True), said.append)
    assert said[2].startswith("24 features: at most 0 requests")
    assert said[3].startswith("0 requests")
    assert RunFolder(run).verify() == []
