"""The model card of a trained zoo model: measured scores and recipe, as README.md in its folder."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from homolog.models.load import from_folder
from homolog.record.atomic import write_json, write_text
from homolog.zoo_training.evaluate import scores

TEMPLATE = Path(__file__).with_name("card.md")
SOURCES = {"corpus": "the text's frequencies", "uniform": "uniform"}


def write_card(folder: Path, text: Path) -> Path:
    """Measure the model in `folder` on the held-out text in the folder `text`; write scores.json
    and README.md.  Returns the card's path.
    """
    model = from_folder(folder)
    model.hf.eval().requires_grad_(False)
    measured = scores(model, text / "domains.jsonl")
    write_json(folder / "scores.json", measured)
    recipe = json.loads((folder / "training.json").read_text(encoding="utf-8"))
    training, mixture = recipe["training"], recipe["training"]["mixture"]
    fields: dict[str, Any] = training | mixture | measured
    fields |= {
        "name": recipe["name"],
        "seed": recipe["seed"],
        "architecture": recipe["model"],
        "n_blocks": model.n_layers,
        "d_model": model.d_model,
        "vocabulary": model.hf.config.vocab_size,
        "tokens_seen": training["steps"] * mixture["batch"] * mixture["context"],
        "shortest_episode": 2 * mixture["shortest"],
        "longest_episode": 2 * mixture["longest_end"],
        "induction": "\n".join(_row(entry) for entry in measured["induction"]),
        "tasks": "\n".join(_task(entry) for entry in measured["tasks"] if "solved" in entry),
    }
    start = recipe.get("start")
    fields["start"] = f"\n| start of the weights | {start.replace('_', ' ')} |" if start else ""
    card = TEMPLATE.read_text(encoding="utf-8").format(**fields)
    return write_text(folder / "README.md", card)


def _row(entry: dict[str, Any]) -> str:
    losses = (f"{entry[part]:.2f}" for part in ("first", "second", "gain"))
    return f"| {entry['length']} | {SOURCES[entry['source']]} | {' | '.join(losses)} |"


def _task(entry: dict[str, Any]) -> str:
    shares = (f"{entry[part]:.0%}" for part in ("solved", "chance", "on_top"))
    return f"| {entry['title'].lower()} | {' | '.join(shares)} |"
