"""`homolog.match` against what a study does with the same features, and the example of the docs."""

from __future__ import annotations

import re
from pathlib import Path

import numpy as np
import polars as pl
import pytest
import scipy.sparse
import torch
from tests.matching.all_layers import match_models

import homolog
from homolog.errors import InputError
from homolog.features import SparseFeatures
from homolog.matching import document_exchanges
from homolog.matching.tables import MATCHES

DOCUMENTS = np.repeat(np.arange(30), 40)
DOCS = Path(__file__).parents[2] / "docs" / "methods-matching.md"


def features(seed: int, n_features: int) -> np.ndarray:
    generator = np.random.default_rng(seed)
    density = np.resize([0.02, 0.05, 0.4, 0.0], n_features)
    active = generator.random((len(DOCUMENTS), n_features)) < density
    return (active * generator.exponential(size=active.shape)).astype(np.float32)


def test_the_table_is_that_of_a_study():
    x, y = features(0, 40), features(1, 60)
    y[:, :20] += x[:, :20]
    found = homolog.match(scipy.sparse.coo_array(x), y, documents=DOCUMENTS, seed=3)
    assert dict(found.schema) == MATCHES
    a, b = (
        [SparseFeatures(matrix, "s", DOCUMENTS.astype(np.int32), name, 0)]
        for matrix, name in ((x, "a"), (y, "b"))
    )
    expected = match_models(a, b, exchanges=document_exchanges(DOCUMENTS, 2, 3)).matches
    by_partner = ["kind", "partner_r", "partner_layer", "partner_feature"]
    assert found.drop(by_partner).equals(expected.drop(by_partner))
    partners = found.filter(pl.col("partner_feature") >= 0)
    forward, back = (
        partners.filter(pl.col("model") == name).select("feature", "partner_feature").rows()
        for name in "ab"
    )
    assert sorted(forward) == sorted((j, i) for i, j in back)
    assert len(forward) >= 30  # of 30 and 45 that are not constant


def test_the_kind_of_matrix_changes_nothing():
    x, y = features(2, 12), features(3, 16)
    expected = homolog.match(x, y, documents=DOCUMENTS)
    for other in (torch.from_numpy(x), x.astype(np.float64), scipy.sparse.csc_matrix(x)):
        found = homolog.match(other, y, documents=DOCUMENTS.tolist())
        assert found.equals(expected)


def test_what_cannot_be_matched_is_refused():
    x = features(4, 6)
    with pytest.raises(InputError, match=r"shape of documents is \(10,\).*1200 rows of a"):
        homolog.match(x, x, documents=DOCUMENTS[:10])
    with pytest.raises(InputError, match="1199 rows of b needs its document"):
        homolog.match(x, x[1:], documents=DOCUMENTS)
    with pytest.raises(InputError, match="more documents than exchanges"):
        homolog.match(x, x, documents=np.zeros(len(x), dtype=int))


def test_the_example_of_the_docs(capsys):
    (example,) = re.findall(r"```python\n(.*?)```", DOCS.read_text(), re.DOTALL)
    names: dict = {}
    exec(example, names)
    called = names["called"]
    right = called.filter(pl.col("best_feature") == 299 - pl.col("feature"))
    assert right.group_by("model").len().sort("model").rows() == [("a", 200), ("b", 200)]
    assert right["mutual"].all() and len(called) <= 1.02 * len(right)
    assert "best_feature" in capsys.readouterr().out
