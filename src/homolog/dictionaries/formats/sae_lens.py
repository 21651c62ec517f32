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

from dataclasses import replace
from pathlib import Path
from typing import Any

from homolog.dictionaries.base import SparseAutoencoder
from homolog.dictionaries.formats.folding import Convention, folded
from homolog.dictionaries.formats.hooks import residual_layer
from homolog.dictionaries.formats.ours import (
    kind_said,
    names_in,
    own_facts,
    weights_of,
    written_name,
)
from homolog.dictionaries.formats.reading import Config, Folder, Format, write_tensors
from homolog.dictionaries.kinds import Kind, carrier, kind_of
from homolog.dictionaries.quality import Quality
from homolog.record.atomic import sha256_file, write_json

CONFIG_FILE = "cfg.json"
WEIGHTS_FILE = "sae_weights.safetensors"
SCALER_FILE = "activation_scaler.json"
_LAYOUT = "6.0.0"  # of SAELens, since when the model's facts stand under `metadata`
_LIBRARY = "homolog"  # as kinds call this layout
_WEIGHTS = ("W_enc", "b_enc", "W_dec", "b_dec")
_ONE_NORM = (
    "it divides every token by a norm of its own, which no fixed weights can do: train without it"
)


def write(sae: SparseAutoencoder, folder: Path) -> list[Path]:
    """Write weights, then configuration; returns the two files."""
    weights, config = folder / WEIGHTS_FILE, folder / CONFIG_FILE
    names = (*_WEIGHTS, "threshold") if sae.threshold is not None else _WEIGHTS
    write_tensors(weights, config, {name: getattr(sae, name) for name in names})
    made = {**sae.metadata, "kind": sae.kind}
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
    settings = {
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
    }
    return [weights, write_json(config, settings)]


def read(folder: Folder, config: Config) -> SparseAutoencoder:
    """A dictionary of ours or of SAELens; see the module's first lines and `docs/formats.md`."""
    facts = config.table("metadata")
    name, k = _architecture(config)
    own, stored = names_in(_LIBRARY)[name]
    kind, scale = _kind(name, facts), _scale(folder, config)
    shape = config.positive("d_in"), config.positive("d_sae")
    tensors = folder.tensors(WEIGHTS_FILE, checksum=facts.get("weights_sha256"))
    scalar = () if stored.scalar_threshold is None else (stored.scalar_threshold,)
    tensors.only("W_enc", *stored.vectors.values(), "W_dec", "b_dec", *scalar)
    weights = weights_of(tensors, own, stored, ("W_enc", "W_dec"), shape)
    by_norm = stored.chooses and config.flag("rescale_acts_by_decoder_norm")
    if by_norm and weights.threshold is not None:
        # theirs bounds p times the norm, `folded` takes one of p
        expected = "without, where activations are scaled by its norms"
        norms = tensors.norms("W_dec", weights.W_dec, expected)
        weights = replace(weights, threshold=weights.threshold.double() / norms)
    centred = config.flag("apply_b_dec_to_input", True)
    convention = Convention(centred, scale, scale, unit_decoder=by_norm)
    return folded(weights, convention, kind.name, k, _metadata(config, facts))


def saved_quality(sae: SparseAutoencoder) -> Quality | None:
    """The quality that the dictionary's file carries, None if it has none."""
    row = sae.metadata.get("quality")
    return None if row is None else Quality.from_row(row)


def _architecture(config: Config) -> tuple[str, int | None]:
    """Name and k; before version 6 TopK was a standard one with another activation."""
    name = config.get("architecture", "standard")
    activation = config.get("activation_fn", config.get("activation_fn_str", "relu"))
    arguments = config.table("activation_fn_kwargs")
    plain, choosing = (written_name(carrier(form), _LIBRARY) for form in ("plain", "k"))
    if name == plain and activation == "topk":
        name = choosing
    known = tuple(names_in(_LIBRARY))
    if name not in known:
        words = f"one of {', '.join(known)}"
        config.refuse("architecture", name, words, "Others are no such autoencoders.")
    if activation not in ("relu", "topk") or arguments.get("signed"):
        words, why = "relu or topk, not signed", "Features here are never negative."
        config.refuse("activation_fn", activation, words, why)
    if config.get("finetuning_scaling_factor"):
        remedy = "Multiply W_dec by the factors and save it again."
        config.refuse("finetuning_scaling_factor", True, "false", remedy)
    hook = str(_fact(config, "hook_name") or "")
    reshape = config.get("reshape_activations") or ("hook_z" if "hook_z" in hook else "none")
    if reshape != "none":
        remedy = "Take one of the residual stream: this reads heads."
        config.refuse("reshape_activations", reshape, "none", remedy)
    if name != choosing:
        return name, None
    return name, Config(config.path, {"k": config.get("k", arguments.get("k"))}).positive("k")


def _scale(folder: Folder, config: Config) -> float:
    """The s that inputs are multiplied by."""
    key, averaged = "normalize_activations", "expected_average_only_in"
    norm = config.get(key) or "none"
    if norm is True:  # as it was before version 4
        norm = averaged
    if norm == "none":
        return 1.0
    if norm in ("layer_norm", "constant_norm_rescale"):
        config.refuse(key, norm, f"none or {averaged}", f"Not this one: {_ONE_NORM}.")
    if norm != averaged:
        remedy = "Fold it into the weights with SAELens and save again."
        config.refuse(key, norm, "none", remedy)
    scale = Config(config.path, folder.beside(SCALER_FILE)).number("scaling_factor")
    if not scale > 0:
        expected = f"none, or {SCALER_FILE} with the scaling_factor must lie beside"
        remedy = (
            'Where the factor is folded in already, write "none"; else '
            "sae.fold_activation_norm_scaling_factor(FACTOR) and sae.save_model(FOLDER) in SAELens."
        )
        config.refuse(key, norm, expected, remedy)
    return scale


def _kind(name: str, facts: Config) -> Kind:
    """Ours says its kind, as which it must be written; of SAELens, what it was trained as."""
    kind = kind_said(facts, "architecture", name, _LIBRARY, "metadata.homolog")
    if facts.get("homolog") is not None or kind is not carrier("threshold"):
        return kind
    # as which SAELens writes a threshold of a batch, too
    trained = str(facts.get("training_architecture") or "")
    others = ((k, n) for n, (k, stored) in names_in(_LIBRARY).items() if stored.scalar_threshold)
    return next((other for other, its_name in others if its_name in trained), kind)


def _fact(config: Config, name: str) -> str | None:
    """On the model: under `metadata` since version 6, at the top before."""
    old = {"hook_name": "hook_point"}.get(name, name)
    return config.table("metadata").name(name) or config.name(name) or config.name(old)


def _metadata(config: Config, facts: Config) -> dict[str, Any]:
    if (ours := facts.get("homolog")) is not None:
        return own_facts(config, ours)
    model, hook = _fact(config, "model_name"), _fact(config, "hook_name")
    made = {name: facts.get(name) for name in ("sae_lens_version", "training_architecture")}
    kept = {name: value for name, value in made.items() if value is not None}
    return {"model": model, "hook": hook, "layer": residual_layer(hook), **kept}


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
