"""A dictionary on disk: one folder, in the layout that SAELens loads (`SAE.load_from_disk`).

    cfg.json                  architecture ("standard" is ReLU, or "topk"), widths, how to apply it; our own
                              facts (model, layer, config, quality) under metadata.homolog
    sae_weights.safetensors   W_enc (d_model, d_sae), b_enc (d_sae), W_dec (d_sae, d_model), b_dec (d_model);
                              float32

No input normalisation is left to the reader; b_dec is subtracted before encoding (apply_b_dec_to_input).
cfg.json is written last and holds the checksum of the weights, so a folder cut off half-way, or mixed from
two, is refused.
"""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file

from homolog.dictionaries.base import SparseAutoencoder
from homolog.dictionaries.quality import Quality
from homolog.errors import InputError
from homolog.storage.atomic import atomic_path, sha256_file, write_json

CONFIG_FILE = "cfg.json"
WEIGHTS_FILE = "sae_weights.safetensors"
_ARCHITECTURES = {"relu": "standard", "topk": "topk"}
_REMEDY = "Remove the folder and train or fetch the dictionary again."


def save(sae: SparseAutoencoder, folder: Path | str, quality: Quality | None = None) -> list[Path]:
    """Write the dictionary to `folder` (made if missing); returns the files written."""
    folder = Path(folder)
    weights, config = folder / WEIGHTS_FILE, folder / CONFIG_FILE
    config.unlink(missing_ok=True)
    with atomic_path(weights) as partial:
        tensors = {name: getattr(sae, name).contiguous() for name in _shapes(sae.d_model, sae.d_sae)}
        save_file(tensors, partial, metadata={"format": "pt"})
    made = dict(sae.metadata)
    if quality is not None:
        made["quality"] = {k: _no_nan(v) for k, v in quality.as_row().items()}
    write_json(
        config,
        {
            "architecture": _ARCHITECTURES[sae.kind],
            "d_in": sae.d_model,
            "d_sae": sae.d_sae,
            "dtype": "float32",
            "device": "cpu",
            "apply_b_dec_to_input": True,
            "normalize_activations": "none",
            "reshape_activations": "none",
            **({"k": sae.k, "rescale_acts_by_decoder_norm": False} if sae.k is not None else {}),
            "metadata": {
                "model_name": made.get("model"),
                "hook_name": f"resid.{made['layer']}" if "layer" in made else None,
                "weights_sha256": sha256_file(weights),
                "homolog": made,
            },
        },
    )
    return [weights, config]


def load(folder: Path | str) -> SparseAutoencoder:
    """Read a dictionary written by `save`, or one of SAELens of the same two architectures without
    normalisation.

    Raises InputError naming the file and, for weights, the leaf with its expected and found shape.
    """
    folder = Path(folder)
    config = _read_config(folder / CONFIG_FILE)
    kind = next((k for k, name in _ARCHITECTURES.items() if name == config.get("architecture")), None)
    path = folder / CONFIG_FILE
    if kind is None:
        _refuse(path, "architecture", config.get("architecture"), f"one of {', '.join(_ARCHITECTURES.values())}")
    if config.get("normalize_activations", "none") != "none":
        _refuse(path, "normalize_activations", config["normalize_activations"], "none (fold it into the weights)")
    if config.get("rescale_acts_by_decoder_norm"):
        _refuse(path, "rescale_acts_by_decoder_norm", True, "false (fold the norms into the weights)")
    for key in ("d_in", "d_sae", *(("k",) if kind == "topk" else ())):
        if not isinstance(config.get(key), int) or config[key] < 1:
            _refuse(path, key, config.get(key), "a positive integer")
    metadata = config.get("metadata") or {}
    tensors = _read_weights(folder / WEIGHTS_FILE, config["d_in"], config["d_sae"], metadata.get("weights_sha256"))
    if not config.get("apply_b_dec_to_input", True):  # relu(x W + b) = relu((x - c) W + (b + c W))
        tensors["b_enc"] = tensors["b_enc"] + tensors["b_dec"] @ tensors["W_enc"]
    return SparseAutoencoder(
        **tensors,
        kind=kind,  # type: ignore[arg-type]
        k=config["k"] if kind == "topk" else None,
        metadata=metadata.get("homolog", metadata),
    )


def saved_quality(sae: SparseAutoencoder) -> Quality | None:
    """The quality that the dictionary's file carries, None if it has none."""
    row = sae.metadata.get("quality")
    if row is None:
        return None
    values: dict[str, Any] = {k: math.nan if v is None else v for k, v in row.items()}
    return Quality(**{**values, "density_quantiles": tuple(values["density_quantiles"])})


def _shapes(d_model: int, d_sae: int) -> dict[str, tuple[int, ...]]:
    return {"W_enc": (d_model, d_sae), "b_enc": (d_sae,), "W_dec": (d_sae, d_model), "b_dec": (d_model,)}


def _no_nan(value: Any) -> Any:
    """JSON has no NaN: null stands for it."""
    return None if isinstance(value, float) and math.isnan(value) else value


def _refuse(path: Path, field: str, found: object, expected: str) -> None:
    raise InputError(f"{field} in {path}", found, f"it must be {expected}", _REMEDY)


def _read_config(path: Path) -> dict[str, Any]:
    try:
        config = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise InputError("dictionary folder", str(path.parent), f"{path.name} is missing", _REMEDY) from None
    except (OSError, ValueError) as error:
        raise InputError("dictionary file", str(path), f"it must be readable JSON ({error})", _REMEDY) from error
    if not isinstance(config, dict):
        raise InputError("dictionary file", str(path), "it must hold a JSON object", _REMEDY)
    return config


def _read_weights(path: Path, d_model: int, d_sae: int, checksum: str | None) -> dict[str, torch.Tensor]:
    """The four tensors as float32, checked."""
    if not path.exists():
        raise InputError("dictionary folder", str(path.parent), f"{path.name} is missing", _REMEDY)
    if checksum is not None and sha256_file(path) != checksum:
        raise InputError("dictionary file", str(path), "its SHA-256 must be the one in cfg.json", _REMEDY)
    tensors: dict[str, torch.Tensor] = {}
    try:
        with safe_open(path, framework="pt") as file:
            names = set(file.keys())
            for name, shape in _shapes(d_model, d_sae).items():
                if name not in names:
                    _refuse(path, name, "missing", f"there with shape {shape}")
                tensor = file.get_tensor(name)
                if tuple(tensor.shape) != shape:
                    _refuse(path, name, f"of shape {tuple(tensor.shape)}", f"of shape {shape}")
                if not bool(torch.isfinite(tensor).all()):
                    _refuse(path, name, "NaN or infinite", "finite everywhere")
                tensors[name] = tensor.float()
    except SafetensorError as error:
        raise InputError("dictionary file", str(path), f"it must be safetensors ({error})", _REMEDY) from error
    return tensors
