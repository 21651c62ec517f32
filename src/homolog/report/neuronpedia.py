"""Features, examples and explanations of a run as the files that Neuronpedia imports.

    OUT/MODEL_ID/LAYER-SET/release.jsonl  model.jsonl  sourceset.jsonl  source.jsonl
                          features/batch-0.jsonl.gz ...      one line per feature
                          activations/batch-0.jsonl.gz ...   one line per example
                          explanations/batch-0.jsonl.gz ...  one line per explanation, where a
                                                             language model gave some

One folder is a "source", the dictionary of one layer; the dictionaries of a model together are a
"source set".  Field names are those of Neuronpedia's public exports
(github.com/hijohnnylin/neuronpedia).  What homolog does not measure (correlated neurons,
histograms) stays empty there.  Token texts keep their spaces; a character of several tokens stands
at the last of them, the others being "" (`corpus.token_text`).
"""

from __future__ import annotations

import gzip
import json
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl

from homolog.corpus import TokenText, joined
from homolog.errors import InputError
from homolog.record.atomic import sha256_bytes, write_bytes
from homolog.record.run_folder import RunFolder
from homolog.record.tables import CONTEXTS, FEATURES, RATINGS

BATCH = 1024
EMPTY = (
    "neuron_alignment_indices",
    "neuron_alignment_values",
    "neuron_alignment_l1",
    "correlated_neurons_indices",
    "correlated_neurons_pearson",
    "correlated_neurons_l1",
    "correlated_features_indices",
    "correlated_features_pearson",
    "correlated_features_l1",
    "freq_hist_data_bar_heights",
    "freq_hist_data_bar_values",
    "logits_hist_data_bar_heights",
    "logits_hist_data_bar_values",
    "decoder_weights_dist",
)


@dataclass(frozen=True)
class Release:
    """Who publishes, and under which names."""

    creator: str
    release_id: str
    title: str
    set_id: str = "res-homolog"
    """Of the source set: short."""
    model_ids: Mapping[str, str] | None = None
    """Neuronpedia's name of each model, where it is not the run's."""


@dataclass(frozen=True)
class _Dictionary:
    """The dictionary of one layer under Neuronpedia's names."""

    model_id: str
    layer: int
    set_id: str
    made: str
    """When the run began its examples."""

    @property
    def id(self) -> str:
        return f"{self.layer}-{self.set_id}"

    @property
    def keys(self) -> dict[str, str]:
        return {"modelId": self.model_id, "layer": self.id}


def export_neuronpedia(path: Path, out: Path, release: Release) -> list[Path]:
    """Write a folder for every layer of every compared model of the run; returns the folders.

    The same run gives the same bytes.  InputError when the run has no examples.
    """
    run = RunFolder(path)
    if not run.table(FEATURES).is_file():
        remedy = "Finish the run with an [interpretation] table in its recipe."
        raise InputError("run folder", str(path), "it has no examples of its features", remedy)
    run.require_whole(*run.told)
    features = FEATURES.read(run.table(FEATURES))
    rated = run.table(RATINGS)
    explanations = RATINGS.read(rated) if rated.is_file() else RATINGS.frame()
    explanations = explanations.drop_nulls("explanation")
    made = run.record["stages"][FEATURES.name]["started"]
    vocabulary = cache(run.token_texts)
    folders = []
    for (model, layer), of_layer in features.group_by("model", "layer", maintain_order=True):
        model, layer = str(model), int(layer)  # type: ignore[call-overload]
        model_id = (release.model_ids or {}).get(model, model)
        source = _Dictionary(model_id, layer, release.set_id, made)
        folder = out / model_id / source.id
        for name, value in _heads(run, release, source).items():
            write_bytes(folder / f"{name}.jsonl", _lines([value]))
        texts = vocabulary(run.text_of(model))
        contexts = CONTEXTS.read(run.table(CONTEXTS, model, layer))
        explained = explanations.filter(model=model, layer=layer)
        for number, batch in enumerate(of_layer.iter_slices(BATCH)):
            lines = [_feature(row, source) for row in batch.iter_rows(named=True)]
            _write(folder / "features", number, lines)
            lines = [_activation(row, texts, source) for row in _of(batch, contexts)]
            _write(folder / "activations", number, lines)
            lines = [_explanation(row, source) for row in _of(batch, explained)]
            if lines:
                _write(folder / "explanations", number, lines)
        folders.append(folder)
    return folders


def _of(batch: pl.DataFrame, table: pl.DataFrame) -> Iterator[dict[str, Any]]:
    """The rows of a table that are about the features of a batch."""
    first, last = batch["feature"].min(), batch["feature"].max()
    return table.filter(pl.col("feature").is_between(first, last)).iter_rows(named=True)


def _heads(run: RunFolder, release: Release, source: _Dictionary) -> dict[str, dict[str, Any]]:
    """The files that say what the source is part of."""
    corpus = run.record["corpus"]
    who = {"creatorId": release.creator, "createdAt": source.made}
    return {
        "release": who
        | {
            "name": release.release_id,
            "description": release.title,
            "descriptionShort": release.title,
            "urls": [],
            "creatorName": release.creator,
            "creatorNameShort": release.creator,
        },
        "model": who
        | {
            "id": source.model_id,
            "instruct": False,
            "displayNameShort": source.model_id,
            "displayName": source.model_id,
            "updatedAt": source.made,
        },
        "sourceset": who
        | {
            "modelId": source.model_id,
            "name": source.set_id,
            "creatorName": release.creator,
            "releaseName": release.release_id,
            "description": "Residual stream after each block",
            "visibility": "PUBLIC",
        },
        "source": {
            "creatorId": release.creator,
            "modelId": source.model_id,
            "setName": source.set_id,
            "id": source.id,
            "visibility": "PUBLIC",
            "dataset": ", ".join(corpus["sources"]),
            "num_prompts": corpus["match_tokens"] // corpus["context"],
            "num_tokens_in_prompt": corpus["context"],
            "hfRepoId": None,
            "hfFolderId": None,
        },
    }


def _feature(row: dict[str, Any], source: _Dictionary) -> dict[str, Any]:
    return {
        "index": str(row["feature"]),
        "createdAt": source.made,
        "maxActApprox": row["max"],
        "hasVector": False,
        "vector": [],
        "vectorLabel": None,
        "hookName": f"blocks.{source.layer}.hook_resid_post",
        "topkCosSimIndices": row["near_feature"],
        "topkCosSimValues": row["near_cosine"],
        "pos_str": row["promoted"],
        "neg_str": row["suppressed"],
        "pos_values": [],
        "neg_values": [],
        "frac_nonzero": row["freq"],
        **{name: [] for name in EMPTY},
        **source.keys,
    }


def _activation(
    row: dict[str, Any], texts: Sequence[TokenText], source: _Dictionary
) -> dict[str, Any]:
    values, at = row["values"], int(np.argmax(row["values"]))
    return source.keys | {
        "id": sha256_bytes(f"{source.keys} {row['feature']} {row['row']} {row['quantile']}")[:25],
        "index": str(row["feature"]),
        "createdAt": source.made,
        "tokens": joined([texts[token] for token in row["tokens"]]),
        "values": values,
        "maxValue": values[at],
        "maxValueTokenIndex": at,
        "minValue": min(values),
        "qualifyingTokenIndex": row["position"] - row["start"],
        "dataIndex": str(row["document"]),
        "dataSource": None,
        "dfaValues": [],
        "lossValues": [],
    }


def _explanation(row: dict[str, Any], source: _Dictionary) -> dict[str, Any]:
    return source.keys | {
        "id": sha256_bytes(f"{source.keys} {row['feature']} {row['rater']} {row['prompts']}")[:25],
        "index": str(row["feature"]),
        "createdAt": source.made,
        "description": row["explanation"],
        "typeName": f"homolog-{row['prompts']}",
        "explanationModelName": row["rater"],
        "notes": json.dumps(
            {name: row[name] for name in ("complexity", "consistency_rated", "detection")}
        ),
    }


def _write(folder: Path, number: int, rows: Iterable[dict[str, Any]]) -> None:
    write_bytes(folder / f"batch-{number}.jsonl.gz", gzip.compress(_lines(rows), 5, mtime=0))


def _lines(rows: Iterable[dict[str, Any]]) -> bytes:
    return "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows).encode()
