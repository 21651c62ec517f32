"""Features by units of two tokenisations instead of by tokens.

A unit u is a run of tokens of this model at whose end the other has read the same text
(`corpus.units`).  Of a feature with activations x(t), the value in a unit is one of

    last   x_u = x(last token of u)              what the model has at the end of the text of u
    max    x_u = max over the tokens t of u      whether it was there anywhere within u

so that row u of both models is about the same text.  Rows of the tokens that are in no unit are
left out.  A value that is not stored is 0, also for the maximum.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any, Literal

import numpy as np
import scipy.sparse
from jaxtyping import Int

from homolog.features.activations import DenseFeatures, sparse_arrays, sparse_statistics
from homolog.features.files import begin_folder, end_folder, part_path, read_file
from homolog.features.stored import StoredFeatures, open_features
from homolog.record.parts import read_part, write_part

Align = Literal["last", "max"]
Rows = Int[np.ndarray, " units"]


def pool(
    matrix: scipy.sparse.csr_array, first: Rows, last: Rows, align: Align
) -> scipy.sparse.csr_array:
    """Sparse (tokens, features) to (units, features); unit u is the rows first[u] to last[u]."""
    if align == "last":
        return matrix[last]
    size = last - first + 1
    row = np.repeat(first - np.append(0, np.cumsum(size)[:-1]), size) + np.arange(size.sum())
    tokens = matrix[row].tocoo()
    unit = np.repeat(np.arange(len(size)), size)[tokens.row]
    order = np.lexsort((tokens.col, unit))
    unit, feature, value = unit[order], tokens.col[order], tokens.data[order]
    shape = (len(size), int(matrix.shape[1]))  # type: ignore[index]
    if not len(value):
        return scipy.sparse.csr_array(shape, dtype=matrix.dtype)
    is_new = np.append(True, (np.diff(unit) != 0) | (np.diff(feature) != 0))
    start = np.flatnonzero(is_new)
    highest = np.maximum.reduceat(value, start)
    stored = np.diff(np.append(start, len(value)))
    highest = np.where(stored < size[unit[start]], np.maximum(highest, 0), highest)
    pooled = scipy.sparse.csr_array((highest, (unit[start], feature[start])), shape=shape)
    pooled.sort_indices()
    return pooled


def pool_dense(matrix: np.ndarray, first: Rows, last: Rows, align: Align) -> np.ndarray:
    """`pool` of a dense matrix."""
    if align == "last" or not len(first):
        return matrix[last]
    out = matrix[first]
    for step in range(1, int((last - first).max()) + 1):
        longer = np.flatnonzero(last - first >= step)
        out[longer] = np.maximum(out[longer], matrix[first[longer] + step])
    return out


def store_pooled(
    source: Path, out: Path, units: tuple[Rows, Rows], document: np.ndarray, align: Align, key: str
) -> StoredFeatures:
    """The features of a folder, by units, in the folder `out`, part by part.

    units: the first and the last row of each, ascending.  document: of each unit.  key: identifies
    the units (with the text that they are of) and how they are pooled; it becomes the hash of the
    stream, so that only features on the same units are compared.  A part holds the units that end
    in a part of the source; memory: two parts.
    """
    features = open_features(source)
    begin_folder(out)
    entries: list[dict[str, int]] = []
    for number, (matrix, first, last) in enumerate(_parts(features, *units)):
        if features.kind == "neuron":
            tensors, stored = {"dense": pool_dense(matrix, first, last, align)}, {}
        else:
            tensors = sparse_arrays(pool(matrix, first, last, align))
            stored = {"stored": len(tensors["data"])}
        write_part(part_path(out, number), tensors, key)
        entries.append({"tokens": len(last), **stored})
    origin = {"kind": features.kind, "model": features.model, "layer": features.layer}
    origin |= {"label": features.label, "stream_hash": key, "n_tokens": len(document)}
    origin |= {"n_features": features.n_features}
    statistics = _statistics(out, origin, len(entries), key)
    end_folder(out, origin, entries, document, statistics)
    return open_features(out)


def _parts(features: StoredFeatures, first: Rows, last: Rows) -> Iterator[tuple]:
    """(rows, first, last) of the units that end in each part, with rows of the part before."""
    assert (np.diff(first) > 0).all() and (np.diff(last) > 0).all()
    held: list = []
    begin = end = done = 0  # rows at hand are begin to end
    for entry in features.manifest["parts"]:
        part = read_file(features.folder, entry)
        end += entry["tokens"]
        held.append(
            part["dense"]
            if "dense" in part
            else scipy.sparse.csr_array(
                (part["data"], part["indices"], part["indptr"]),
                shape=(entry["tokens"], features.n_features),
            )
        )
        rows: Any = np.concatenate(held) if "dense" in part else scipy.sparse.vstack(held, "csr")
        upto = int(np.searchsorted(last, end))
        yield rows, first[done:upto] - begin, last[done:upto] - begin
        keep = int(first[upto]) if upto < len(first) else end
        keep = min(max(keep, begin), end)
        held, begin, done = [rows[keep - begin :]], keep, upto


def _statistics(out: Path, origin: dict, n_parts: int, key: str) -> dict[str, np.ndarray]:
    def parts() -> Iterator[dict[str, np.ndarray]]:
        for number in range(n_parts):
            part = read_part(part_path(out, number), key)
            assert part is not None
            yield part

    if origin["kind"] == "sae":
        n_tokens, n_features = origin["n_tokens"], origin["n_features"]
        values = sparse_statistics(
            lambda: ((part["indices"], part["data"]) for part in parts()), n_tokens, n_features
        )
        return vars(values)
    matrix = np.concatenate([part["dense"] for part in parts()])
    document = np.zeros(len(matrix), np.int32)
    return vars(DenseFeatures(matrix, key, document, origin["model"], 0).statistics)
