"""Features, examples and explanations of a run as the files that Neuronpedia imports.

    OUT/MODEL_ID/LAYER-SET/release.jsonl  model.jsonl  sourceset.jsonl  source.jsonl
                          features/batch-0.jsonl.gz ...  one line a feature
                          activations/batch-0.jsonl.gz ...  one line an example
                          explanations/batch-0.jsonl.gz ...  one line an explanation, where a judge
                          gave some

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
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl

from homolog.corpus import TokenText, joined
from homolog.errors import InputError
from homolog.record.atomic import sha256_bytes, write_bytes
from homolog.record.run_folder import RunFolder

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
    """Who publishes, and under which names: `set_id` is that of the source set, short, as
    "res-homolog".
    """

    creator: str
    release_id: str
    title: str
    set_id: str = "res-homolog"
    model_ids: Mapping[str, str] | None = None
    """Neuronpedia's name of each model, where it is not the run's."""


def export_neuronpedia(path: Path, out: Path, release: Release) -> list[Path]:
    """Write one folder for every layer of every compared model of the run `path`; returns the
    folders.

    The same run gives the same bytes.  InputError when the run has no examples.
    """
    run = RunFolder(path)
    if not run.table("features").is_file():
        raise InputError(
            "run folder",
            str(path),
            "it has no examples of its features",
            "Finish the run with an [interpretation] table in its recipe.",
        )
    run.require_whole(*run.told)
    features, texts = (
        pl.read_parquet(run.table("features")),
        json.loads(run.vocabulary.read_text("utf-8")),
    )
    judged = pl.read_parquet(run.table("judged")) if run.table("judged").is_file() else None
    folders = []
    for (model, layer), rows in features.group_by("model", "layer", maintain_order=True):
        model, layer = str(model), int(layer)  # type: ignore[call-overload]
        model_id = (release.model_ids or {}).get(model, model)
        source = f"{layer}-{release.set_id}"
        folder = out / model_id / source
        common = {"modelId": model_id, "layer": source}
        made = run.record["stages"]["interpretation"]["started"]
        for name, value in _heads(run, release, model_id, source, made).items():
            write_bytes(folder / f"{name}.jsonl", _lines([value]))
        contexts = pl.read_parquet(run.contexts(model, layer))
        own = (
            None
            if judged is None
            else judged.filter(model=model, layer=layer).drop_nulls("explanation")
        )
        for number, batch in enumerate(rows.iter_slices(BATCH)):
            first, last = batch["feature"].min(), batch["feature"].max()
            inside = pl.col("feature").is_between(first, last)
            _write(
                folder,
                "features",
                number,
                (_feature(row, layer, made) | common for row in batch.iter_rows(named=True)),
            )
            shown = contexts.filter(inside).iter_rows(named=True)
            _write(
                folder,
                "activations",
                number,
                (_activation(row, texts, made, common) for row in shown),
            )
            if own is not None and (part := own.filter(inside)).height:
                lines = (_explanation(row, made, common) for row in part.iter_rows(named=True))
                _write(folder, "explanations", number, lines)
        folders.append(folder)
    return folders


def _heads(
    run: RunFolder, release: Release, model_id: str, source: str, made: str
) -> dict[str, dict[str, Any]]:
    """The files that say what the source is part of."""
    corpus = run.record["corpus"]
    who = {"creatorId": release.creator, "createdAt": made}
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
            "id": model_id,
            "instruct": False,
            "displayNameShort": model_id,
            "displayName": model_id,
            "updatedAt": made,
        },
        "sourceset": who
        | {
            "modelId": model_id,
            "name": release.set_id,
            "creatorName": release.creator,
            "releaseName": release.release_id,
            "description": "Residual stream after each block",
            "visibility": "PUBLIC",
        },
        "source": {
            "creatorId": release.creator,
            "modelId": model_id,
            "setName": release.set_id,
            "id": source,
            "visibility": "PUBLIC",
            "dataset": ", ".join(corpus["sources"]),
            "num_prompts": corpus["match_tokens"] // corpus["context"],
            "num_tokens_in_prompt": corpus["context"],
            "hfRepoId": None,
            "hfFolderId": None,
        },
    }


def _feature(row: dict[str, Any], layer: int, made: str) -> dict[str, Any]:
    return {
        "index": str(row["feature"]),
        "createdAt": made,
        "maxActApprox": row["max"],
        "hasVector": False,
        "vector": [],
        "vectorLabel": None,
        "hookName": f"blocks.{layer}.hook_resid_post",
        "topkCosSimIndices": row["near_feature"],
        "topkCosSimValues": row["near_cosine"],
        "pos_str": row["promoted"],
        "neg_str": row["suppressed"],
        "pos_values": [],
        "neg_values": [],
        "frac_nonzero": row["freq"],
        **{name: [] for name in EMPTY},
    }


def _activation(
    row: dict[str, Any], texts: Sequence[TokenText], made: str, common: dict[str, str]
) -> dict[str, Any]:
    values, at = row["values"], int(np.argmax(row["values"]))
    return common | {
        "id": sha256_bytes(f"{common} {row['feature']} {row['row']} {row['quantile']}")[:25],
        "index": str(row["feature"]),
        "createdAt": made,
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


def _explanation(row: dict[str, Any], made: str, common: dict[str, str]) -> dict[str, Any]:
    return common | {
        "id": sha256_bytes(f"{common} {row['feature']} {row['judge']} {row['prompts']}")[:25],
        "index": str(row["feature"]),
        "createdAt": made,
        "description": row["explanation"],
        "typeName": f"homolog-{row['prompts']}",
        "explanationModelName": row["judge"],
        "notes": json.dumps(
            {name: row[name] for name in ("complexity", "consistency_judged", "detection")}
        ),
    }


def _write(folder: Path, kind: str, number: int, rows: Iterable[dict[str, Any]]) -> None:
    write_bytes(folder / kind / f"batch-{number}.jsonl.gz", gzip.compress(_lines(rows), 5, mtime=0))


def _lines(rows: Iterable[dict[str, Any]]) -> bytes:
    def each() -> Iterator[str]:
        for row in rows:
            yield json.dumps(row, ensure_ascii=False) + "\n"

    return "".join(each()).encode()
