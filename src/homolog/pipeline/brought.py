"""Dictionaries that a recipe brings instead of having them trained: where they lie, and whether
they are this model's.

A template names one dictionary a block, in any format that `dictionaries.load` reads:

    saes = "saes/mamba-s0/{layer}"        saes = "hf:OWNER/NAME/layers.{layer}"
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

from homolog import dictionaries
from homolog.dictionaries import SparseAutoencoder
from homolog.dictionaries.formats import WEIGHTS_FILE, is_of
from homolog.errors import InputError
from homolog.models import LanguageModel
from homolog.record.atomic import sha256_file
from homolog.record.layers import STREAM_AFTER
from homolog.record.recipe import Recipe
from homolog.record.sides import StudyModel

LAYER = "{layer}"


def load_brought(
    model: StudyModel, loaded: LanguageModel, label: str, layer: int
) -> SparseAutoencoder:
    """The dictionary of one block, checked; `metadata.origin` says where it comes from.

    Raises InputError where it is not there, cannot be read, or was made for another width, layer or
    place.
    """
    template = model.saes[model.labels.index(label)]
    n_wanted = len(model.blocks(loaded.n_layers))
    if LAYER not in template and n_wanted > 1:
        raise InputError(
            "models.saes",
            template,
            f"{model.name} has {n_wanted} blocks, each with a dictionary of its own",
            f"Put {LAYER} where their paths differ.",
        )
    ref = template.replace(LAYER, str(layer))
    sae = dictionaries.load(ref)
    if sae.d_model != loaded.d_model:
        raise InputError(
            f"d_model of {ref}",
            sae.d_model,
            f"{model.name} has a residual stream of {loaded.d_model}",
            "Bring dictionaries of this model.",
        )
    _check_place(ref, sae, str(loaded.own_site(layer)))
    origin = dict(sae.metadata.get("origin") or {"format": "homolog", "files": {}})
    if not origin["files"]:
        origin["files"] = {WEIGHTS_FILE: sha256_file(Path(ref).expanduser() / WEIGHTS_FILE)}
    of = {
        name: sae.metadata[name]
        for name in ("ref", "model", "revision", "tokenizer")
        if sae.metadata.get(name)
    }
    facts = {
        "origin": {**origin, "ref": ref, "of": of},
        "model": model.name,
        "label": label,
        "layer": layer,
    }
    return replace(sae, metadata={**sae.metadata, **facts})


def _check_place(ref: str, sae: SparseAutoencoder, site: str) -> None:
    if is_of(sae, site):
        return
    kind, layer = site.rsplit(".", 1)
    stream = kind == STREAM_AFTER
    place = f"the residual stream after block {layer}" if stream else f"{site} of the model"
    raise InputError(
        f"place of {ref}",
        sae.metadata.get("hook") or f"block {sae.metadata.get('layer')}",
        f"it is to read {place}",
        f"Bring those of {'the residual stream' if stream else kind}, or give the model their "
        f"site, and let {LAYER} count blocks from 0.",
    )


def check_brought(model: StudyModel, loaded: LanguageModel) -> None:
    """Load every dictionary once, before any work is done; errors as for `load_brought`."""
    for label in model.labels if model.saes else ():
        for layer in model.blocks(loaded.n_layers):
            load_brought(model, loaded, label, layer)


def mismatch(model: StudyModel, sae: SparseAutoencoder, tokenizer: str) -> str | None:
    """In words, what the dictionary's file says of its model that is not so here, or None."""
    of = (sae.metadata.get("origin") or {}).get("of", {})
    named = of.get("ref") or of.get("model")
    wrong = []
    if named and _short(named) not in (_short(model.ref), _short(model.name)):
        wrong.append(f"of {named}")
    if model.revision and of.get("revision") not in (None, model.revision):
        wrong.append(f"of revision {of['revision']}")
    if of.get("tokenizer") not in (None, tokenizer):
        wrong.append("of another tokenizer")
    if not wrong:
        return None
    where = f"{model.name}, layer {sae.metadata['layer']}"
    return f"{where}: its file says that the dictionary is {' and '.join(wrong)}"


def without_seed(models: Sequence[StudyModel], recipe: Recipe) -> list[str]:
    """In words, the models that bring no second dictionaries where a comparison needs them."""
    wanted = recipe.controls.sae_seed or recipe.controls.stability
    return [
        f"{s.name} brings no dictionaries of another seed (saes_seed): its SAE-seed skyline and "
        "the stability of matches in it are not measured"
        for s in models
        if wanted and s.saes and len(s.labels) == 1
    ]


def _short(name: str) -> str:
    """A model's name without owner or folder: "pythia-160m" of "EleutherAI/Pythia-160M"."""
    return re.split(r"[/:]|--", name.rstrip("/"))[-1].lower().removesuffix("-hf")
