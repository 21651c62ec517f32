"""The folder of one dictionary's features on a token stream; what is read of it is checked.

    part-00000.safetensors ...   consecutive runs of tokens, sparse (indptr, indices, data) or dense
    document.safetensors         int32, the document of every token
    statistics.safetensors       per feature: n_active, freq, mean, var, max, in float64
    manifest.json                origin, shape, stream hash, SHA-256 of every file; written last

Whoever writes goes on by the parts' keys (`record.parts`); the manifest is for those who read and
know no keys.  A folder without one is incomplete.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import safetensors.numpy
from safetensors import SafetensorError

from homolog.errors import InputError
from homolog.record.atomic import read_json, sha256_file, write_json
from homolog.record.parts import write_part

FORMAT = 2
ORIGIN = ("kind", "model", "layer", "label", "stream_hash", "n_tokens", "n_features")
"""What every manifest says that features are; `activations.Activations` describes them."""
REMEDY = "Remove the folder and encode the features again."


def part_path(folder: Path, number: int) -> Path:
    """File of the part of that number."""
    return folder / f"part-{number:05d}.safetensors"


def begin_folder(folder: Path) -> None:
    """Remove the manifest: from now on the folder is incomplete."""
    (folder / "manifest.json").unlink(missing_ok=True)


def end_folder(
    folder: Path,
    origin: Mapping[str, Any],
    parts: Sequence[Mapping[str, Any]],
    document: np.ndarray,
    statistics: Mapping[str, np.ndarray],
) -> None:
    """Complete a folder whose parts are written: document, statistics, and last the manifest.

    origin: JSON values that say what the features are; n_tokens and n_features among them.  parts:
    for each, in order, "tokens" and for sparse ones "stored", the number of stored values.  Other
    parts are removed.
    """
    files = [part_path(folder, number) for number in range(len(parts))]
    for other in set(folder.glob("part-*.safetensors")) - set(files):
        other.unlink()
    document_file = write_part(
        folder / "document.safetensors", {"document": document.astype(np.int32)}, "document"
    )
    statistics_file = write_part(folder / "statistics.safetensors", statistics, "statistics")
    write_json(
        folder / "manifest.json",
        {
            "format": FORMAT,
            **origin,
            "document": _entry(document_file),
            "statistics": _entry(statistics_file),
            "parts": [_entry(path) | dict(part) for path, part in zip(files, parts, strict=True)],
        },
    )


def read_manifest(folder: Path) -> dict[str, Any]:
    """The manifest; InputError when it is missing, unreadable or of another format."""
    path = folder / "manifest.json"
    try:
        manifest = read_json(path)
        version, kind = manifest["format"], manifest["kind"]
        if version == FORMAT:
            entries = (manifest["document"], manifest["statistics"], *manifest["parts"])
            missing = [name for name in ORIGIN if name not in manifest]
            missing += ["sha256" for entry in entries if "sha256" not in dict(entry)]
            if missing:
                raise KeyError(*missing)
    except (OSError, ValueError, KeyError, TypeError) as error:
        requirement = f"it must be readable ({error!r})"
        raise InputError("features manifest", str(path), requirement, REMEDY) from error
    if version != FORMAT or kind not in ("sae", "neuron"):
        requirement = f"format {FORMAT} is read here"
        raise InputError("features format", (version, kind), requirement, REMEDY)
    return manifest


def read_file(folder: Path, entry: Mapping[str, Any]) -> dict[str, np.ndarray]:
    """The arrays of a file of the manifest; InputError names it when it is missing or damaged."""
    path = folder / entry["file"]
    try:
        data = path.read_bytes()
        digest = hashlib.sha256(data).hexdigest()
        if digest == entry["sha256"]:
            return safetensors.numpy.load(data)
    except (OSError, SafetensorError) as error:
        requirement = f"it must be readable ({error!r})"
        raise InputError("features part", str(path), requirement, REMEDY) from error
    requirement = f"its SHA-256 must be {entry['sha256']}, but it is {digest}: it is damaged"
    raise InputError("features part", str(path), requirement, REMEDY)


def _entry(path: Path) -> dict[str, Any]:
    return {"file": path.name, "sha256": sha256_file(path)}
