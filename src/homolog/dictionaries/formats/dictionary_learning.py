"""The layout of dictionary_learning (Marks, Karvonen, Mueller; PyPI dictionary-learning).

    config.json     under "trainer": dict_class, activation_dim, dict_size, k, layer, lm_name, submodule_name
    ae.pt           torch.save of a state_dict; the decoder is stored transposed, (d_model, d_sae)

    AutoEncoder                relu((x - bias) E + e),  x' = f D + bias; loaded with D of norm 1 (f times the norms)
    AutoEncoderNew             relu(x E + e),           x' = f D + decoder.bias
    AutoEncoderTopK            the k largest of relu((x - b_dec) E + e)
    BatchTopKSAE               relu((x - b_dec) E + e) where above one threshold; also MatryoshkaBatchTopKSAE
    GatedAutoEncoder           q = (x - decoder_bias) E; relu(exp(r_mag) q + mag_bias) where q + gate_bias > 0
    JumpReluAutoEncoder        p = x W_enc + b_enc; relu(p) where p > threshold

Where activations were normalised in training, biases and thresholds have the factor in them when
saved (`scale_biases`), and nothing is left to do.  Source: dictionary_learning 0.1.0, dictionary.py
and trainers/*.py.

ae.pt is a pickle: only tensors are read from it.  We write AutoEncoder, AutoEncoderTopK, and
JumpReluAutoEncoder for all kinds with a threshold.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any, get_args

import torch

from homolog.dictionaries.base import Kind, SparseAutoencoder
from homolog.dictionaries.formats.facts import own_facts
from homolog.dictionaries.formats.folding import folded, uncentred
from homolog.dictionaries.formats.hooks import residual_layer
from homolog.dictionaries.formats.reading import (
    Config,
    Folder,
    Format,
    Tensors,
    name_in,
    positive,
    refuse,
    table,
)
from homolog.dictionaries.losses import fold_gated
from homolog.record.atomic import atomic_path, write_json

CONFIG_FILE = "config.json"
WEIGHTS_FILE = "ae.pt"
_LINEAR = ("encoder.weight", "decoder.weight")
_PLAIN = ("W_enc", "W_dec")
_BIASES: dict[str, tuple[tuple[str, str], tuple[str, ...], str]] = {
    # class: its matrices, its encoder's vectors, its decoder's bias
    "AutoEncoder": (_LINEAR, ("encoder.bias",), "bias"),
    "AutoEncoderNew": (_LINEAR, ("encoder.bias",), "decoder.bias"),
    "AutoEncoderTopK": (_LINEAR, ("encoder.bias",), "b_dec"),
    "BatchTopKSAE": (_LINEAR, ("encoder.bias",), "b_dec"),
    "MatryoshkaBatchTopKSAE": (_PLAIN, ("b_enc",), "b_dec"),
    "GatedAutoEncoder": (_LINEAR, ("mag_bias", "r_mag", "gate_bias"), "decoder_bias"),
    "JumpReluAutoEncoder": (_PLAIN, ("b_enc", "threshold"), "b_dec"),
}
_WITH_K = ("AutoEncoderTopK", "BatchTopKSAE", "MatryoshkaBatchTopKSAE")
_KINDS: dict[str, Kind] = {
    "AutoEncoderTopK": "topk",
    "BatchTopKSAE": "batchtopk",
    "MatryoshkaBatchTopKSAE": "batchtopk",
    "GatedAutoEncoder": "gated",
    "JumpReluAutoEncoder": "jumprelu",
}
_UNCENTRED = ("AutoEncoderNew", "JumpReluAutoEncoder")


def read(folder: Folder, config: Config) -> SparseAutoencoder:
    """A dictionary of dictionary_learning; see the module's first lines."""
    path, trainer = folder.path / CONFIG_FILE, config["trainer"]
    name = trainer.get("dict_class")
    if name not in tuple(_BIASES):
        refuse(
            path,
            "trainer.dict_class",
            name,
            f"one of {', '.join(_BIASES)}",
            "Others are no such autoencoders.",
        )
    if table(path, config, "buffer").get("io") == "in_and_out":
        refuse(
            path,
            "buffer.io",
            "in_and_out",
            "in or out",
            "A transcoder writes another place than it reads.",
        )
    kind, tensors = _kind(path, name, config), folder.tensors(WEIGHTS_FILE)
    W_enc, W_dec, vectors, b_dec = _weights(tensors, name, path, trainer)
    k = min(_k(tensors, path, trainer), W_enc.shape[1]) if name in _WITH_K else None
    threshold = None
    if name == "GatedAutoEncoder":
        gates = (vectors[v].double() for v in ("gate_bias", "r_mag", "mag_bias"))
        W_enc, vectors["mag_bias"], threshold = fold_gated(W_enc.double(), *gates)
    elif name == "JumpReluAutoEncoder":
        threshold = vectors["threshold"]
    elif name in ("BatchTopKSAE", "MatryoshkaBatchTopKSAE"):
        threshold = _one_threshold(tensors).expand(W_enc.shape[1])
    norms = W_dec.norm(dim=1)  # their from_pretrained makes them 1; what we wrote stays as it was
    unit = (
        name == "AutoEncoder"
        and "homolog" not in config
        and not torch.allclose(norms, torch.ones_like(norms))
    )
    return folded(
        W_enc,
        next(iter(vectors.values())),
        W_dec,
        b_dec,
        kind=kind,
        k=k if name == "AutoEncoderTopK" else None,
        threshold=threshold,
        centre=None if name in _UNCENTRED else b_dec,
        unit_decoder=unit,
        metadata=_metadata(path, config, trainer, k),
    )


def write(sae: SparseAutoencoder, folder: Path) -> list[Path]:
    """Write ae.pt, then config.json; the true kind and our facts under "homolog" there."""
    if sae.kind in ("relu", "topk"):
        name, tensors = "AutoEncoder", {"bias": sae.b_dec}
        if sae.kind == "topk":
            name = "AutoEncoderTopK"
            tensors = {
                "b_dec": sae.b_dec,
                "k": torch.tensor(sae.k, dtype=torch.int),
                "threshold": torch.tensor(-1.0),
            }
        tensors |= {
            "encoder.weight": sae.W_enc.T,
            "encoder.bias": sae.b_enc,
            "decoder.weight": sae.W_dec.T,
        }
    else:
        assert sae.threshold is not None
        name, tensors = (
            "JumpReluAutoEncoder",
            {"W_enc": sae.W_enc, "b_enc": uncentred(sae), "W_dec": sae.W_dec},
        )
        tensors |= {"b_dec": sae.b_dec, "threshold": sae.threshold}
    weights, config = folder / WEIGHTS_FILE, folder / CONFIG_FILE
    config.unlink(missing_ok=True)
    with atomic_path(weights) as partial:
        torch.save({name: w.detach().cpu().clone() for name, w in tensors.items()}, partial)
    trainer = {"dict_class": name, "activation_dim": sae.d_model, "dict_size": sae.d_sae}
    trainer |= {} if sae.k is None else {"k": sae.k}
    trainer |= {
        "layer": sae.metadata.get("layer"),
        "lm_name": sae.metadata.get("ref") or sae.metadata.get("model"),
    }
    write_json(config, {"trainer": trainer, "homolog": {**sae.metadata, "kind": sae.kind}})
    return [weights, config]


def _weights(tensors: Tensors, name: str, path: Path, trainer: Config):
    """W_enc (d_model, d_sae), W_dec (d_sae, d_model), the encoder's vectors by name, b_dec."""
    matrices, vectors, b_dec = _BIASES[name]
    extra = ("k", "threshold", "group_sizes") if name in _WITH_K else ()
    tensors.only(*matrices, *vectors, b_dec, *extra)
    _, shape = tensors.matrix(matrices[0])
    d_model, d_sae = shape if matrices is _PLAIN else shape[::-1]
    for key, found in (("activation_dim", d_model), ("dict_size", d_sae)):
        if trainer.get(key, found) != found:
            refuse(path, f"trainer.{key}", trainer[key], f"{found}, as in {WEIGHTS_FILE}")
    W_enc = tensors.take(matrices[0], shape)
    W_dec = tensors.take(matrices[1], shape[::-1])
    if matrices is _LINEAR:
        W_enc, W_dec = W_enc.T, W_dec.T
    return (
        W_enc,
        W_dec,
        {v: tensors.take(v, (d_sae,)) for v in vectors},
        tensors.take(b_dec, (d_model,)),
    )


def _k(tensors: Tensors, path: Path, trainer: Config) -> int:
    """k of the configuration, which must be that of the file, where it has one."""
    k = positive(path, trainer, "k")
    if "k" in tensors.values and tensors.integer("k") != k:
        refuse(path, "trainer.k", k, f"{tensors.integer('k')}, as in {WEIGHTS_FILE}")
    return k


def _one_threshold(tensors: Tensors) -> torch.Tensor:
    threshold = tensors.take("threshold", ())
    if threshold < 0:
        refuse(
            tensors.path,
            "threshold",
            float(threshold),
            "0 or above: it was not estimated yet, and features without "
            "it depend on what else is in the batch",
            "Take a later checkpoint.",
        )
    return threshold


def _kind(path: Path, name: str, config: Config) -> Kind:
    """Of ours the kind that it says, which must be written as this class."""
    kind = table(path, config, "homolog").get("kind", _KINDS.get(name, "relu"))
    known = kind in get_args(Kind)
    written = (
        {"relu": "AutoEncoder", "topk": "AutoEncoderTopK"}.get(kind, "JumpReluAutoEncoder")
        if known
        else None
    )
    if "homolog" in config and written != name:
        refuse(path, "trainer.dict_class", name, f"the one of the kind under homolog, {kind!r}")
    return kind


def _metadata(path: Path, config: Config, trainer: Config, k: int | None) -> dict[str, Any]:
    if (ours := config.get("homolog")) is not None:
        return own_facts(path, ours)
    hook, layer = name_in(trainer, "submodule_name"), trainer.get("layer")
    metadata: dict[str, Any] = {"model": name_in(trainer, "lm_name"), "hook": hook}
    own = layer if type(layer) is int and layer >= 0 else None
    metadata["layer"] = own if hook is None else residual_layer(hook)
    return metadata | ({} if k is None else {"config": {"k": k}})


def _recognises(config: Config) -> bool:
    return isinstance(config.get("trainer"), dict) and "dict_class" in config["trainer"]


FORMAT = Format(
    "dictionary_learning",
    "dictionary_learning",
    (CONFIG_FILE,),
    _recognises,
    lambda _: (WEIGHTS_FILE,),
    read,
    write,
)
