"""Features by units, against an enumeration of units on a dense matrix."""

from pathlib import Path

import numpy as np
import pytest
import scipy.sparse
from hypothesis import given, settings
from hypothesis import strategies as st

from homolog.features import DenseFeatures, SparseFeatures, load_features
from homolog.features.pooled import Align, pool, store_pooled


def drawn(seed: int, n_tokens: int = 60) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """(values, first, last): units of 1 to 5 tokens with gaps between."""
    rng = np.random.default_rng(seed)
    values = rng.normal(size=(n_tokens, 7)) * (rng.random((n_tokens, 7)) < 0.3)
    cuts = np.append(0, np.cumsum(rng.integers(1, 6, n_tokens)))
    cuts = cuts[cuts <= n_tokens]
    kept = rng.random(len(cuts) - 1) < 0.8
    return values.astype(np.float32), cuts[:-1][kept], cuts[1:][kept] - 1


def one_by_one(values: np.ndarray, first: np.ndarray, last: np.ndarray, align: Align) -> np.ndarray:
    rows = [
        values[j] if align == "last" else values[i : j + 1].max(axis=0)
        for i, j in zip(first, last, strict=True)
    ]
    return np.array(rows).reshape(-1, values.shape[1])


@pytest.mark.parametrize("align", ["last", "max"])
@given(st.integers(0, 10_000), st.integers(1, 60))
@settings(max_examples=60, deadline=None)
def test_pooled_is_what_each_unit_says(align: Align, seed: int, n_tokens: int) -> None:
    values, first, last = drawn(seed, n_tokens)
    pooled = pool(scipy.sparse.csr_array(values), first, last, align)
    assert np.array_equal(pooled.toarray(), one_by_one(values, first, last, align))
    assert pooled.has_canonical_format


@pytest.mark.parametrize("align", ["last", "max"])
@pytest.mark.parametrize("kind", [SparseFeatures, DenseFeatures])
@pytest.mark.parametrize("tokens_per_part", [3, 17, 1000])
def test_stored_by_units(kind: type, align: Align, tokens_per_part: int, tmp_path: Path) -> None:
    values, first, last = drawn(3)
    matrix = scipy.sparse.csr_array(values) if kind is SparseFeatures else values
    document = np.arange(60, dtype=np.int32) // 9
    source = kind(matrix, "stream", document, "m", 2, label="seed1")
    folder = source.save(tmp_path / "tokens", tokens_per_part=tokens_per_part)
    stored = store_pooled(folder, tmp_path / "units", (first, last), document[last], align, "units")
    loaded = load_features(tmp_path / "units")
    own = loaded.matrix if kind is DenseFeatures else loaded.matrix.toarray()
    expected = one_by_one(values, first, last, align)
    assert np.array_equal(own, expected) and stored.document.tolist() == document[last].tolist()
    assert (loaded.stream_hash, loaded.layer, loaded.name) == ("units", 2, "m@seed1")
    assert stored.statistics.n_active.tolist() == np.count_nonzero(expected, axis=0).tolist()
    assert stored.statistics.mean == pytest.approx(expected.mean(axis=0, dtype=np.float64))
