"""Feature activations of one model, layer and dictionary on a token stream, sparse or dense.

The rows are the tokens kept by the special-token mask, in stream order; the content hash of the
stream travels with them, and activations of different streams are never compared
(`stored.check_same_stream`).

On disk they are a folder (`files`), read by `stored`.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import scipy.sparse
from jaxtyping import Float, Int

from homolog.errors import InputError
from homolog.features.files import ORIGIN, begin_folder, end_folder, part_path
from homolog.record.parts import write_part
from homolog.record.sides import side_words

TOKENS_PER_PART = 1 << 17


@dataclass(frozen=True)
class FeatureStatistics:
    """Per-feature statistics over the tokens of a stream, computed in float64.

    n_active: int64, tokens with a value other than 0.  freq: n_active / tokens.  mean, var
    (population), max: of the values, zeros included.  All (features,).
    """

    n_active: Int[np.ndarray, "features"]
    freq: Float[np.ndarray, "features"]
    mean: Float[np.ndarray, "features"]
    var: Float[np.ndarray, "features"]
    max: Float[np.ndarray, "features"]


def sparse_statistics(
    parts: Callable[[], Iterable[tuple[np.ndarray, np.ndarray]]], n_tokens: int, n_features: int
) -> FeatureStatistics:
    """Statistics of sparse features from their stored values, which are read twice.

    parts: called twice, gives (features int32, values float32) of consecutive runs of tokens.  Sums
    are taken in float64 in the order of the tokens, so the cut into parts leaves no trace in them.
    """
    n = max(1, n_tokens)
    stored, n_active = np.zeros(n_features, np.int64), np.zeros(n_features, np.int64)
    total, square = np.zeros(n_features), np.zeros(n_features)
    highest = np.full(n_features, -np.inf)
    for feature, values in parts():
        value = values.astype(np.float64)
        stored += np.bincount(feature, minlength=n_features)
        n_active += np.bincount(feature[value != 0], minlength=n_features)
        np.add.at(total, feature, value)
        np.maximum.at(highest, feature, value)
    mean = total / n
    for feature, values in parts():
        np.add.at(square, feature, (values.astype(np.float64) - mean[feature]) ** 2)
    var = (square + (n_tokens - stored) * mean**2) / n
    highest = np.where(stored < n_tokens, np.maximum(highest, 0), highest)
    return FeatureStatistics(n_active, n_active / n, mean, var, highest)


@dataclass(frozen=True, eq=False)
class Activations:
    """What `SparseFeatures` and `DenseFeatures` share; use one of the two.

    matrix: float32 (tokens, features).  stream_hash: content hash of the token stream and its mask.
    document: int32 (tokens,), index of the document of each row.  model, layer, label: where they
    come from; label "sae" is the main dictionary of a layer, others ("seed1", "rotated", ...) show
    in `name`.
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
            rows = f"each row of the matrix {self.matrix.shape}"
            requirement = f"one document index is needed for {rows}"
            remedy = "Apply the same special-token mask to both."
            raise InputError("document", self.document.shape, requirement, remedy)

    @property
    def name(self) -> str:
        """Model, with the label of a dictionary that is not the main one: "mamba-s0@seed1"."""
        return side_words(self.model, self.label)

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
        folder, parts = Path(folder), []
        begin_folder(folder)
        for number, start in enumerate(range(0, max(1, self.n_tokens), tokens_per_part)):
            rows = slice(start, min(start + tokens_per_part, self.n_tokens))
            tensors = self._tensors(rows)
            write_part(part_path(folder, number), tensors, self.stream_hash)
            stored = {"stored": len(tensors["data"])} if "data" in tensors else {}
            parts.append({"tokens": rows.stop - start, **stored})
        origin = {name: getattr(self, name) for name in ORIGIN}
        end_folder(folder, origin, parts, self.document, vars(self.statistics))
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
        return sparse_statistics(
            lambda: [(self.matrix.indices, self.matrix.data)], self.n_tokens, self.n_features
        )

    def _tensors(self, rows: slice) -> dict[str, np.ndarray]:
        return sparse_arrays(self.matrix[rows])


def sparse_arrays(rows: scipy.sparse.csr_array) -> dict[str, np.ndarray]:
    """The arrays of a part of sparse features: int64 indptr, int32 indices, float32 data."""
    return {
        "indptr": rows.indptr.astype(np.int64),
        "indices": rows.indices.astype(np.int32),
        "data": rows.data,
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
