"""One pair of layers: the best partners both ways, and what chance finds.

A pair needs nothing but its two layers, and the maximum over layers is taken from the finished
pairs: pairs may be worked on in any order, anywhere, and kept on disk one by one
(`PairMatch.arrays`).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from jaxtyping import Float32

from homolog.matching.columns import Columns
from homolog.matching.pearson import Partners, max_pearson


@dataclass(frozen=True, eq=False)
class PairMatch:
    """The best of both sides, and the null of the maximum.

    a_to_b, b_to_a: k best partners.  null_a, null_b: the highest r of each feature under each
    exchange of B's documents, NaN where undefined.
    """

    a_to_b: Partners
    b_to_a: Partners
    null_a: Float32[np.ndarray, "features_a exchanges"]
    null_b: Float32[np.ndarray, "features_b exchanges"]

    @property
    def reversed(self) -> PairMatch:
        """The same pair with the sides exchanged."""
        return PairMatch(self.b_to_a, self.a_to_b, self.null_b, self.null_a)

    def arrays(self) -> dict[str, np.ndarray]:
        """All of it, for a file; indices as int32."""
        sides = {"a_to_b": self.a_to_b, "b_to_a": self.b_to_a}
        arrays = {f"{name}.r": side.r for name, side in sides.items()}
        arrays |= {f"{name}.index": side.index.astype(np.int32) for name, side in sides.items()}
        return arrays | {"null_a": self.null_a, "null_b": self.null_b}

    @classmethod
    def from_arrays(cls, arrays: Mapping[str, np.ndarray]) -> PairMatch:
        """What `arrays` gave."""
        a_to_b, b_to_a = (
            Partners(arrays[f"{name}.r"], arrays[f"{name}.index"].astype(np.int64))
            for name in ("a_to_b", "b_to_a")
        )
        return cls(a_to_b, b_to_a, arrays["null_a"], arrays["null_b"])


def match_pair(
    a: Columns,
    b: Columns,
    k: int = 2,
    *,
    exchanges: Sequence[np.ndarray] | np.ndarray = (),
    threads: int | None = None,
    device: str = "cpu",
) -> PairMatch:
    """Best partners of every feature both ways, and the highest r under each exchange.

    exchanges: orders of the tokens of B, (tokens,) each (`null.document_exchanges`); each costs
    another pass.
    threads, device: as in `max_pearson`.
    """
    best = max_pearson(a, b, k, threads=threads, device=device)
    nulls = [
        max_pearson(a, b.reordered(rows), 1, threads=threads, device=device) for rows in exchanges
    ]
    null_a = [null.a_to_b.r[:, 0] for null in nulls]
    null_b = [null.b_to_a.r[:, 0] for null in nulls]
    return PairMatch(
        best.a_to_b, best.b_to_a, _columns(null_a, a.n_features), _columns(null_b, b.n_features)
    )


def _columns(parts: list[np.ndarray], n_features: int) -> np.ndarray:
    return np.stack(parts, axis=1) if parts else np.empty((n_features, 0), dtype=np.float32)
