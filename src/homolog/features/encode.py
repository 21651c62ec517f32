"""From residuals in memory to sparse features, with any dictionary: only one batch of dense
features is ever held.

Sparse autoencoders have a faster way (`dictionaries.encoder`), and streams longer than memory
another (`store`).
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Protocol, runtime_checkable

import numpy as np
import scipy.sparse
import torch

from homolog.errors import InputError
from homolog.features.activations import SparseFeatures

ENCODE_BATCH = 4096  # tokens


@runtime_checkable
class Encoder(Protocol):
    """What `encode` needs of a dictionary."""

    def encode(self, x: torch.Tensor, /) -> torch.Tensor:
        """Float32 (tokens, d_model) to (tokens, d_sae)."""
        ...


def to_sparse(dense: torch.Tensor) -> scipy.sparse.csr_array:
    """Float32 CSR of a dense (tokens, features) tensor on any device."""
    rows, columns = torch.nonzero(dense, as_tuple=True)
    values = dense[rows, columns].float().cpu().numpy()
    indptr = np.zeros(dense.shape[0] + 1, dtype=np.int64)
    np.cumsum(np.bincount(rows.cpu().numpy(), minlength=dense.shape[0]), out=indptr[1:])
    return scipy.sparse.csr_array(
        (values, columns.cpu().numpy().astype(np.int32), indptr), shape=dense.shape
    )


@torch.no_grad()
def encode(
    dictionary: Encoder,
    activations: Iterable[torch.Tensor],
    *,
    stream_hash: str,
    document: np.ndarray,
    model: str,
    layer: int,
    label: str = "sae",
    batch: int = ENCODE_BATCH,
) -> SparseFeatures:
    """Sparse features of `dictionary` on a stream of activations.

    activations: float tensors (tokens, d_model), special tokens already dropped, in stream order.
    document: (all tokens,) document of each kept token.  batch: tokens encoded at once. Raises
    InputError when an activation or a feature is not finite, or the numbers of tokens differ.
    """
    parts = []
    seen = 0
    for piece in activations:
        for x in piece.split(batch):
            features = dictionary.encode(x)
            if not bool(torch.isfinite(features).all()):
                token = seen + int(torch.nonzero(~torch.isfinite(features))[0, 0])
                raise InputError(
                    f"features of {model} layer {layer}",
                    "not finite",
                    f"they must be finite numbers, and are not at token {token}",
                    "Check the weights of the model and of the dictionary.",
                )
            parts.append(to_sparse(features))
            seen += len(x)
    if not parts or seen != len(document):
        raise InputError(
            f"activations of {model} layer {layer}",
            seen,
            f"one row is needed for each of the {len(document)} kept tokens",
            "Apply the same special-token mask to activations and documents.",
        )
    matrix = scipy.sparse.vstack(parts, format="csr")
    return SparseFeatures(matrix, stream_hash, np.asarray(document, np.int32), model, layer, label)
