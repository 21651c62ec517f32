"""Documents in which features fire together, counted; and what follows of few."""

from __future__ import annotations

import numpy as np
import polars as pl
import scipy.sparse
from hypothesis import given, settings
from hypothesis import strategies as st

import homolog
from homolog.matching import prepare
from homolog.matching.layers import LayerFacts
from homolog.matching.together import documents_together

N_TOKENS = 240


def counted(x: np.ndarray, y: np.ndarray, document: np.ndarray) -> list[int]:
    """Of feature k of A with feature k of B, of matrices (tokens, features)."""
    n = x.shape[1]
    columns = {"A": prepare(x), "B": prepare(scipy.sparse.csc_array(y))}
    facts = {
        name: LayerFacts("sae", name, "sae", 5, len(x), (matrix != 0).sum(axis=0))
        for name, matrix in (("A", x), ("B", y))
    }
    numbers = np.arange(n, dtype=np.int32)
    rows = pl.DataFrame({"model": ["A"] * n, "label": "sae", "layer": 5, "feature": numbers})
    rows = rows.with_columns(
        best_model=pl.lit("B"), best_label=pl.lit("sae"), best_layer=pl.lit(5), best_feature=numbers
    )
    rows = rows.with_columns(r=pl.lit(0.5))
    made = documents_together(
        rows, document, lambda name, label: [facts[name]], lambda layer: columns[layer.model]
    )
    return made.to_list()


@settings(deadline=None)
@given(seed=st.integers(0, 2**32 - 1), often=st.sampled_from([0.01, 0.1, 0.5]))
def test_documents_are_those_with_a_token_on_which_both_fire(seed: int, often: float) -> None:
    """Sparse and dense columns, documents in pieces as windows leave them."""
    rng = np.random.default_rng(seed)
    x, y = (
        rng.random((N_TOKENS, 6), np.float32) * (rng.random((N_TOKENS, 6)) < often)
        for _ in range(2)
    )
    x[0], y[0] = 0, 0
    document = rng.integers(0, 9, N_TOKENS)
    naive = [
        len({document[t] for t in range(N_TOKENS) if x[t, k] != 0 and y[t, k] != 0})
        for k in range(6)
    ]
    assert counted(x, y, document) == naive


def test_one_event_makes_no_homolog() -> None:
    """Sixty planted partners that fire throughout, and twelve pairs on one token of one document,
    two of one, or one of each of two and of three documents.
    """
    rng = np.random.default_rng(3)
    document = np.repeat(np.arange(60), 40)
    n = len(document)
    latents = rng.random((n, 60), np.float32) * (rng.random((n, 60)) < 0.03)
    events = [[100], [100, 101], [100, 900], [100, 900, 2000]]
    rare = np.zeros((n, 12), np.float32)
    for k in range(12):
        rare[events[k % 4], k] = 1 + 0.1 * k
    a = np.hstack([latents, rare])
    b = np.hstack([latents + 0.01 * (latents > 0), rare])
    found = homolog.match(a, b, documents=document)
    own = found.table.filter(model="a")
    assert own["documents"].to_list()[60:] == [1, 1, 2, 3] * 3
    assert own["homolog"].to_list() == [True] * 60 + [False, False, False, True] * 3
    assert set(own["fails"][60:].to_list()) == {"rare", ""}
    assert found.share["a"].value == 63 / 72
    # the rule is a setting, and of it alone the twelve depend
    assert homolog.match(a, b, documents=document, least_documents=0).share["a"].value == 1
    assert found.under(least_documents=2).filter(model="a")["homolog"].sum() == 66
