"""The layout of SAELens (`SAE.load_from_disk`), which is also our own.

    cfg.json                  architecture, widths, how to apply it; `metadata` on the model, and
                              ours under metadata.homolog, the true kind among it
    sae_weights.safetensors   W_enc (d_model, d_sae), b_enc (d_sae), W_dec (d_sae, d_model),
                              b_dec (d_model); for jumprelu `threshold` (d_sae); for gated b_gate,
                              r_mag, b_mag instead of b_enc

    p = (s x - b_dec) W_enc + b_enc        without b_dec where apply_b_dec_to_input is false
    standard f = relu(p),  topk the k largest of relu(p),  jumprelu f = relu(p) where p > threshold
    x' = (f W_dec + b_dec) / s

s is 1 but in checkpoints of a training with normalize_activations "expected_average_only_in", which
keep it in activation_scaler.json.  With rescale_acts_by_decoder_norm p is multiplied by the norms
of W_dec before the choice and f divided by them after it.  Source: sae_lens 6.54, saes/*.py and
loading/pretrained_sae_loaders.py.

What we write is standard (ReLU), topk, or jumprelu (BatchTopK, JumpReLU and Gated; SAELens does the
same with its BatchTopK), nothing left to normalise.  cfg.json is written last and holds the
checksum of the weights, so a folder cut off half-way, or mixed from two, is refused.
"""

from __future__ import annotations

import math
from dataclasses import replace
from pathlib import Path
from typing import Any

from safetensors.torch import save_file

from homolog.dictionaries.base import SparseAutoencoder
from homolog.dictionaries.formats.facts import own_facts
from homolog.dictionaries.formats.folding import Convention, ForeignWeights, folded
from homolog.dictionaries.formats.hooks import residual_layer
from homolog.dictionaries.formats.names import encoder_of, kind_said, names_in, written_name
from homolog.dictionaries.formats.reading import (
    Config,
    Folder,
    Format,
    Tensors,
    flag,
    name_in,
    number,
    positive,
    refuse,
    table,
)
from homolog.dictionaries.kinds import Kind, Stored, carrier, kind_of
from homolog.dictionaries.quality import Quality
from homolog.record.atomic import atomic_path, sha256_file, write_json

CONFIG_FILE = "cfg.json"
WEIGHTS_FILE = "sae_weights.safetensors"
SCALER_FILE = "activation_scaler.json"
_LAYOUT = "6.0.0"  # of SAELens, since when the model's facts stand under `metadata`
_LIBRARY = "homolog"  # as kinds call this layout
_WEIGHTS = ("W_enc", "b_enc", "W_dec", "b_dec")
_ONE_NORM = (
    "it divides every token by a norm of its own, which no fixed weights can do: train without it"
)


def write(sae: SparseAutoencoder, folder: Path, quality: Quality | None = None) -> list[Path]:
    """Write weights, then configuration; returns the two files."""
    weights, config = folder / WEIGHTS_FILE, folder / CONFIG_FILE
    config.unlink(missing_ok=True)
    names = (*_WEIGHTS, "threshold") if sae.threshold is not None else _WEIGHTS
    with atomic_path(weights) as partial:
        save_file(
            {name: getattr(sae, name).contiguous() for name in names},
            partial,
            metadata={"format": "pt"},
        )
    made = {**sae.metadata, "kind": sae.kind}
    if quality is not None:
        made["quality"] = {k: _no_nan(v) for k, v in quality.as_row().items()}
    layer = made.get("layer")
    facts = {
        "sae_lens_version": _LAYOUT,
        "model_name": made.get("ref") or made.get("model"),
        "revision": made.get("revision"),
        "tokenizer": made.get("tokenizer"),
        "hook_name": made.get("hook")
        or (None if layer is None else f"blocks.{layer}.hook_resid_post"),
        "weights_sha256": sha256_file(weights),
        "homolog": made,
    }
    write_json(
        config,
        {
            "architecture": written_name(kind_of(sae.kind), _LIBRARY),
            "d_in": sae.d_model,
            "d_sae": sae.d_sae,
            "dtype": "float32",
            "device": "cpu",
            "apply_b_dec_to_input": True,
            "normalize_activations": "none",
            "reshape_activations": "none",
            **({"k": sae.k, "rescale_acts_by_decoder_norm": False} if sae.k is not None else {}),
            "metadata": {name: value for name, value in facts.items() if value is not None},
        },
    )
    return [weights, config]


def read(folder: Folder, config: Config) -> SparseAutoencoder:
    """A dictionary of ours or of SAELens; see the module's first lines and `docs/formats.md`."""
    path = folder.path / CONFIG_FILE
    facts = table(path, config, "metadata")
    name, k = _architecture(path, config)
    own, stored = names_in(_LIBRARY)[name]
    kind, scale = _kind(path, name, facts), _scale(folder, path, config)
    shape = positive(path, config, "d_in"), positive(path, config, "d_sae")
    tensors = folder.tensors(WEIGHTS_FILE, checksum=facts.get("weights_sha256"))
    weights = _weights(tensors, own, stored, *shape)
    by_norm = stored.chooses and flag(path, config, "rescale_acts_by_decoder_norm")
    if by_norm and weights.threshold is not None:
        # theirs bounds p times the norm, `folded` takes one of p
        norms = weights.W_dec.double().norm(dim=1)
        if not bool((norms > 0).all()):
            refuse(
                tensors.path,
                "W_dec",
                "with a row of norm 0",
                "without, where activations are scaled by its norms",
            )
        weights = replace(weights, threshold=weights.threshold.double() / norms)
    centred = flag(path, config, "apply_b_dec_to_input", True)
    convention = Convention(centred, scale, scale, unit_decoder=by_norm)
    return folded(weights, convention, kind, k, _metadata(path, config, facts))


def saved_quality(sae: SparseAutoencoder) -> Quality | None:
    """The quality that the dictionary's file carries, None if it has none."""
    row = sae.metadata.get("quality")
    if row is None:
        return None
    return Quality.from_row(row)


def _no_nan(value: Any) -> Any:
    """JSON has no NaN: null stands for it."""
    return None if isinstance(value, float) and math.isnan(value) else value


def _architecture(path: Path, config: Config) -> tuple[str, int | None]:
    """Name and k; before version 6 TopK was a standard one with another activation."""
    name = config.get("architecture", "standard")
    activation = config.get("activation_fn", config.get("activation_fn_str", "relu"))
    arguments = table(path, config, "activation_fn_kwargs")
    plain, choosing = (written_name(carrier(form), _LIBRARY) for form in ("plain", "k"))
    if name == plain and activation == "topk":
        name = choosing
    known = tuple(names_in(_LIBRARY))
    if name not in known:
        refuse(
            path,
            "architecture",
            name,
            f"one of {', '.join(known)}",
            "Others are no such autoencoders.",
        )
    if activation not in ("relu", "topk") or arguments.get("signed"):
        refuse(
            path,
            "activation_fn",
            activation,
            "relu or topk, not signed",
            "Features here are never negative.",
        )
    if config.get("finetuning_scaling_factor"):
        refuse(
            path,
            "finetuning_scaling_factor",
            True,
            "false",
            "Multiply W_dec by the factors and save it again.",
        )
    hook = str(_fact(config, "hook_name") or "")
    reshape = config.get("reshape_activations") or ("hook_z" if "hook_z" in hook else "none")
    if reshape != "none":
        refuse(
            path,
            "reshape_activations",
            reshape,
            "none",
            "Take one of the residual stream: this reads heads.",
        )
    if name != choosing:
        return name, None
    return name, positive(path, {"k": config.get("k", arguments.get("k"))}, "k")


def _scale(folder: Folder, path: Path, config: Config) -> float:
    """The s that inputs are multiplied by."""
    norm = config.get("normalize_activations") or "none"
    if norm is True:  # as it was before version 4
        norm = "expected_average_only_in"
    if norm == "none":
        return 1.0
    if norm in ("layer_norm", "constant_norm_rescale"):
        refuse(
            path,
            "normalize_activations",
            norm,
            "none or expected_average_only_in",
            f"Not this one: {_ONE_NORM}.",
        )
    if norm != "expected_average_only_in":
        refuse(
            path,
            "normalize_activations",
            norm,
            "none",
            "Fold it into the weights with SAELens and save again.",
        )
    scale = number(path, folder.beside(SCALER_FILE), "scaling_factor")
    if not scale > 0:
        refuse(
            path,
            "normalize_activations",
            norm,
            f"none, or {SCALER_FILE} with the scaling_factor must lie beside",
            'Where the factor is folded in already, write "none"; else '
            "sae.fold_activation_norm_scaling_factor(FACTOR) "
            "and sae.save_model(FOLDER) in SAELens.",
        )
    return scale


def _weights(
    tensors: Tensors, kind: Kind, stored: Stored, d_model: int, d_sae: int
) -> ForeignWeights:
    """Weights and thresholds, the encoder in the common form."""
    scalar = () if stored.scalar_threshold is None else (stored.scalar_threshold,)
    tensors.only("W_enc", *stored.vectors.values(), "W_dec", "b_dec", *scalar)
    W_enc, b_enc, threshold = encoder_of(
        kind, stored, tensors, tensors.take("W_enc", (d_model, d_sae))
    )
    W_dec = tensors.take("W_dec", (d_sae, d_model))
    return ForeignWeights(W_enc, b_enc, W_dec, tensors.take("b_dec", (d_model,)), threshold)


def _kind(path: Path, name: str, facts: Config) -> str:
    """Ours says its kind, as which it must be written; of SAELens, what it was trained as."""
    known = names_in(_LIBRARY)
    if facts.get("homolog") is None:
        trained = str(facts.get("training_architecture") or "")
        own = known[name][0]
        if own is carrier("threshold"):  # as which SAELens writes a threshold of a batch, too
            others = ((k, n) for n, (k, stored) in known.items() if stored.scalar_threshold)
            own = next((kind for kind, other in others if other in trained), own)
        return own.name
    said = table(path, facts, "homolog").get("kind", known[name][0].name)
    kind = kind_said(said, name, _LIBRARY)
    if kind is None:
        refuse(path, "architecture", name, f"the one of the kind under metadata.homolog, {said!r}")
    return kind.name


def _fact(config: Config, name: str) -> str | None:
    """On the model: under `metadata` since version 6, at the top before."""
    old = {"hook_name": "hook_point"}.get(name, name)
    return (
        name_in(config.get("metadata") or {}, name) or name_in(config, name) or name_in(config, old)
    )


def _metadata(path: Path, config: Config, facts: Config) -> dict[str, Any]:
    if (ours := facts.get("homolog")) is not None:
        return own_facts(path, ours)
    hook = _fact(config, "hook_name")
    kept = {
        name: facts[name]
        for name in ("sae_lens_version", "training_architecture")
        if facts.get(name) is not None
    }
    return {
        "model": _fact(config, "model_name"),
        "hook": hook,
        "layer": residual_layer(hook),
        **kept,
    }


def _recognises(config: Config) -> bool:
    return "d_sae" in config and "d_in" in config


FORMAT = Format(
    "homolog",
    "SAELens",
    (CONFIG_FILE,),
    _recognises,
    lambda _: (WEIGHTS_FILE,),
    read,
    write,
    beside=(SCALER_FILE,),
)
