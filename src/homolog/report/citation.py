"""What a paper says of a run: its methods in sentences, with the run's settings, and BibTeX."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import polars as pl

from homolog.analyses.records import mapping
from homolog.charts.words import integer
from homolog.record.comparisons import COMPARISONS, MAIN
from homolog.record.names import listed
from homolog.record.run_folder import RunFolder
from homolog.record.tables import SAES, SUMMARY

PAPER = """@inproceedings{wang2025universality,
  title = {Towards Universality: Studying Mechanistic Similarity
           Across Language Model Architectures},
  author = {Wang, Junxuan and Ge, Xuyang and Shu, Wentao and Tang, Qiong and Zhou, Yunhua
            and He, Zhengfu and Qiu, Xipeng},
  booktitle = {International Conference on Learning Representations},
  year = {2025},
  eprint = {2410.06672},
  eprinttype = {arXiv}
}"""
KINDS = {"relu": "ReLU", "topk": "TopK", "batchtopk": "BatchTopK", "jumprelu": "JumpReLU"}


def citation(path: Path | str) -> str:
    """Methods and BibTeX of the run in the folder `path`, as text.

    Numbers are those of the run: its recipe, and what was measured.  InputError where there is no
    run, or one that has not compared features yet.
    """
    run = RunFolder(Path(path))
    record = run.record
    software = mapping(record.get("versions")).get("homolog", "")
    year = max(str(stage["started"])[:4] for stage in record["stages"].values())
    entry = {
        "title": f"homolog {software}: homologous features and circuits of two language models",
        "author": "{the homolog authors}",
        "year": year,
        "note": f"Run {record['name']}, recipe {record['recipe_hash'][:12]}",
    }
    fields = ",\n".join(f"  {name} = {{{value}}}" for name, value in entry.items())
    saes, summary = (table.read(run.table(table)) for table in (SAES, SUMMARY))
    said = [*_materials(record, saes), *_criteria(record, summary)]
    return "\n\n".join([" ".join(said), PAPER, f"@software{{homolog,\n{fields}\n}}"]) + "\n"


def _materials(record: Mapping[str, Any], saes: pl.DataFrame) -> list[str]:
    """Models, text and dictionaries."""
    compared = [model for model in record["models"] if model["role"] == "compared"]
    names = listed(
        [
            f"{m['name']} ({m['architecture']}, {m['n_layers']} blocks, loss "
            f"{m['heldout_loss']:.2f} nats)"
            for m in compared
        ]
    )
    corpus, version = record["corpus"], mapping(record["versions"]).get("homolog", "")
    sentences = [f"We compared {names} with homolog {version}."]
    sentences += [_dictionaries(model, saes.filter(model=model["name"])) for model in compared]
    text = f"{integer(corpus['train_tokens'])} tokens to train dictionaries and "
    text += f"{integer(corpus['match_tokens'])} tokens of {integer(corpus['match_documents'])} "
    sentences.append(f"They saw {text}other documents to match features.")
    for units in record.get("units") or []:
        sentences.append(
            f"Features of {units['model']} and {units['best_model']}, whose tokenizers differ, "
            f"were compared at the ends of {integer(units['units'])} units of text at which both "
            "have a token boundary."
        )
    return sentences


def _dictionaries(model: Mapping[str, Any], saes: pl.DataFrame) -> str:
    """Kind, width, seeds, place and quality of those of a model."""
    kinds = listed([KINDS.get(str(kind), str(kind)) for kind in saes["kind"].unique().sort()])
    widths = listed([integer(width) for width in saes["d_sae"].unique().sort()])
    place = model.get("site") or "the residual stream"
    l0, explained = (_range(saes[name]) for name in ("l0", "explained_variance"))
    seeds = _counted(saes["label"].n_unique(), "seed")
    return (
        f"Of {model['name']}, {kinds} dictionaries of {widths} features read {place} of blocks "
        f"{', '.join(map(str, model['layers']))}, from {seeds}: "
        f"L0 {l0}, explained variance {explained}."
    )


def _criteria(record: Mapping[str, Any], summary: pl.DataFrame) -> list[str]:
    """How matches are judged."""
    matching = record["recipe"]["matching"]
    made = set(summary["comparison"])
    controls = [
        c.in_sentence()
        for c in COMPARISONS
        if c.role == "baseline" and c.kind == MAIN.kind and c.name in made
    ]
    beyond = f"beyond the controls ({'; '.join(controls)}), " if controls else ""
    exchanges = _counted(matching["null_exchanges"], "exchange")
    return [
        "The match of a feature is that of the other model's features with the highest Pearson "
        "correlation over tokens, all layers against all (MPPC; Wang et al., 2025).",
        "It is a homolog if it is above what the maximum reaches when whole documents are "
        f"exchanged (false discovery rate {matching['fdr']:.0%}, {exchanges}), explains at least "
        f"{matching['margin']:.0%} of the feature's variance {beyond}which are credited with "
        f"{matching['control_credit']:.0%} more than they explain, fires with it in at least "
        f"{_counted(matching['least_documents'], 'document')}, and reaches "
        f"{matching['rival_ratio']:.0%} of the partner's highest correlation within the feature's "
        "own model.",
        f"A control whose dictionaries explain over {matching['control_gap']:.0%} less of the "
        "variance than those it stands for is left out.",
        f"Intervals are 95%, of {matching['resamples']} resamples of documents.",
    ]


def _counted(n: int, what: str) -> str:
    return f"{n} {what}" if n == 1 else f"{n} {what}s"


def _range(values: pl.Series) -> str:
    """The least and the most, or one number where they print alike."""
    least, most = (f"{value:.2g}" for value in (values.min(), values.max()))
    return least if least == most else f"{least} to {most}"
