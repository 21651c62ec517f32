"""The layout of dictionary_learning (Marks, Karvonen, Mueller; PyPI dictionary-learning).

    config.json     under "trainer": dict_class, activation_dim, dict_size, k, layer, lm_name,
                    submodule_name
    ae.pt           torch.save of a state_dict; the decoder is stored transposed, (d_model, d_sae)

    AutoEncoder           relu((x - bias) E + e),  x' = f D + bias
                          loaded with D of norm 1 (f times the norms)
    AutoEncoderNew        relu(x E + e),  x' = f D + decoder.bias
    AutoEncoderTopK       the k largest of relu((x - b_dec) E + e)
    BatchTopKSAE          relu((x - b_dec) E + e) where above one threshold
                          also MatryoshkaBatchTopKSAE
    GatedAutoEncoder      relu(exp(r_mag) q + mag_bias) where q + gate_bias > 0
                          q = (x - decoder_bias) E
    JumpReluAutoEncoder   p = x W_enc + b_enc; relu(p) where p > threshold
    CrossCoder            and BatchTopKCrossCoder: see `crosscoders`

Where activations were normalised in training, biases and thresholds have the factor in them when
saved (`scale_biases`), and nothing is left to do.  Source: dictionary_learning 0.1.0, dictionary.py
and trainers/*.py.

ae.pt is a pickle: only tensors are read from it.  We write AutoEncoder, AutoEncoderTopK, and
JumpReluAutoEncoder for all kinds with a threshold, BatchTopKCrossCoder for crosscoders.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch

from homolog.dictionaries.base import SparseAutoencoder
from homolog.dictionaries.formats import crosscoders
from homolog.dictionaries.formats.folding import Convention, ForeignWeights, folded, uncentred
from homolog.dictionaries.formats.hooks import residual_layer
from homolog.dictionaries.formats.ours import (
    kind_said,
    names_in,
    own_facts,
    weights_of,
    written_name,
)
from homolog.dictionaries.formats.reading import Config, Folder, Format, Tensors
from homolog.dictionaries.kinds import Kind, Stored, kind_of
from homolog.dictionaries.streams import FACTS
from homolog.record.atomic import atomic_path, write_json

CONFIG_FILE = "config.json"
WEIGHTS_FILE = "ae.pt"
_LIBRARY = "dictionary_learning"
_LINEAR = ("encoder.weight", "decoder.weight")
_PLAIN = ("W_enc", "W_dec")


def read(folder: Folder, config: Config) -> SparseAutoencoder:
    """A dictionary of dictionary_learning; see the module's first lines."""
    trainer, known = config.table("trainer"), names_in(_LIBRARY)
    name = trainer.get("dict_class")
    if name in crosscoders.NAMES:
        tensors = folder.tensors(WEIGHTS_FILE)
        k = trainer.get("k")
        facts = _metadata(config, trainer, k if type(k) is int else None)
        return crosscoders.read(tensors, name, facts)
    if name not in tuple(known):
        words = f"one of {', '.join([*known, *crosscoders.NAMES])}"
        config.refuse("trainer.dict_class", name, words, "Others are no such autoencoders.")
    if config.table("buffer").get("io") == "in_and_out":
        why = "A transcoder writes another place than it reads."
        config.refuse("buffer.io", "in_and_out", "in or out", why)
    own, stored = known[name]
    kind = kind_said(config, "trainer.dict_class", name, _LIBRARY)
    tensors = folder.tensors(WEIGHTS_FILE)
    weights = _weights(tensors, own, stored, trainer)
    k = min(_k(tensors, trainer), weights.W_enc.shape[1]) if stored.chooses else None
    # what we wrote stays as it was
    unit = stored.unit and "homolog" not in config
    if unit:
        norms = weights.W_dec.norm(dim=1)
        unit = not torch.allclose(norms, torch.ones_like(norms))
    convention = Convention(stored.centred, unit_decoder=unit)
    facts = _metadata(config, trainer, k)
    return folded(weights, convention, kind.name, k if kind.form == "k" else None, facts)


def write(sae: SparseAutoencoder, folder: Path) -> list[Path]:
    """Write ae.pt, then config.json; the true kind and our facts under "homolog" there."""
    if FACTS in sae.metadata:
        name, tensors = crosscoders.tensors_of(sae)
        d_model = tensors["encoder.weight"].shape[1]
    else:
        name, tensors = _tensors_of(sae)
        d_model = sae.d_model
    weights, config = folder / WEIGHTS_FILE, folder / CONFIG_FILE
    config.unlink(missing_ok=True)
    with atomic_path(weights) as partial:
        torch.save({name: w.detach().cpu().clone() for name, w in tensors.items()}, partial)
    trainer = {"dict_class": name, "activation_dim": d_model, "dict_size": sae.d_sae}
    trainer |= {} if sae.k is None else {"k": sae.k}
    facts = sae.metadata
    trainer |= {"layer": facts.get("layer"), "lm_name": facts.get("ref") or facts.get("model")}
    trainer |= {"submodule_name": facts["hook"]} if facts.get("hook") else {}
    write_json(config, {"trainer": trainer, "homolog": {**facts, "kind": sae.kind}})
    return [weights, config]


def _tensors_of(sae: SparseAutoencoder) -> tuple[str, dict[str, torch.Tensor]]:
    """The library's class of a dictionary of one stream, and what it holds."""
    name = written_name(kind_of(sae.kind), _LIBRARY)
    _, stored = names_in(_LIBRARY)[name]
    b_enc = sae.b_enc if stored.centred else uncentred(sae)
    matrices = (sae.W_enc.T, sae.W_dec.T) if stored.linear else (sae.W_enc, sae.W_dec)
    tensors = dict(zip(_LINEAR if stored.linear else _PLAIN, matrices, strict=True))
    tensors |= {stored.vectors["b_enc"]: b_enc, stored.b_dec: sae.b_dec}
    if sae.threshold is not None:
        tensors[stored.vectors["threshold"]] = sae.threshold
    if sae.k is not None:
        tensors |= {"k": torch.tensor(sae.k, dtype=torch.int), "threshold": torch.tensor(-1.0)}
    return name, tensors


def _weights(tensors: Tensors, kind: Kind, stored: Stored, trainer: Config) -> ForeignWeights:
    """The weights, the encoder in the common form."""
    matrices = _LINEAR if stored.linear else _PLAIN
    tensors.only(*matrices, *stored.vectors.values(), stored.b_dec, *stored.other)
    _, shape = tensors.matrix(matrices[0])
    d_model, d_sae = shape[::-1] if stored.linear else shape
    for key, width in (("activation_dim", d_model), ("dict_size", d_sae)):
        if trainer.get(key, width) != width:
            trainer.refuse(f"trainer.{key}", trainer[key], f"{width}, as in {WEIGHTS_FILE}")
    weights = weights_of(tensors, kind, stored, matrices, (d_model, d_sae))
    threshold = weights.threshold
    if stored.scalar_threshold is not None and threshold is not None and threshold[0] < 0:
        words = (
            "0 or above: it was not estimated yet, and features without it depend on what else is "
            "in the batch"
        )
        least = float(threshold[0])
        tensors.refuse(stored.scalar_threshold, least, words, "Take a later checkpoint.")
    return weights


def _k(tensors: Tensors, trainer: Config) -> int:
    """k of the configuration, which must be that of the file, where it has one."""
    k = trainer.positive("k")
    if "k" in tensors.values and tensors.integer("k") != k:
        trainer.refuse("trainer.k", k, f"{tensors.integer('k')}, as in {WEIGHTS_FILE}")
    return k


def _metadata(config: Config, trainer: Config, k: int | None) -> dict[str, Any]:
    if (ours := config.get("homolog")) is not None:
        return own_facts(config, ours)
    hook, layer = trainer.name("submodule_name"), trainer.get("layer")
    own = layer if type(layer) is int and layer >= 0 else None
    facts = {"model": trainer.name("lm_name"), "hook": hook}
    facts |= {"layer": own if hook is None else residual_layer(hook)}
    return facts | ({} if k is None else {"config": {"k": k}})


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
