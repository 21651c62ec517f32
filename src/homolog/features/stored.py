"""Features on disk: statistics and documents at once, the matrix when it is asked for."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import scipy.sparse
from jaxtyping import Int

from homolog.errors import InputError
from homolog.features.activations import (
    Activations,
    DenseFeatures,
    FeatureStatistics,
    SparseFeatures,
)
from homolog.features.files import ORIGIN, REMEDY, read_file, read_manifest
from homolog.record.sides import side_words


@dataclass(frozen=True, eq=False)
class StoredFeatures:
    """What the manifest of a folder says of its features; attributes are those of the features.

    A few hundred bytes until `statistics` (40 bytes per feature) or `document` (4 per token) are
    asked for, which stay.
    """

    folder: Path
    kind: str
    model: str
    layer: int
    label: str
    stream_hash: str
    n_tokens: int
    n_features: int
    manifest: dict[str, Any]

    @property
    def name(self) -> str:
        """Model, with the label of the dictionary if it is not the main one."""
        return side_words(self.model, self.label)

    @cached_property
    def statistics(self) -> FeatureStatistics:
        """Count, frequency, mean, variance and maximum of each feature, as they were written."""
        return FeatureStatistics(**read_file(self.folder, self.manifest["statistics"]))

    @cached_property
    def document(self) -> Int[np.ndarray, " token"]:
        """int32, index of the document of each token."""
        return read_file(self.folder, self.manifest["document"])["document"]

    def load(self) -> SparseFeatures | DenseFeatures:
        """The features in memory: 8 bytes per stored value, and one part more while reading.

        InputError names a file that is missing or damaged.
        """
        origin = (self.stream_hash, self.document, self.model, self.layer, self.label)
        if self.kind == "neuron":
            parts = [read_file(self.folder, entry)["dense"] for entry in self.manifest["parts"]]
            return DenseFeatures(np.concatenate(parts), *origin)
        return SparseFeatures(self._matrix(), *origin)

    def _matrix(self) -> scipy.sparse.csr_array:
        entries = self.manifest["parts"]
        stored = sum(entry["stored"] for entry in entries)
        # scipy makes the two index arrays as wide as the wider one
        few = stored <= np.iinfo(np.int32).max
        indptr = np.zeros(self.n_tokens + 1, np.int32 if few else np.int64)
        indices, data = np.empty(stored, np.int32), np.empty(stored, np.float32)
        token = at = 0
        for entry in entries:
            part = read_file(self.folder, entry)
            n = len(part["data"])
            indptr[token + 1 : token + len(part["indptr"])] = at + part["indptr"][1:]
            indices[at : at + n], data[at : at + n] = part["indices"], part["data"]
            token, at = token + entry["tokens"], at + n
        return scipy.sparse.csr_array(
            (data, indices, indptr), shape=(self.n_tokens, self.n_features)
        )


def open_features(folder: Path | str) -> StoredFeatures:
    """The features of a folder, without reading them.  InputError without a readable manifest."""
    folder = Path(folder)
    manifest = read_manifest(folder)
    tokens = sum(part["tokens"] for part in manifest["parts"])
    if tokens != manifest["n_tokens"]:
        requirement = f"the manifest says {manifest['n_tokens']} tokens"
        raise InputError("features parts", tokens, requirement, REMEDY)
    return StoredFeatures(folder, *(manifest[name] for name in ORIGIN), manifest=manifest)


def load_features(folder: Path | str) -> SparseFeatures | DenseFeatures:
    """What `save` or `write_features` wrote; InputError names what is missing or damaged."""
    return open_features(folder).load()


def check_same_stream(features: Sequence[Activations | StoredFeatures]) -> None:
    """Raise InputError unless all activations come from one token stream, in one order."""
    first = features[0]
    for other in features[1:]:
        if (other.stream_hash, other.n_tokens) != (first.stream_hash, first.n_tokens):
            one, two = (f"{f.name} layer {f.layer} ({f.n_tokens} tokens)" for f in (first, other))
            requirement = f"{one} and {two} must have seen the same tokens in the same order"
            hashes = first.stream_hash, other.stream_hash
            remedy = "Encode both on the same token windows."
            raise InputError("stream hash", hashes, requirement, remedy)
