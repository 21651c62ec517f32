"""The layout of llamascopium (OpenMOSS; before, lm-saes and Language-Model-SAEs), new and old.

    config.json (old: hyperparams.json)
        sae_type, d_model, expansion_factor, act_fn, top_k, norm_activation,
        sparsity_include_decoder_norm, use_decoder_bias, hook_point_in and _out
    lm_config.json
        model_name
    sae_weights.safetensors (old: checkpoints/final.safetensors)
        W_E (d_model, d_sae), b_E, W_D (d_sae, d_model), b_D;
        activation_function.log_jumprelu_threshold (d_sae)
        old: encoder.weight (d_sae, d_model), encoder.bias, decoder.weight (d_model, d_sae),
        decoder.bias, log_jumprelu_threshold
        dataset_average_activation_norm.HOOK (old: in hyperparams.json, "in" and "out")

    p = s x W_E + b_E,   x' = (f W_D + b_D) / t
    s = sqrt(d_model) / norm_in,   t = sqrt(d_model) / norm_out

with norm_activation "dataset-wise"; "inference" has s = t = 1.  The choice of features looks at g =
p n, n the norms of W_D, with sparsity_include_decoder_norm, else at g = p:

    relu        f = p where g > 0
    jumprelu    f = p where g > exp(log_jumprelu_threshold)
    topk        f = p at the k largest g > 0

For topk with norms we take f n / t and W_D / n, because a dictionary here chooses by its own
values.

Three details.  The scalar jump_relu_threshold of old files (Llama Scope) was applied after s, t and
n had been folded in, so it bounds g / t with norms and p / s without.  Their
`fold_activation_scale` leaves log_jumprelu_threshold as it was and so changes what fires; read here
is what was trained.  An act_fn of topk is read as such, with or without a scalar threshold beside
it, as their `from_pretrained` does.  Source: llamascopium 2.0.0b34, models/sae.py and
models/sparse_dictionary.py; for old files lm_saes/sae.py and initializer.py.
"""

from __future__ import annotations

import math
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch

from homolog.dictionaries.base import SparseAutoencoder
from homolog.dictionaries.formats.folding import Convention, ForeignWeights, folded, uncentred
from homolog.dictionaries.formats.hooks import residual_layer
from homolog.dictionaries.formats.ours import kind_said, names_in, own_facts, written_name
from homolog.dictionaries.formats.reading import Config, Folder, Format, Tensors, write_tensors
from homolog.dictionaries.kinds import Stored, kind_of
from homolog.record.atomic import write_json

CONFIG_FILES = ("config.json", "hyperparams.json", "hyperparameters.json")
WEIGHTS_FILES = (
    "sae_weights.safetensors",
    "checkpoints/pruned.safetensors",
    "checkpoints/final.safetensors",
)
_MODEL_FILE = "lm_config.json"
_NORM = "dataset_average_activation_norm."
_NEW = ("W_E", "b_E", "W_D", "b_D", "activation_function.log_jumprelu_threshold")
_BIASED = ("encoder.weight", "encoder.bias", "decoder.weight", "decoder.bias")
_OLD = (*_BIASED, "log_jumprelu_threshold")
_LIBRARY = "llamascopium"
_RESIDUALS = "Take one that reconstructs what it reads, from the residual stream."
_OWN_NORM = (
    "It scales every token by a norm of its own, which no fixed weights can do: train with "
    "dataset-wise."
)


def read(folder: Folder, config: Config) -> SparseAutoencoder:
    """A dictionary of llamascopium; see the module's first lines."""
    act_fn = _checked(config)
    _, stored = names_in(_LIBRARY)[act_fn]
    tensors = folder.tensors(*WEIGHTS_FILES)
    weights = _weights(tensors, config, stored)
    s, t = _scales(tensors, config)
    by_norm = config.flag("sparsity_include_decoder_norm", True)
    threshold = None if weights.threshold is None else weights.threshold.double().exp()
    if threshold is None and stored.scalar_threshold is not None:
        scalar = config.number(stored.scalar_threshold)
        if not scalar > 0:
            words, remedy = f"above 0 for {act_fn}", _no_threshold(stored)
            config.refuse(stored.scalar_threshold, scalar or None, words, remedy)
        bound = scalar * (t if by_norm else s)
        threshold = torch.full(weights.b_enc.shape, bound, dtype=torch.float64)
    if threshold is not None and by_norm:
        expected = "without: thresholds are in units of these norms"
        threshold = threshold / tensors.norms("W_D", weights.W_dec, expected)
    convention = Convention(
        config.flag("apply_decoder_bias_to_pre_encoder", config.path.name != CONFIG_FILES[0]),
        input_scale=s,
        output_scale=t,
        unit_decoder=stored.chooses and by_norm,
    )
    kind = kind_said(config, "act_fn", act_fn, _LIBRARY)
    k = config.positive("top_k") if stored.chooses else None
    facts = _metadata(folder, config)
    return folded(replace(weights, threshold=threshold), convention, kind.name, k, facts)


def write(sae: SparseAutoencoder, folder: Path) -> list[Path]:
    """Write the new layout with nothing left to normalise; our facts go into config.json.

    Thresholds are stored as logarithms, which rounds them to about 1e-7 of their size; 0 becomes
    the least positive number.
    """
    weights, config = folder / WEIGHTS_FILES[0], folder / CONFIG_FILES[0]
    tensors = {"W_E": sae.W_enc, "b_E": uncentred(sae), "W_D": sae.W_dec, "b_D": sae.b_dec}
    if sae.threshold is not None:
        least = torch.finfo(torch.float32).tiny
        tensors[_NEW[4]] = sae.threshold.double().clamp(min=least).log().float()
    hook = sae.metadata.get("hook") or f"blocks.{sae.metadata.get('layer', 0)}.hook_resid_post"
    write_tensors(weights, config, tensors)
    settings = {
        "sae_type": "sae",
        "d_model": sae.d_model,
        "expansion_factor": _expansion(sae.d_model, sae.d_sae),
        "use_decoder_bias": True,
        "use_glu_encoder": False,
        "act_fn": written_name(kind_of(sae.kind), _LIBRARY),
        "norm_activation": "inference",
        "sparsity_include_decoder_norm": False,
        "top_k": min(sae.k or 50, sae.d_sae),
        "hook_point_in": hook,
        "hook_point_out": hook,
        "homolog": {**sae.metadata, "kind": sae.kind},
    }
    return [weights, write_json(config, settings)]


def _checked(config: Config) -> str:
    """The name of the activation, where the dictionary is one that has our form."""
    if (sae_type := config.get("sae_type", "sae")) != "sae":
        why = "Others read or write several places at once."
        config.refuse("sae_type", sae_type, "sae", why)
    if config.flag("use_glu_encoder"):
        why = "Its encoder multiplies two products, which has no such form."
        config.refuse("use_glu_encoder", True, "false", why)
    hooks = config.get("hook_point_in"), config.get("hook_point_out")
    if hooks[1] is not None and hooks[0] != hooks[1]:
        config.refuse("hook_point_out", hooks[1], f"hook_point_in, {hooks[0]}", _RESIDUALS)
    if (norm := config.get("norm_activation")) not in ("dataset-wise", "inference"):
        config.refuse("norm_activation", norm, "dataset-wise or inference", _OWN_NORM)
    act_fn, known = str(config.get("act_fn")).lower(), tuple(names_in(_LIBRARY))
    if act_fn not in known:
        words = f"{', '.join(known[:-1])} or {known[-1]}"
        config.refuse("act_fn", act_fn, words, "Others are no such autoencoders.")
    return act_fn


def _no_threshold(stored: Stored) -> str:
    if "threshold" in stored.vectors:
        return "Take a checkpoint that has its threshold."
    return (
        "Without a threshold its features depend on what else is in the batch: convert it with "
        "llamascopium's topk_to_jumprelu_conversion first."
    )


def _weights(tensors: Tensors, config: Config, stored: Stored) -> ForeignWeights:
    """The weights, whatever their names; the thresholds are logarithms."""
    first, size = tensors.matrix(_NEW[0], _OLD[0])
    names = _NEW if first == _NEW[0] else _OLD
    shape = size if names is _NEW else size[::-1]
    d_model = config.positive("d_model")
    d_sae = config.positive("d_sae", lambda: int(d_model * config.number("expansion_factor")))
    if shape != (d_model, d_sae):
        expected = f"{d_sae} of d_model {d_model}, as {config.path.name} says"
        tensors.refuse(first, f"{shape[1]} features of d_model {shape[0]}", expected)
    with_bias = config.flag("use_decoder_bias", True)
    has_threshold = "threshold" in stored.vectors and names[4] in tensors.values
    norms = [name for name in tensors.values if name.startswith(_NORM)]
    own = [*names[:3], *names[3:4] * with_bias, *names[4:] * has_threshold]
    tensors.only(*own, *norms)
    W_E, W_D = tensors.take(names[0], size), tensors.take(names[2], size[::-1])
    if names is _OLD:
        W_E, W_D = W_E.T, W_D.T
    b_D = tensors.take(names[3], (d_model,)) if with_bias else torch.zeros(d_model)
    threshold = tensors.take(names[4], (d_sae,)) if has_threshold else None
    return ForeignWeights(W_E, tensors.take(names[1], (d_sae,)), W_D, b_D, threshold)


def _scales(tensors: Tensors, config: Config) -> tuple[float, float]:
    """s and t, which are 1 where they are folded in already."""
    if config["norm_activation"] == "inference":
        return 1.0, 1.0
    stored, scales = config.get(_NORM.rstrip(".")), []
    for end in ("in", "out"):
        hook = config.get(f"hook_point_{end}") or config.get("hook_point_in")
        if isinstance(stored, dict) and end in stored:
            norm = Config(config.path, stored).number(end)
        else:
            norm = float(tensors.take(f"{_NORM}{hook}", ()))
        if not norm > 0:
            config.refuse(f"{_NORM}{end}", norm, "above 0")
        scales.append(math.sqrt(config["d_model"]) / norm)
    return scales[0], scales[1]


def _expansion(d_model: int, d_sae: int) -> float:
    """A factor from which int(d_model * factor) is d_sae."""
    factor = d_sae / d_model
    return factor if int(d_model * factor) == d_sae else math.nextafter(factor, math.inf)


def _metadata(folder: Folder, config: Config) -> dict[str, Any]:
    if (ours := config.get("homolog")) is not None:
        return own_facts(config, ours)
    model, hook = folder.beside(_MODEL_FILE).name("model_name"), config.name("hook_point_in")
    return {"model": model, "hook": hook, "layer": residual_layer(hook)}


def _recognises(config: Config) -> bool:
    return "act_fn" in config and "d_model" in config


FORMAT = Format(
    "llamascopium",
    "llamascopium",
    CONFIG_FILES,
    _recognises,
    lambda _: WEIGHTS_FILES,
    read,
    write,
    beside=(_MODEL_FILE,),
)
