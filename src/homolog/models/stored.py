"""What a model's folder holds, read before transformers does: what is wrong names its file.

    config.json, generation_config.json   one JSON object each
    model.safetensors                     or model.safetensors.index.json, and the files it names
Of weights only the headers are read: names, shapes and dtypes of the tensors.  They are compared
with what the configuration asks for before any memory is taken for it.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from safetensors import SafetensorError, safe_open
from transformers import CONFIG_MAPPING, AutoConfig, PretrainedConfig

from homolog.errors import InputError
from homolog.models.gguf import UNREAD, as_pretrained, is_gguf
from homolog.models.gguf_header import MOST_BLOCKS
from homolog.models.guards import planned, require_decoder

SINGLE, INDEX = "model.safetensors", "model.safetensors.index.json"
AGAIN = "Fetch or save the model again."
OF_ONE = "Put the weights and the config.json of one model there."
FLOATS = ("F16", "BF16", "F32", "F64")
_LFS = b"version https://git-lfs"
_MADE_FLOATS = ("fp8", "mxfp4")
"""Kinds of quantised weights that transformers itself turns into floats."""


@dataclass(frozen=True)
class StoredTensor:
    """A tensor in a file.  dtype: as safetensors names it, "F32"."""

    file: Path
    shape: tuple[int, ...]
    dtype: str


def json_object(path: Path) -> dict[str, Any]:
    """The JSON object in a file.  InputError that names the file and says what is wrong with it."""
    try:
        content = json.loads(path.read_bytes())
    except FileNotFoundError:
        raise broken(path, "there is no such file") from None
    except IsADirectoryError:
        raise broken(path, "it is a directory, not a file") from None
    except OSError as error:
        raise broken(path, f"it cannot be read ({error.strerror})") from None
    except (ValueError, RecursionError) as error:
        raise broken(path, f"it is not valid JSON ({error})") from None
    if not isinstance(content, dict):
        raise broken(path, f"it must hold a JSON object, and holds {json.dumps(content)[:40]}")
    return content


def require_model_folder(folder: Path) -> None:
    """InputError unless it is a folder whose config.json, and other settings, are JSON objects."""
    if not folder.is_dir() or not (folder / "config.json").exists():
        requirement = "a model is a folder that holds config.json and *.safetensors, or a GGUF file"
        remedy = "Save the model there with `save_pretrained`."
        raise InputError("model", str(folder), requirement, remedy)
    json_object(folder / "config.json")
    if (folder / "generation_config.json").exists():
        json_object(folder / "generation_config.json")


def stored_weights(folder: Path) -> dict[str, StoredTensor]:
    """Every stored tensor, by name.  InputError for a missing, cut or foreign file."""
    if (folder / SINGLE).exists():
        return dict(_header(folder / SINGLE))
    if not (folder / INDEX).exists():
        others = "other kinds of files with weights, pickled ones among them, are not read"
        requirement = f"the folder holds no {SINGLE} or {INDEX}; {others}"
        remedy = "Save the model again with `save_pretrained(folder, safe_serialization=True)`."
        raise InputError("model", str(folder), requirement, remedy)
    named = json_object(folder / INDEX).get("weight_map") or {}
    files = list(named.values()) if isinstance(named, dict) else []
    if not files or not all(isinstance(file, str) for file in files):
        raise broken(folder / INDEX, "its weight_map must name the file of each tensor")
    stored = {name: one for file in sorted(set(files)) for name, one in _header(folder / file)}
    for name, file in named.items():
        if name not in stored or stored[name].file.name != file:
            raise broken(folder / file, f"{INDEX} says that it holds {name}, and it does not")
    return stored


def _header(path: Path) -> Iterator[tuple[str, StoredTensor]]:
    if not path.exists():
        raise broken(path, f"there is no such file, and {INDEX} names it")
    if not path.is_file():
        raise broken(path, "it is a directory, not a file")
    try:
        with safe_open(path, framework="pt") as file:
            for name in file.keys():  # noqa: SIM118 (it is no mapping)
                part = file.get_slice(name)
                yield name, StoredTensor(path, tuple(part.get_shape()), str(part.get_dtype()))
    except (SafetensorError, OSError, ValueError) as error:
        if not isinstance(error, OSError) and _begins_with(path, _LFS):
            requirement = "it is a pointer of Git LFS, which stands for the weights"
            raise InputError("model", str(path), requirement, "Fetch them: git lfs pull.") from None
        raise broken(path, f"it is not a whole safetensors file ({error})") from None


def _begins_with(path: Path, start: bytes) -> bool:
    with path.open("rb") as file:
        return file.read(len(start)) == start


def broken(path: Path, why: str) -> InputError:
    """The error for a file of a model."""
    return InputError("model", str(path), why, AGAIN)


def configuration(ref: str, **options: Any) -> Any:
    """The configuration of a folder or Hub id.  OSError where the Hub does not give it.

    InputError for an architecture that transformers does not know, or that is no decoder, and for
    values that make no configuration.
    """
    if Path(ref).is_dir():
        _require_so_many_blocks(Path(ref))
    try:
        source, named = as_pretrained(ref, options)
        config = AutoConfig.from_pretrained(source, trust_remote_code=False, **named)
    except Exception as error:
        # its values may be anything, and so may be what transformers then raises
        if isinstance(error, OSError) and not Path(ref).exists():
            raise
        if is_gguf(ref):
            raise _no_model(ref, error) from error
        kind = _kind(ref, options)
        if kind not in CONFIG_MAPPING:
            requirement = f"this version of transformers does not know its architecture ({kind})"
            remedy = "Upgrade transformers; code that comes with a model is not run."
            raise InputError("model", ref, requirement, remedy) from error
        raise _no_model(ref, error) from error
    require_decoder(config, ref)
    return config


def _require_so_many_blocks(folder: Path) -> None:
    """InputError for a count of blocks that no model has: transformers makes lists so long."""
    raw = json_object(folder / "config.json")
    for name in ("num_hidden_layers", "n_layer", "n_layers", "num_layers"):
        if isinstance(raw.get(name), int | float) and raw[name] > MOST_BLOCKS:
            raise broken(
                folder / "config.json",
                f"its {name} is {raw[name]}; models have up to {MOST_BLOCKS} blocks",
            )


def _kind(ref: str, options: Mapping[str, Any]) -> Any:
    if Path(ref).is_dir():
        raw = json_object(Path(ref) / "config.json")
    else:
        raw = PretrainedConfig.get_config_dict(ref, **options)[0]
    return raw.get("model_type", "config.json has no model_type")


@contextmanager
def made_by_transformers(ref: str) -> Iterator[None]:
    """What transformers raises over a configuration's values or over files becomes an InputError.

    What the Hub does not give stays an OSError.
    """
    try:
        yield
    except (InputError, MemoryError):
        raise
    except Exception as error:
        if isinstance(error, OSError) and not Path(ref).exists():
            raise
        raise _no_model(ref, error) from error


def _no_model(ref: str, error: Exception) -> InputError:
    said = f"{type(error).__name__}: {' '.join(str(error).split())[:300]}"
    if is_gguf(ref):
        return InputError("model", ref, f"transformers makes no model of it ({said})", UNREAD)
    return InputError("model", ref, f"its configuration and files make no model ({said})", AGAIN)


def require_floats(ref: str, config: Any) -> None:
    """InputError for a model whose weights were quantised by a method that keeps them so."""
    settings = getattr(config, "quantization_config", None) or {}
    method = settings.get("quant_method") if isinstance(settings, dict) else type(settings).__name__
    if settings and method not in _MADE_FLOATS:
        requirement = f"its weights are quantised ({method}), and those that are read are floats"
        remedy = "Take the model as it was before that, or a GGUF file of it."
        raise InputError("model", ref, requirement, remedy)


def require_agreement(ref: str, config: Any, stored: Mapping[str, StoredTensor]) -> None:
    """InputError where a stored tensor is no float, or not of the shape of its weight.

    Weights that transformers renames or joins as it reads them are compared there.
    """
    n_layers = getattr(config.get_text_config(decoder=True), "num_hidden_layers", 0)
    if isinstance(n_layers, int) and n_layers > len(stored):
        counted = f"its configuration counts {n_layers} blocks"
        requirement = f"{counted}, and its files hold {len(stored)} tensors"
        raise InputError("model", ref, requirement, AGAIN)
    weights = dict(planned(config).named_parameters())
    for name, tensor in stored.items():
        if name not in weights:
            continue
        if tensor.shape != (shape := tuple(weights[name].shape)):
            raise disagreement(ref, name, tensor.shape, shape)
        if tensor.dtype not in FLOATS:
            floats = f"weights are floats ({', '.join(FLOATS)})"
            raise broken(tensor.file, f"{name} is stored as {tensor.dtype}, and {floats}")


def disagreement(
    ref: str, name: str, stored: tuple[int, ...], expected: tuple[int, ...]
) -> InputError:
    """The error for a weight whose stored shape is not that of the configuration."""
    requirement = f"its weight {name} is stored with the shape {stored}"
    by_it = f"and has {expected} by its configuration"
    return InputError("model", ref, f"{requirement}, {by_it}", OF_ONE)
