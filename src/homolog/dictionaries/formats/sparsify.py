"""The layout of sparsify (EleutherAI; PyPI eai-sparsify).

One folder for each place of the model, "layers.3".

    cfg.json            d_in, num_latents or (0) expansion_factor times d_in, k, activation, ...
    sae.safetensors     encoder.weight (d_sae, d_model), encoder.bias (d_sae),
                        W_dec (d_sae, d_model), b_dec (d_model)
    ../config.json      the training: model, revision, dataset

    f = the k largest of relu((x - b_dec) encoder.weight^T + encoder.bias),   x' = f W_dec + b_dec

Source: sparsify 1.3.3, sparse_coder.py and fused_encoder.py.  TopK only: other kinds have no place
in it.  Our facts stand in the header of the safetensors file, for sparsify logs every key of
cfg.json that it does not know.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import torch

from homolog.dictionaries.base import SparseAutoencoder
from homolog.dictionaries.formats.folding import Convention, ForeignWeights, folded
from homolog.dictionaries.formats.hooks import residual_layer
from homolog.dictionaries.formats.ours import names_in, own_facts
from homolog.dictionaries.formats.reading import Config, Folder, Format, parse, write_tensors
from homolog.dictionaries.kinds import kind_of
from homolog.errors import InputError
from homolog.record.atomic import write_json

CONFIG_FILE = "cfg.json"
WEIGHTS_FILE = "sae.safetensors"
_LIBRARY, _ACTIVATION = "sparsify", "topk"
_TRAINING = "../config.json"
_WEIGHTS: tuple[str, ...] = ("encoder.weight", "encoder.bias", "W_dec", "b_dec")
_RESIDUALS = "Take one that reconstructs what it reads, from the residual stream."
_REFUSED: dict[str, tuple[Any, str, str]] = {
    "activation": (
        _ACTIVATION,
        _ACTIVATION,
        "Groupmax takes one feature of every group, which no k or threshold expresses.",
    ),
    "signed": (False, "false", "Features here are never negative."),
    "skip_connection": (
        False,
        "false",
        f"It adds x W_skip to what the features give. {_RESIDUALS}",
    ),
    "transcode": (False, "false", f"A transcoder writes another place than it reads. {_RESIDUALS}"),
}
"""Settings that must have one value: that value, how to say it, and why."""


def read(folder: Folder, config: Config) -> SparseAutoencoder:
    """A TopK autoencoder of sparsify."""
    for key, (needed, words, why) in _REFUSED.items():
        if (value := config.get(key, needed)) != needed:
            config.refuse(key, value, words, why)
    d_model, k = config.positive("d_in"), config.positive("k")
    d_sae = config.positive("num_latents", lambda: d_model * config.positive("expansion_factor"))
    shapes = dict(
        zip(_WEIGHTS, ((d_sae, d_model), (d_sae,), (d_sae, d_model), (d_model,)), strict=True)
    )
    tensors = folder.tensors(WEIGHTS_FILE)
    tensors.only(*shapes)
    W_enc_T, b_enc, W_dec, b_dec = (tensors.take(name, shape) for name, shape in shapes.items())
    ours = tensors.header.get("homolog")
    facts = _metadata(folder) if ours is None else own_facts(tensors, parse(tensors.path, ours))
    kind, _ = names_in(_LIBRARY)[_ACTIVATION]
    weights = ForeignWeights(W_enc_T.T, b_enc, W_dec, b_dec)
    return folded(weights, Convention(), kind.name, k, facts)


def write(sae: SparseAutoencoder, folder: Path) -> list[Path]:
    """Write a dictionary that keeps a token's k largest; InputError for other forms."""
    kind, _ = names_in(_LIBRARY)[_ACTIVATION]
    if kind_of(sae.kind).form != kind.form:
        requirement = f"sparsify stores {kind.name} alone"
        remedy = "Convert it to dictionary_learning or homolog (SAELens)."
        raise InputError("kind", sae.kind, requirement, remedy)
    unit = torch.allclose(sae.W_dec.norm(dim=1), torch.ones(sae.d_sae), atol=1e-4)
    weights, config = folder / WEIGHTS_FILE, folder / CONFIG_FILE
    tensors = dict(zip(_WEIGHTS, (sae.W_enc.T, sae.b_enc, sae.W_dec, sae.b_dec), strict=True))
    write_tensors(weights, config, tensors, json.dumps(dict(sae.metadata), allow_nan=False))
    settings = {
        "activation": _ACTIVATION,
        "expansion_factor": max(1, sae.d_sae // sae.d_model),
        "normalize_decoder": unit,
        "num_latents": sae.d_sae,
        "k": sae.k,
        "multi_topk": False,
        "skip_connection": False,
        "transcode": False,
        "d_in": sae.d_model,
    }
    return [weights, write_json(config, settings)]


def _metadata(folder: Folder) -> dict[str, Any]:
    above, own = folder.names
    hook, training = above if own.startswith("seed") else own, folder.beside(_TRAINING)
    return {
        "model": training.name("model"),
        "revision": training.name("revision"),
        "hook": hook,
        "layer": residual_layer(hook),
    }


def _recognises(config: Config) -> bool:
    has_width = "num_latents" in config or "expansion_factor" in config
    return "d_in" in config and "d_sae" not in config and has_width


FORMAT = Format(
    "sparsify",
    "sparsify",
    (CONFIG_FILE,),
    _recognises,
    lambda _: (WEIGHTS_FILE,),
    read,
    write,
    beside=(_TRAINING,),
)
