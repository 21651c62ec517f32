"""The export has the folders, fields and values that Neuronpedia's importer reads."""

from __future__ import annotations

import gzip
import json
from pathlib import Path
from typing import Any

import pytest

from homolog.errors import InputError
from homolog.record.places import Places
from homolog.record.run_record import FORMAT, write_record
from homolog.record.tables import CONTEXTS, FEATURES, RATINGS
from homolog.report.neuronpedia import EMPTY, Release, export_neuronpedia

MODELS = ("transformer-s0", "mamba-s0")
RELEASE = Release("us", "small", "Small models", model_ids={"mamba-s0": "mamba"})
# the fields of a feature, an activation and an explanation in Neuronpedia's exports
FEATURE = {
    "modelId",
    "layer",
    "index",
    "createdAt",
    "maxActApprox",
    "hasVector",
    "vector",
    "vectorLabel",
    "hookName",
    "topkCosSimIndices",
    "topkCosSimValues",
    "pos_str",
    "pos_values",
    "neg_str",
    "neg_values",
    "frac_nonzero",
    *EMPTY,
}
ACTIVATION = {
    "id",
    "tokens",
    "index",
    "layer",
    "modelId",
    "maxValue",
    "maxValueTokenIndex",
    "minValue",
    "values",
    "dataSource",
    "dataIndex",
    "dfaValues",
    "createdAt",
    "lossValues",
    "qualifyingTokenIndex",
}


def write_run(folder: Path, stages: dict[str, Any]) -> Path:
    """A run folder without tables."""
    folder.mkdir()
    corpus = {"sources": ["zoo/text.jsonl"], "match_tokens": 1280, "context": 128}
    run = {"format": FORMAT, "recipe": {}, "stages": stages, "corpus": corpus}
    write_record(folder / "run.json", run)
    return folder


@pytest.fixture
def run(tmp_path) -> Path:
    stage = {"status": "done", "started": "2026-01-01T00:00:00", "outputs": {}}
    folder = write_run(tmp_path / "run", {"features": stage})
    places = Places(folder)
    features = [
        {
            "model": model,
            "layer": 0,
            "feature": i,
            "freq": 0.25,
            "max": 2.0 + i,
            "promoted": ["<b>"],
            "suppressed": [" no"],
            "near_feature": [1 - i],
            "near_cosine": [0.5],
        }
        for model in MODELS
        for i in range(2)
    ]
    FEATURES.write(FEATURES.frame(features), places.table(FEATURES))
    places.vocabulary.write_text(json.dumps([" a", "<b>", "\u2028"]), "utf-8")
    contexts = [
        {
            "feature": i,
            "quantile": 1.0,
            "rank": 0,
            "row": 7,
            "document": 3,
            "window": 0,
            "position": 7,
            "value": 2.0,
            "start": 5,
            "tokens": [0, 1, 2],
            "values": [0.0, 0.5, 2.0],
        }
        for i in range(2)
    ]
    for model in MODELS:
        CONTEXTS.write(CONTEXTS.frame(contexts), places.table(CONTEXTS, model, 0))
    rated = {"explanation": "cats", "complexity": 2, "consistency_rated": 5, "detection": 0.875}
    rated |= {"model": "mamba-s0", "layer": 0, "feature": 1, "rater": "gpt", "prompts": "abc"}
    silent = {"model": "mamba-s0", "layer": 0, "feature": 0, "rater": "gpt", "prompts": "abc"}
    RATINGS.write(RATINGS.frame([rated, silent]), places.table(RATINGS))
    return folder


def lines(file: Path) -> list[dict]:
    text = (
        gzip.decompress(file.read_bytes()).decode()
        if file.suffix == ".gz"
        else file.read_text("utf-8")
    )
    return [json.loads(line) for line in text.removesuffix("\n").split("\n")]


def test_files_fields_and_values(run, tmp_path):
    folders = export_neuronpedia(run, tmp_path / "out", RELEASE)
    out = tmp_path / "out"
    assert folders == [out / "transformer-s0" / "0-res-homolog", out / "mamba" / "0-res-homolog"]
    for name in ("release", "model", "sourceset", "source"):
        assert len(lines(folders[1] / f"{name}.jsonl")) == 1
    assert lines(folders[1] / "source.jsonl")[0]["num_prompts"] == 10
    first, second = lines(folders[1] / "features" / "batch-0.jsonl.gz")
    assert set(first) == FEATURE and (first["modelId"], first["layer"], first["index"]) == (
        "mamba",
        "0-res-homolog",
        "0",
    )
    assert (second["maxActApprox"], second["frac_nonzero"], second["pos_str"]) == (
        3.0,
        0.25,
        ["<b>"],
    )
    shown = lines(folders[1] / "activations" / "batch-0.jsonl.gz")
    assert set(shown[0]) == ACTIVATION and shown[0]["tokens"] == [" a", "<b>", "\u2028"]
    assert (
        shown[0]["maxValueTokenIndex"],
        shown[0]["qualifyingTokenIndex"],
        shown[0]["maxValue"],
    ) == (2, 2, 2.0)
    assert (
        len(
            {
                row["id"]
                for folder in folders
                for row in lines(folder / "activations" / "batch-0.jsonl.gz")
            }
        )
        == 4
    )
    (said,) = lines(folders[1] / "explanations" / "batch-0.jsonl.gz")
    assert (said["index"], said["description"], said["explanationModelName"]) == (
        "1",
        "cats",
        "gpt",
    )
    assert json.loads(said["notes"]) == {
        "complexity": 2,
        "consistency_rated": 5,
        "detection": 0.875,
    }
    assert not (folders[0] / "explanations").exists()


def test_the_same_run_gives_the_same_bytes(run, tmp_path):
    contents = []
    for name in ("one", "two"):
        export_neuronpedia(run, tmp_path / name, RELEASE)
        files = sorted(file for file in (tmp_path / name).rglob("*") if file.is_file())
        contents.append({file.relative_to(tmp_path / name): file.read_bytes() for file in files})
    assert contents[0] == contents[1]


def test_a_run_without_examples_is_named(tmp_path):
    with pytest.raises(InputError, match="no examples of its features"):
        export_neuronpedia(write_run(tmp_path / "run", {}), tmp_path / "out", RELEASE)


def test_characters_of_several_tokens_are_joined(run, tmp_path):
    (run / "vocabulary.json").write_text(json.dumps([[0xE8], [0x87], [0xAA]]), "utf-8")
    shown = lines(
        export_neuronpedia(run, tmp_path / "out", RELEASE)[0] / "activations" / "batch-0.jsonl.gz"
    )
    assert shown[0]["tokens"] == ["", "", "自"] and shown[0]["values"] == [0.0, 0.5, 2.0]
    (run / "vocabulary.json").write_text(json.dumps([[0x87], " b", [0xE8]]), "utf-8")
    shown = lines(
        export_neuronpedia(run, tmp_path / "cut", RELEASE)[0] / "activations" / "batch-0.jsonl.gz"
    )
    assert shown[0]["tokens"] == ["<87>", " b", "<E8>"]
