"""A study's calibrated table of matches for any two feature matrices."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import polars as pl

from homolog.errors import InputError
from homolog.matching.columns import ArrayLike, as_matrix, prepare
from homolog.matching.layers import CANDIDATES, LayerFacts, tables_of
from homolog.matching.null import document_exchanges
from homolog.matching.pairs import match_pair
from homolog.record.comparisons import MAIN, MAIN_LABEL


def match(
    a: ArrayLike,
    b: ArrayLike,
    *,
    documents: np.ndarray | Sequence[int],
    n_exchanges: int = 2,
    fdr: float = 0.01,
    seed: int = 0,
    threads: int | None = None,
    device: str = "cpu",
) -> pl.DataFrame:
    """The best partner of every feature of `a` in `b` and the reverse, and what chance would find.

    a, b: (tokens, features_a), (tokens, features_b); scipy.sparse matrices, dense numpy or torch
    arrays of any real dtype, in any mix.  Row t of both must be the same token.  documents:
    (tokens,), the document of each row.  n_exchanges: exchanges of whole documents that the null of
    the maximum is drawn from, fewer than there are documents.  fdr: false discovery rate of
    `threshold`.  seed: of the exchanges.  threads, device: as in `max_pearson`.

    Returns the columns of a study's matches.parquet (`tables.MATCHES`), a row per feature and
    direction: model "a" or "b", r with the best partner and the runner-up, null_r, p, q, excess,
    threshold, mutual, and the one-to-one partner among the best few of each feature.  Features that
    are constant have r NaN and best_feature -1.

    Raises InputError when the numbers of rows differ, for too few documents, for NaN and infinity.
    """
    matrices = {"a": as_matrix(a, "a"), "b": as_matrix(b, "b")}
    document = np.asarray(documents)
    for name, matrix in matrices.items():
        if document.shape != matrix.shape[:1]:
            requirement = f"each of the {matrix.shape[0]} rows of {name} needs its document"
            remedy = "Encode both on the same tokens, and give the document of each."
            raise InputError("shape of documents", document.shape, requirement, remedy)
    left, right = (prepare(matrix, name) for name, matrix in matrices.items())
    exchanges = document_exchanges(document, n_exchanges, seed)
    pair = match_pair(left, right, CANDIDATES, exchanges=exchanges, threads=threads, device=device)
    layer_a, layer_b = (
        LayerFacts("matrix", name, MAIN_LABEL, 0, len(document), _n_active(matrix))
        for name, matrix in matrices.items()
    )
    return tables_of([layer_a], [layer_b], [[pair]], comparison=MAIN.name, fdr=fdr).matches


def _n_active(matrix: Any) -> np.ndarray:
    """Tokens on which each column is not 0, int64 (features,)."""
    return np.asarray((matrix != 0).sum(axis=0), dtype=np.int64).reshape(-1)
