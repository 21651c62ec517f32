"""A small study that says what its features mean, and what a language model makes of them."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path

import polars as pl
import pytest
from tests.analyses.chat import chat_server
from tests.pipeline.outcome import told
from tests.processes import HANGS

from homolog import Study
from homolog.analyses import ANALYSES
from homolog.analyses.causal.measure import causal_words
from homolog.analyses.ratings import Budget, Endpoint
from homolog.charts.shown_features import ShownContext, ShownFeature
from homolog.errors import InputError
from homolog.pipeline.analyses import is_made
from homolog.pipeline.export import export_tables
from homolog.pipeline.rate import rate_run
from homolog.pipeline.recipes import parse_recipe
from homolog.pipeline.run_study import run_study
from homolog.progress import make_progress
from homolog.record.run_folder import RunFolder
from homolog.record.tables import RATINGS, RELATION
from homolog.report.citation import citation
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
    "crosscoder": {"tokens": 16_384, "epochs": 2, "d_sae": 64, "k": 8, "batch": 256},
    "alignment_search": {"tokens": 4096, "test_tokens": 1024, "steps": 2},
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
    swaps = study.alignment_search
    assert set(swaps.select("model", "best_model").rows()) == {MODELS, MODELS[::-1]}
    assert swaps["k"].unique().to_list() == [1, 2, 4, 8, 16, 32, 64, 128]
    ends = {(row["source"], row["map"]): row for row in swaps.filter(k=128).to_dicts()}
    assert ends["own", "trained"]["kept"] > 0.95 and abs(ends["shuffled", "trained"]["kept"]) < 0.05
    assert ends["main", "procrustes"]["kept"] > 0.2
    latents, followed = study.crosscoder_latents, study.crosscoder_features
    assert study.crosscoders.select("model", "layer", "best_model").rows() == [
        (MODELS[0], 2, MODELS[1])
    ]
    assert len(latents) == 64 and set(latents["owner"]) <= {"shared", *MODELS}
    assert set(followed.select("model", "best_model").unique().rows()) == {MODELS, MODELS[::-1]}
    known = followed.filter(pl.col("latent") >= 0)
    owner = dict(latents.select("latent", "owner").iter_rows())
    assert [owner[i] for i in known["latent"]] == known["owner"].to_list()
    matches = study.matches.filter(comparison="main", model=MODELS[0], layer=2)
    judged = followed.filter(model=MODELS[0])
    assert judged["homolog"].to_list() == matches.sort("feature")["homolog"].to_list()
    assert len(study.flow) == len(features) and study.flow["comes"].is_in(["kept", "born"]).any()
    # within: from one of the two kept layers to the other; across: each with its counterpart
    assert len(study.by_weights) == 2 * len(features)
    said, agreed = study.witnesses, study.witness_agreement
    keys = ["model", "layer", "feature", "best_model"]
    main = study.matches.filter(comparison="main").drop_nulls("homolog").select(*keys, "homolog")
    both = said.drop_nulls("verdict").join(main, on=keys, how="full", coalesce=True)
    assert both["verdict"].equals(both["homolog"]) and len(both) > 300
    assert said["weights"].count() == len(features)  # whose dictionaries have no empty directions
    assert said["crosscoder"].count() == (followed["r"].fill_nan(0) >= 0.7).sum() > 0
    assert said["words"].null_count() == len(said)  # until `homolog rate` asks for them
    pair = agreed.filter(model=MODELS[0], witness="correlation", other="weights").row(0, named=True)
    assert pair["n_lines"] < pair["n"] and pair["kappa"] > 0.1  # two seeds of one architecture
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
    page = told(run / "report")
    assert 'id="meaning"' in page and "explorer/index.html" in page and "figure-relation" in page
    assert "figure-flow" in page and "Nearest by weights alone" in page
    assert (run / "report" / "explorer" / "data" / "flow" / "0-2.js").is_file()
    assert (run / "report" / "explorer" / "data" / "manifest.js").is_file()
    for number in RunFolder(run).record["causal"]:
        assert (
            number["words"].split(" features of ")[0] in page
        )  # names of models have tags around them
    assert "Do the methods say the same?" in page
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
    ratings = Study.load(run).ratings
    n = len(ratings)  # a model may have fewer than 12 that can be rated, as its rounding has it
    assert dict(ratings.schema).items() >= RATINGS.schema.items() and 12 < n <= 2 * 12
    assert ratings["model"].value_counts()["count"].max() <= 12
    asked = int(said[0].split("at most ")[1].split(" requests")[0])
    # an explanation, and tests on its own texts, on its partner's and on those of another feature
    assert 3 * n < asked <= 4 * n
    assert said[1].startswith(f"{asked} requests, {10 * asked} tokens")
    assert ratings["partner_detection"].drop_nulls().is_between(0, 1).all()
    assert (ratings["complexity"] == 2).all() and ratings["detection"].is_between(0, 1).all()
    assert {"complexity", "detection"} <= set(Study.load(run).relation["measure"])
    readers = [analysis for analysis in ANALYSES if RATINGS in analysis.reads]
    assert readers and all(is_made(RunFolder(run), analysis) for analysis in readers)
    manifest = (run / "report" / "explorer" / "data" / "manifest.js").read_text("utf-8")
    assert "complexity" in manifest
    rate_run(run, endpoint, 12, Budget(), make_progress(quiet=True), said.append)
    assert said[2].startswith(f"{n} features: at most 0 requests")
    assert said[3].startswith("0 requests")
    assert RunFolder(run).verify() == []


def test_tables_are_written_as_csv_that_reads_back(run: Path, tmp_path: Path) -> None:
    study = Study.load(run)
    files = export_tables(study, tmp_path / "csv")
    there = {file.relative_to(run).with_suffix("") for file in run.rglob("*.parquet")}
    there = {file for file in there if file.parts[0] in study.tables}
    assert {file.relative_to(tmp_path / "csv").with_suffix("") for file in files} == there
    matches = study.matches
    read = pl.read_csv(tmp_path / "csv" / "matches.csv", schema=matches.schema)
    assert read.equals(matches)
    features, cells = study.features, pl.read_csv(tmp_path / "csv" / "features.csv")
    assert [json.loads(cell) for cell in cells["promoted"]] == features["promoted"].to_list()
    assert (tmp_path / "csv" / "contexts" / MODELS[0] / f"{LAYERS[0]}.csv").is_file()
    with pytest.raises(InputError, match="table is 'nope', but it must be one of matches"):
        export_tables(study, tmp_path, ["nope"])
    with pytest.raises(InputError, match=r"table is 'roles', but .* has matches, layers"):
        export_tables(study, tmp_path, ["roles"])


def test_methods_and_references_have_the_numbers_of_the_run(run: Path) -> None:
    said = citation(run)
    saes = Study.load(run).saes
    l0 = saes.filter(model=MODELS[0])["l0"]
    for words in (
        "We compared transformer-s0 (gpt_neox, 4 blocks, loss ",
        "ReLU dictionaries of 128 features read the residual stream of blocks 1, 2, from 2 seeds: ",
        f"L0 {l0.min():.2g} to {l0.max():.2g}",
        "65,536 tokens to train dictionaries and ",
        "(false discovery rate 1%, 1 exchange)",
        "Intervals are 95%, of 4 resamples of documents.",
        "eprint = {2410.06672}",
        f"note = {{Run meaning, recipe {Study.load(run).run['recipe_hash'][:12]}}}",
    ):
        assert words in said
    assert said.count("{") == said.count("}")


def test_a_notebook_shows_a_pair_and_what_a_search_finds(run: Path) -> None:
    study = Study.load(run)
    main = study.matches.filter(comparison="main", label="sae", model=MODELS[0], layer=LAYERS[0])
    row = main.sort("r", descending=True, nulls_last=True).filter(pl.col("r").is_finite())[0]
    pair = study.pair(MODELS[0], LAYERS[0], row["feature"][0])
    assert pair.table.equals(row)
    partner = (pair.partner.layer, pair.partner.feature)
    assert partner == (row["best_layer"][0], row["best_feature"][0])
    assert f"r {row['r'][0]:.2f}" in pair.says
    own = study.contexts(MODELS[0], LAYERS[0]).filter(pl.col("quantile") == 1)
    own = own.filter(feature=row["feature"][0]).sort("rank")
    assert pair.feature.table["value"].to_list() == own["value"].to_list()
    page = pair._repr_html_()
    assert page.count("<b>") == 2 and f"{MODELS[1]}, block " in page and page.count("<span") > 4

    strongest = pair.feature.table["token"][0].strip()
    found = study.search(strongest.upper(), MODELS[0])
    assert set(found.table["model"]) == {MODELS[0]}
    assert (LAYERS[0], row["feature"][0]) in set(found.table.select("layer", "feature").rows())
    assert len(found) == len(found.table) and f"{len(found):,} features" in repr(found)
    for feature in found.first:
        assert any(strongest.lower() in token.lower() for token in feature.table["token"])
    assert len(study.search("\0 no token has this")) == 0


def test_what_is_not_there_is_said_with_what_is(run: Path) -> None:
    study = Study.load(run)
    for ask, message in (
        (lambda: study.figures["nope"], "figure is 'nope', but it must be one of "),
        (lambda: study.feature("gpt", 1, 0), f"model is 'gpt', .* one of {', '.join(MODELS)}"),
        (lambda: study.feature(MODELS[0], 0, 0), "layer is 0, but it must be one of 1, 2"),
        (lambda: study.pair(MODELS[0], 1, 128), "feature is 128, but it must be one of 0 to 127"),
        (lambda: study.pair(MODELS[0], 1, 0, "gpt"), f"best_model is 'gpt', .* {MODELS[1]}"),
    ):
        with pytest.raises(InputError, match=message):
            ask()


def test_text_that_looks_like_markup_is_text_in_a_notebook() -> None:
    evil = ["<script>alert(1)</script>", "\0", "\u202e", "a\nb"]
    shown = ShownFeature("<b>m", 0, 1, [ShownContext(evil, [0.0, 1.0, 2.0, 3.0], 3)])
    page = shown._repr_html_()
    assert "<script" not in page and "<b>m" not in page and "␀" in page and "a⏎b" in page
    assert shown.table["token"].to_list() == ["a\nb"]
