"""The layout of SAELens (`SAE.load_from_disk`), which is also our own.

    cfg.json                  architecture, widths, how to apply it; `metadata` on the model, and ours under
                              metadata.homolog, the true kind among it
    sae_weights.safetensors   W_enc (d_model, d_sae), b_enc (d_sae), W_dec (d_sae, d_model), b_dec (d_model); for
                              jumprelu `threshold` (d_sae); for gated b_gate, r_mag, b_mag instead
                              of b_enc

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
from pathlib import Path
from typing import Any, get_args

from safetensors.torch import save_file

from homolog.dictionaries.base import WITH_THRESHOLD, Kind, SparseAutoencoder
from homolog.dictionaries.formats.facts import own_facts
from homolog.dictionaries.formats.folding import folded
from homolog.dictionaries.formats.hooks import residual_layer
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
from homolog.dictionaries.losses import fold_gated
from homolog.dictionaries.quality import Quality
from homolog.record.atomic import atomic_path, sha256_file, write_json

CONFIG_FILE = "cfg.json"
WEIGHTS_FILE = "sae_weights.safetensors"
SCALER_FILE = "activation_scaler.json"
_LAYOUT = "6.0.0"  # of SAELens, since when the model's facts stand under `metadata`
_KINDS: dict[str, Kind] = {
    "standard": "relu",
    "topk": "topk",
    "jumprelu": "jumprelu",
    "gated": "gated",
    "batchtopk": "batchtopk",
    "matryoshka_batchtopk": "batchtopk",
}
_BY_NORM = ("topk", "batchtopk", "matryoshka_batchtopk")
_WEIGHTS = ("W_enc", "b_enc", "W_dec", "b_dec")
_GATED = ("W_enc", "b_gate", "r_mag", "b_mag", "W_dec", "b_dec")
_ONE_NORM = (
    "it divides every token by a norm of its own, which no fixed weights can do: train without it"
)


def architecture(kind: str) -> str:
    """What SAELens calls a dictionary of ours."""
    return "jumprelu" if kind in WITH_THRESHOLD else "standard" if kind == "relu" else kind


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
            "architecture": architecture(sae.kind),
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
    kind, scale = _kind(path, name, facts), _scale(folder, path, config)
    shape = positive(path, config, "d_in"), positive(path, config, "d_sae")
    tensors = folder.tensors(WEIGHTS_FILE, checksum=facts.get("weights_sha256"))
    weights, threshold = _weights(tensors, name, *shape)
    b_dec = weights[3]
    by_norm = name in _BY_NORM and flag(path, config, "rescale_acts_by_decoder_norm")
    if by_norm and threshold is not None:  # theirs bounds p times the norm, `folded` takes one of p
        norms = weights[2].double().norm(dim=1)
        if not bool((norms > 0).all()):
            refuse(
                tensors.path,
                "W_dec",
                "with a row of norm 0",
                "without, where activations are scaled by its norms",
            )
        threshold = threshold.double() / norms
    return folded(
        *weights,
        kind=kind,
        k=k,
        threshold=threshold,
        centre=b_dec if flag(path, config, "apply_b_dec_to_input", True) else None,
        input_scale=scale,
        output_scale=scale,
        unit_decoder=by_norm,
        metadata=_metadata(path, config, facts),
    )


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
    if name == "standard" and activation == "topk":
        name = "topk"
    if name not in tuple(_KINDS):
        refuse(
            path,
            "architecture",
            name,
            f"one of {', '.join(_KINDS)}",
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
    if name != "topk":
        return name, None
    return name, positive(path, {"k": config.get("k", arguments.get("k"))}, "k")


def _scale(folder: Folder, path: Path, config: Config) -> float:
    """The s that inputs are multiplied by."""
    found = config.get("normalize_activations") or "none"
    if found is True:  # as it was before version 4
        found = "expected_average_only_in"
    if found == "none":
        return 1.0
    if found in ("layer_norm", "constant_norm_rescale"):
        refuse(
            path,
            "normalize_activations",
            found,
            "none or expected_average_only_in",
            f"Not this one: {_ONE_NORM}.",
        )
    if found != "expected_average_only_in":
        refuse(
            path,
            "normalize_activations",
            found,
            "none",
            "Fold it into the weights with SAELens and save again.",
        )
    scale = number(path, folder.beside(SCALER_FILE), "scaling_factor")
    if not scale > 0:
        refuse(
            path,
            "normalize_activations",
            found,
            f"none, or {SCALER_FILE} with the scaling_factor must lie beside",
            'Where the factor is folded in already, write "none"; else '
            "sae.fold_activation_norm_scaling_factor(FACTOR) "
            "and sae.save_model(FOLDER) in SAELens.",
        )
    return scale


def _weights(tensors: Tensors, name: str, d_model: int, d_sae: int):
    """The four weights and the threshold, gates folded."""
    shapes = {
        "W_enc": (d_model, d_sae),
        "W_dec": (d_sae, d_model),
        "b_dec": (d_model,),
        "topk_threshold": (),
    }
    extra = {"jumprelu": ("threshold",), "batchtopk": ("topk_threshold",)}.get(
        name.removeprefix("matryoshka_"), ()
    )
    names = _GATED if name == "gated" else (*_WEIGHTS, *extra)
    tensors.only(*names)
    found = {name: tensors.take(name, shapes.get(name, (d_sae,))) for name in names}
    if name == "gated":
        gates = (found[name].double() for name in ("W_enc", "b_gate", "r_mag", "b_mag"))
        W_enc, b_enc, threshold = fold_gated(*gates)
        return (W_enc, b_enc, found["W_dec"], found["b_dec"]), threshold
    threshold = found[extra[0]].expand(d_sae) if extra else None
    return tuple(found[name] for name in _WEIGHTS), threshold


def _kind(path: Path, name: str, facts: Config) -> Kind:
    """Ours says its kind, and the architecture must be the one written for it; of SAELens, what it
    was trained as.
    """
    if facts.get("homolog") is None:
        trained = str(facts.get("training_architecture") or "")
        return "batchtopk" if name == "jumprelu" and "batchtopk" in trained else _KINDS[name]
    ours = table(path, facts, "homolog")
    kind = ours.get("kind", _KINDS[name])
    if kind not in get_args(Kind) or architecture(kind) != name:
        refuse(path, "architecture", name, f"the one of the kind under metadata.homolog, {kind!r}")
    return kind


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
