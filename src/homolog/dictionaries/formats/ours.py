"""Ours in files: kinds under the names and in the form that libraries give them, and our own facts.

The names are in the files of `kinds`.  Our facts stand under "homolog" in every format: they are
read as written, or refused.
"""

from __future__ import annotations

from typing import Any

from homolog.dictionaries.formats.folding import ForeignWeights
from homolog.dictionaries.formats.reading import Config, File, Tensors
from homolog.dictionaries.kinds import KINDS, Encoder, Kind, Stored, carrier
from homolog.dictionaries.quality import Quality

_FACTS: dict[type, tuple[str, tuple[str, ...]]] = {
    str: ("a name", ("model", "ref", "revision", "tokenizer", "hook", "label")),
    int: ("a whole number, 0 or above", ("layer", "tokens_trained")),
    dict: ("an object", ("config", "training", "text", "origin", "quality")),
}
"""What our facts are, and how to say it."""


def names_in(library: str) -> dict[str, tuple[Kind, Stored]]:
    """The kind behind every name of a library, and how it stores it."""
    return {
        stored.name: (kind, stored)
        for kind in KINDS.values()
        for stored in kind.stored
        if stored.library == library
    }


def written_name(kind: Kind, library: str) -> str:
    """The name under which a kind of ours is written."""
    return next(one.name for one in carrier(kind.form).stored if one.library == library)


def kind_said(config: Config, part: str, name: str, library: str, where: str = "homolog") -> Kind:
    """The kind of ours that a file says it is under `where`, else the one behind this name.

    config: what holds "homolog".  part: what holds the name, under which we must write that kind.
    """
    own, _ = names_in(library)[name]
    if config.get("homolog") is None:
        return own
    said = config.table("homolog").get("kind", own.name)
    kind = KINDS.get(said) if isinstance(said, str) else None
    if kind is None or written_name(kind, library) != name:
        config.refuse(part, name, f"the one of the kind under {where}, {said!r}")
    return kind


def weights_of(
    tensors: Tensors, kind: Kind, stored: Stored, matrices: tuple[str, str], shape: tuple[int, int]
) -> ForeignWeights:
    """The weights of a kind as a library stores it, the encoder in the common form.

    matrices: names of encoder and decoder.  shape: (d_model, d_sae).
    """
    (d_model, d_sae), own = shape, shape[::-1] if stored.linear else shape
    W_enc, W_dec = tensors.take(matrices[0], own), tensors.take(matrices[1], own[::-1])
    if stored.linear:
        W_enc, W_dec = W_enc.T, W_dec.T
    vectors = {ours: tensors.take(theirs, (d_sae,)) for ours, theirs in stored.vectors.items()}
    if stored.scalar_threshold is not None:
        threshold = tensors.take(stored.scalar_threshold, ()).expand(d_sae)
        encoder = Encoder(W_enc, vectors["b_enc"], threshold)
    else:
        settings = kind.Settings.model_validate({})
        encoder = kind.encoder(settings, {"W_enc": W_enc} | vectors, 0.0)
    b_dec = tensors.take(stored.b_dec, (d_model,))
    return ForeignWeights(encoder.W_enc, encoder.b_enc, W_dec, b_dec, encoder.threshold)


def own_facts(file: File, facts: Any) -> dict[str, Any]:
    """What stands under "homolog" in a file, without the kind; InputError where it is wrong."""
    if not isinstance(facts, dict):
        file.refuse("homolog", facts, "an object")
    for kind, (words, names) in _FACTS.items():
        for name in names:
            value = facts.get(name)
            if value is not None and (type(value) is not kind or (kind is int and value < 0)):
                file.refuse(f"homolog.{name}", value, words)
    if facts.get("quality") is not None:
        Quality.from_row(facts["quality"])
    return {name: value for name, value in facts.items() if name != "kind"}
