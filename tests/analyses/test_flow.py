"""A planted flow: features copied to the next layer, born, dying and changed are told as such."""

from __future__ import annotations

import numpy as np
import polars as pl
import pytest
import scipy.sparse
from scipy.sparse import csr_array

from homolog.analyses.flow.links import Links, lines, links_of, needed, states
from homolog.analyses.flow.rows import Beside, flow_of
from homolog.analyses.flow.weights import pair_correlations
from homolog.analyses.flow.words import COMES, GOES
from homolog.errors import InputError

N_DOCUMENTS, PER_DOCUMENT, D_SAE = 60, 50, 40
N = N_DOCUMENTS * PER_DOCUMENT
DOCUMENT = np.repeat(np.arange(N_DOCUMENTS, dtype=np.int32), PER_DOCUMENT)
LAYERS = (1, 4, 5)
"""From layer 1 to 4 features 0 to 9 are copied, 10 to 19 mixed, 20 to 38 die; 20 to 38 are born in
layer 4, and all of its features are copied to layer 5 in reverse order.  39 is silent everywhere.
"""


def sparse(x: np.ndarray) -> csr_array:
    return csr_array(scipy.sparse.csr_matrix(x.astype(np.float32)))


def fresh(rng: np.random.Generator, n: int) -> np.ndarray:
    """Features that fire on a twentieth of the tokens, by the token."""
    return np.where(rng.random((N, n)) < 0.05, rng.random((N, n)) + 0.5, 0.0)


@pytest.fixture(scope="module")
def matrices() -> list[csr_array]:
    rng = np.random.default_rng(0)
    first, new = fresh(rng, D_SAE), fresh(rng, D_SAE)
    second = new.copy()
    second[:, :10] = 2 * first[:, :10]  # copied
    keeps = rng.random((N, 10)) < 0.5  # half of what it fires on, and as much of something new
    second[:, 10:20] = np.where(keeps, first[:, 10:20], 0) + np.where(keeps, 0, new[:, 10:20])
    first[:, 39] = second[:, 39] = 0
    return [sparse(first), sparse(second), sparse(second[:, ::-1])]


def of(links: list[Links], kept_r: float = 0.9) -> pl.DataFrame:
    def beside(size: int) -> Beside:
        return Beside(np.full(size, 0.25), np.zeros(size, np.int64))

    before = [None, *(beside(D_SAE) for _ in LAYERS[1:])]
    return flow_of(
        "m",
        LAYERS,
        links,
        before,
        [*before[1:], None],
        n_tokens=N,
        least_r=0.3,
        kept_r=kept_r,
        fdr=0.01,
    )


def test_a_planted_flow_is_told_right(matrices: list[csr_array]) -> None:
    table = of(links_of(matrices, DOCUMENT, seed=1))
    first, second, third = (table.filter(layer=layer).sort("feature") for layer in LAYERS)
    active = np.arange(D_SAE) != 39
    assert first["comes"].to_list() == ["first"] * 39 + [None]
    assert first["goes"].to_list() == ["kept"] * 10 + ["changes"] * 10 + ["dies"] * 19 + [None]
    assert second["comes"].to_list() == ["kept"] * 10 + ["changed"] * 10 + ["born"] * 19 + [None]
    assert second["goes"].to_list() == ["kept"] * 39 + [None]
    assert third["comes"].to_list() == [None] + ["kept"] * 39
    assert third["goes"].to_list() == [None] + ["last"] * 39
    same = np.arange(20)
    assert first["descendant_feature"].to_list()[:20] == same.tolist()
    assert second["ancestor_feature"].to_list()[:20] == same.tolist()
    assert second["descendant_feature"].to_numpy()[active].tolist() == list(range(39, 0, -1))
    np.testing.assert_allclose(second["ancestor_r"].to_numpy()[:10], 1, atol=1e-6)
    # What is mixed explains half: r^2 about 1/2 for features that fire as often as before.
    np.testing.assert_allclose(second["ancestor_r"].to_numpy()[10:20], 0.5, atol=0.12)
    assert (first["ancestor_layer"] == -1).all() and (third["descendant_layer"] == -1).all()
    assert (second["ancestor_layer"] == 1).all() and (second["descendant_layer"] == 5).all()


def test_lines_lead_to_where_features_are_born_and_end(matrices: list[csr_array]) -> None:
    table = of(links_of(matrices, DOCUMENT, seed=1))
    third = table.filter(layer=5).sort("feature")
    # Feature f of the last layer is 39 - f of layer 4; up to 19 they come from layer 1.
    born = [(5, 0)] + [(4 if 39 - f >= 20 else 1, 39 - f) for f in range(1, 40)]
    assert list(third.select("born_layer", "born_feature").iter_rows()) == born
    first = table.filter(layer=1).sort("feature")
    last = [(5, 39 - f) if f < 20 else (1, f) for f in range(40)]
    assert list(first.select("last_layer", "last_feature").iter_rows()) == last
    assert first.select("born_layer", "born_feature").rows() == [(1, f) for f in range(40)]


def test_unrelated_layers_share_nothing_beyond_chance() -> None:
    """Features that fire on few tokens: by chance alone many a best r is high."""
    rng = np.random.default_rng(2)
    layers = [
        sparse(np.where(rng.random((N, 300)) < 0.002, rng.random((N, 300)), 0)) for _ in range(2)
    ]
    links = links_of(layers, DOCUMENT, seed=3)
    before = links[1].before
    assert before is not None
    defined = np.isfinite(before.r)
    assert np.quantile(before.r[defined], 0.9) > 0.2
    loose = needed([(before, links[1].n_active)], N, least_r=0.1, fdr=0.01)[0]
    assert (before.r >= loose).sum() <= 0.02 * defined.sum()  # against 0.1 alone nearly all


def test_r_is_numpy_s_and_undefined_where_one_is_constant(matrices: list[csr_array]) -> None:
    partner = np.random.default_rng(4).integers(0, D_SAE - 1, D_SAE)
    partner[3] = -1
    found = pair_correlations(matrices[0], matrices[1], partner)
    x, y = (m.toarray().astype(np.float64) for m in matrices[:2])
    for feature, other in enumerate(partner):
        if feature in (3, 39):
            assert np.isnan(found[feature])
        else:
            wanted = np.corrcoef(x[:, feature], y[:, other])[0, 1]
            assert found[feature] == pytest.approx(wanted, abs=1e-9)
    assert np.isnan(pair_correlations(matrices[0], matrices[1], np.full(D_SAE, 39))).all()


def test_links_are_the_best_of_numpy_s_correlations(matrices: list[csr_array]) -> None:
    links = links_of(matrices, DOCUMENT)
    x, y = (m.toarray()[:, :39] for m in matrices[:2])
    r = np.corrcoef(x.T, y.T)[:39, 39:]
    after, before = links[0].after, links[1].before
    assert after is not None and before is not None
    assert np.array_equal(after.feature[:39], r.argmax(1)) and after.feature[39] == -1
    assert np.array_equal(before.feature[:39], r.argmax(0)) and np.isnan(before.r[39])
    np.testing.assert_allclose(after.r[:39], r.max(1), atol=1e-6)
    assert np.array_equal(links[0].n_active[:39], (x != 0).sum(0))
    assert links[0].before is None and links[-1].after is None


def test_states_and_lines_by_hand() -> None:
    r = np.array([0.95, 0.6, 0.4, np.nan], np.float32)
    least = np.full(4, 0.5, np.float32)
    assert states(r, least, 0.9, COMES) == ["kept", "changed", "born", None]
    assert states(r, least, 0.5, GOES) == ["kept", "kept", "dies", None]
    ends = lines([2, 3, 1], [None, np.array([1, -1, 0]), np.array([0])])
    assert [list(zip(*end, strict=True)) for end in ends] == [
        [(0, 0), (0, 1)],
        [(0, 1), (1, 1), (0, 0)],
        [(0, 1)],
    ]
    assert lines([1, 1], [None, np.array([-1])])[1][0].tolist() == [1]


def test_one_layer_one_document_and_other_tokens(matrices: list[csr_array]) -> None:
    alone = links_of(matrices[:1], DOCUMENT)
    assert alone[0].before is None and alone[0].after is None
    one = links_of(matrices[:2], np.zeros(N, np.int32))
    before = one[1].before
    assert before is not None and before.null.shape == (D_SAE, 0)
    least = needed([(before, one[1].n_active)], N, least_r=0.5, fdr=0.01)[0]
    assert (least[:39] == 0.5).all() and np.isnan(least[39])
    with pytest.raises(InputError, match=r"layer 1.*2999 rows.*documents are 3000.*same tokens"):
        links_of([matrices[0], matrices[1][1:]], DOCUMENT)
