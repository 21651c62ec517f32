"""Feature activations of one model, layer and dictionary on a token stream, sparse or dense.

The rows are the tokens kept by the special-token mask, in stream order; the content hash of the stream
travels with them, and activations of different streams are never compared (`check_same_stream`).

On disk: a folder of `part-00000.safetensors ...` (consecutive runs of tokens) and `manifest.json` with the
shape, the stream hash and the SHA-256 of every part.  The manifest is written last: a folder without one is
incomplete.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import scipy.sparse
from jaxtyping import Float, Int
from safetensors import SafetensorError
from safetensors.numpy import load_file, save_file

from homolog.errors import InputError
from homolog.storage.atomic import atomic_path, sha256_file, write_json

FORMAT = 1
TOKENS_PER_PART = 1 << 17


@dataclass(frozen=True)
class FeatureStatistics:
    """Per-feature statistics over the tokens of a stream, computed in float64.

    n_active: int64, tokens with a value other than 0.  freq: n_active / tokens.  mean, var (population), max:
    of the values, zeros included.  All (features,).
    """

    n_active: Int[np.ndarray, "features"]
    freq: Float[np.ndarray, "features"]
    mean: Float[np.ndarray, "features"]
    var: Float[np.ndarray, "features"]
    max: Float[np.ndarray, "features"]


@dataclass(frozen=True, eq=False)
class Activations:
    """What `SparseFeatures` and `DenseFeatures` share; use one of the two.

    matrix: float32 (tokens, features).  stream_hash: content hash of the token stream and its mask.
    document: int32 (tokens,), index of the document of each row.  model, layer, label: where they come from;
    label "sae" is the main dictionary of a layer, others ("seed1", "rotated", ...) show in `name`.
    """

    kind: ClassVar[str]

    matrix: Any
    stream_hash: str
    document: Int[np.ndarray, "token"]
    model: str
    layer: int
    label: str = "sae"

    def __post_init__(self) -> None:
        if self.matrix.ndim != 2 or len(self.document) != self.matrix.shape[0]:
            raise InputError(
                "document",
                self.document.shape,
                f"one document index is needed for each row of the matrix {self.matrix.shape}",
                "Apply the same special-token mask to both.",
            )

    @property
    def name(self) -> str:
        """Model, with the label of the dictionary if it is not the main one: "mamba-s0", "mamba-s0@seed1"."""
        return self.model if self.label in ("sae", "neuron") else f"{self.model}@{self.label}"

    @property
    def n_tokens(self) -> int:
        return self.matrix.shape[0]

    @property
    def n_features(self) -> int:
        return self.matrix.shape[1]

    @cached_property
    def statistics(self) -> FeatureStatistics:
        """Count, frequency, mean, variance and maximum of each feature."""
        raise NotImplementedError

    def save(self, folder: Path | str, tokens_per_part: int = TOKENS_PER_PART) -> Path:
        """Write parts and manifest into `folder`, each file atomically; returns the folder."""
        folder = Path(folder)
        parts = []
        for number, start in enumerate(range(0, max(1, self.n_tokens), tokens_per_part)):
            rows = slice(start, min(start + tokens_per_part, self.n_tokens))
            tensors = self._tensors(rows) | {"document": np.ascontiguousarray(self.document[rows], np.int32)}
            path = folder / f"part-{number:05d}.safetensors"
            with atomic_path(path) as partial:
                save_file(tensors, partial)
            parts.append({"file": path.name, "tokens": rows.stop - start, "sha256": sha256_file(path)})
        write_json(
            folder / "manifest.json",
            {
                "format": FORMAT,
                "kind": self.kind,
                "model": self.model,
                "layer": self.layer,
                "label": self.label,
                "stream_hash": self.stream_hash,
                "n_tokens": self.n_tokens,
                "n_features": self.n_features,
                "parts": parts,
            },
        )
        return folder

    def _tensors(self, rows: slice) -> dict[str, np.ndarray]:
        raise NotImplementedError


@dataclass(frozen=True, eq=False)
class SparseFeatures(Activations):
    """Encoded features of one dictionary: `matrix` is scipy.sparse CSR, float32 (tokens, d_sae)."""

    kind: ClassVar[str] = "sae"

    def __post_init__(self) -> None:
        csr = scipy.sparse.csr_array(self.matrix, dtype=np.float32)
        if not csr.has_canonical_format:
            csr = csr.copy()
            csr.sum_duplicates()
        object.__setattr__(self, "matrix", csr)
        super().__post_init__()

    @cached_property
    def statistics(self) -> FeatureStatistics:
        n, column, value = max(1, self.n_tokens), self.matrix.indices, self.matrix.data.astype(np.float64)
        stored = np.bincount(column, minlength=self.n_features)
        mean = np.bincount(column, value, minlength=self.n_features) / n
        square = np.bincount(column, (value - mean[column]) ** 2, minlength=self.n_features)
        var = (square + (self.n_tokens - stored) * mean**2) / n
        highest = np.where(stored < self.n_tokens, 0.0, -np.inf)
        np.maximum.at(highest, column, value)
        n_active = np.bincount(column[value != 0], minlength=self.n_features).astype(np.int64)
        return FeatureStatistics(n_active, n_active / n, mean, var, highest)

    def _tensors(self, rows: slice) -> dict[str, np.ndarray]:
        part = self.matrix[rows]
        return {
            "indptr": part.indptr.astype(np.int64),
            "indices": part.indices.astype(np.int32),
            "data": part.data,
        }


@dataclass(frozen=True, eq=False)
class DenseFeatures(Activations):
    """Neurons of one layer: `matrix` is a dense float32 array (tokens, neurons)."""

    kind: ClassVar[str] = "neuron"

    label: str = "neuron"

    def __post_init__(self) -> None:
        object.__setattr__(self, "matrix", np.ascontiguousarray(self.matrix, dtype=np.float32))
        super().__post_init__()

    @cached_property
    def statistics(self) -> FeatureStatistics:
        n_active = np.count_nonzero(self.matrix, axis=0).astype(np.int64)
        mean, var = np.zeros(self.n_features), np.zeros(self.n_features)
        for start in range(0, self.n_features, 64):
            part = self.matrix[:, start : start + 64].astype(np.float64)
            mean[start : start + 64], var[start : start + 64] = part.mean(axis=0), part.var(axis=0)
        highest = self.matrix.max(axis=0).astype(np.float64)
        return FeatureStatistics(n_active, n_active / self.n_tokens, mean, var, highest)

    def _tensors(self, rows: slice) -> dict[str, np.ndarray]:
        return {"dense": self.matrix[rows]}


def load_features(folder: Path | str) -> SparseFeatures | DenseFeatures:
    """Read what `save` wrote; InputError names a file that is missing, damaged or of another format."""
    folder = Path(folder)
    remedy = "Remove the folder and encode the features again."
    try:
        manifest = json.loads((folder / "manifest.json").read_text(encoding="utf-8"))
        kind, parts = manifest["kind"], manifest["parts"]
        shape = (int(manifest["n_tokens"]), int(manifest["n_features"]))
        origin = (str(manifest["model"]), int(manifest["layer"]), str(manifest["label"]))
        stream_hash, version = str(manifest["stream_hash"]), manifest["format"]
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise InputError(
            "features manifest", str(folder / "manifest.json"), f"it must be readable ({error!r})", remedy
        ) from error
    if version != FORMAT or kind not in ("sae", "neuron"):
        raise InputError("features format", (version, kind), f"format {FORMAT} is read here", remedy)
    loaded = [_load_part(folder / part["file"], part["sha256"], remedy) for part in parts]
    document = np.concatenate([part["document"] for part in loaded])
    if kind == "neuron":
        return DenseFeatures(np.concatenate([part["dense"] for part in loaded]), stream_hash, document, *origin)
    blocks = [
        scipy.sparse.csr_array((part["data"], part["indices"], part["indptr"]), shape=(len(part["document"]), shape[1]))
        for part in loaded
    ]
    matrix = blocks[0] if len(blocks) == 1 else scipy.sparse.vstack(blocks, format="csr")
    if matrix.shape != shape:
        raise InputError("features parts", matrix.shape, f"the manifest says {shape}", remedy)
    return SparseFeatures(matrix, stream_hash, document, *origin)


def _load_part(path: Path, checksum: str, remedy: str) -> dict[str, np.ndarray]:
    try:
        found = sha256_file(path)
        if found == checksum:
            return load_file(path)
    except (OSError, SafetensorError) as error:
        raise InputError("features part", str(path), f"it must be readable ({error!r})", remedy) from error
    raise InputError(
        "features part",
        str(path),
        f"its SHA-256 must be {checksum}, but it is {found}: it is damaged",
        remedy,
    )


def check_same_stream(features: Sequence[Activations]) -> None:
    """Raise InputError unless all activations come from one token stream, in one order."""
    first = features[0]
    for other in features[1:]:
        if (other.stream_hash, other.n_tokens) != (first.stream_hash, first.n_tokens):
            raise InputError(
                "stream hash",
                (first.stream_hash, other.stream_hash),
                f"{first.name} layer {first.layer} ({first.n_tokens} tokens) and "
                f"{other.name} layer {other.layer} ({other.n_tokens} tokens) "
                "must have seen the same tokens in the same order",
                "Encode both on the same token windows.",
            )
