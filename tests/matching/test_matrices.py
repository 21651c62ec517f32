"""`homolog.match` against planted truth and what a study does with the same features, and the
example of the docs.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import pytest
import scipy.sparse
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from tests.matching.all_layers import match_models

import homolog
from homolog.errors import InputError
from homolog.features import SparseFeatures
from homolog.matching import MatrixMatches, document_exchanges
from homolog.matching.given_rows import documents_of, require_names
from homolog.matching.matrices import RESERVED
from homolog.matching.planted import PlantedMatches, plant_matches
from homolog.matching.planting import Planting
from homolog.matching.tables import HOMOLOGS, MATCHES, TOGETHER
from homolog.record import tables

DOCUMENTS = np.repeat(np.arange(30), 40)
DOCS = Path(__file__).parents[2] / "docs" / "methods-matching.md"
CLEAR = Planting(frequency=(1e-2, 1e-1), noise=(0.0, 0.3), by_token=0.3, in_untrained=0.3)
"""Half of the columns have a partner, 15 % each are functions of the token or of an untrained
model; all fire often enough to be found.
"""


def features(seed: int, n_features: int) -> np.ndarray:
    generator = np.random.default_rng(seed)
    density = np.resize([0.02, 0.05, 0.4, 0.0], n_features)
    active = generator.random((len(DOCUMENTS), n_features)) < density
    return (active * generator.exponential(size=active.shape)).astype(np.float32)


@pytest.fixture(scope="module")
def planted() -> PlantedMatches:
    return plant_matches(40_000, 100, seed=1, planting=CLEAR)


def controlled(planted: PlantedMatches) -> MatrixMatches:
    untrained = {"untrained a": planted.untrained_a, "untrained b": planted.untrained_b}
    return homolog.match(
        planted.a,
        planted.b,
        documents=planted.document,
        tokens=planted.token,
        controls=untrained,
    )


# ---- What it finds


def test_planted_partners_are_found_and_nothing_else(planted):
    matches = controlled(planted)
    for name, partner in (("a", planted.partner_a), ("b", planted.partner_b)):
        rows = matches.table.filter(model=name)
        assert (partner >= 0).sum() == 50
        homologs = rows["homolog"].fill_null(False).to_numpy()
        assert (homologs & (rows["best_feature"].to_numpy() == partner)).sum() >= 49
        assert (homologs & (partner < 0)).sum() <= 1
        one_to_one = rows["partner_feature"].to_numpy()
        assert (one_to_one == partner)[partner >= 0].all()
        share = matches.share[name]
        assert abs(share.value - 0.5) <= 0.03
        assert share.lo <= share.value <= share.hi


def test_without_controls_what_they_explain_counts_and_the_words_say_so(planted):
    bare = homolog.match(planted.a, planted.b, documents=planted.document)
    assert bare.share["a"].value > controlled(planted).share["a"].value + 0.1
    assert "Nothing was given as a control" in str(bare) and "Controls: none." in str(bare)
    assert bare.table["token_r2"].is_null().all() and bare.controls.is_empty()
    homologs = bare.table.filter(model="a")["homolog"].fill_null(False).to_numpy()
    assert set(planted.kind_a[homologs]) >= {"shared", "untrained", "token set"}


def test_independent_sides_share_nothing():
    a, b = (plant_matches(30_000, 80, seed=seed, planting=CLEAR) for seed in (2, 3))
    n = min(a.a.shape[0], b.b.shape[0])
    matches = homolog.match(a.a[:n], b.b[:n], documents=a.document[:n], tokens=a.token[:n])
    assert matches.table["homolog"].sum() == 0
    assert [share.value for share in matches.share.values()] == [0.0, 0.0]
    assert "0% " in matches.words


def test_a_side_as_its_own_control_explains_everything(planted):
    matches = homolog.match(
        planted.a, planted.b, documents=planted.document, controls={"b again": planted.b}
    )
    assert matches.table.filter(model="a")["homolog"].sum() == 0
    one_sided = {"b again": homolog.StandIn(planted.b, "a")}  # met by the features of b alone
    matches = homolog.match(planted.a, planted.b, documents=planted.document, controls=one_sided)
    assert matches.table.filter(model="a")["homolog"].sum() >= 49
    assert matches.table.filter(model="b")["homolog"].sum() == 0
    assert matches.controls["model"].unique().to_list() == ["b"]
    assert "Not used as a control: b again, which takes the place of a alone." in matches.words


def test_the_current_token_is_told_by_its_number():
    token = np.resize([7, 7, 40, 900, 7], len(DOCUMENTS))
    a = np.stack([token == 900, token == 40], axis=1).astype(np.float32)
    documents = np.arange(len(token)) // 4
    matches = homolog.match(a, a[:, ::-1], documents=documents, tokens=token)
    by_token = matches.controls.filter(comparison="tokens", model="a")
    assert by_token["best_feature"].to_list() == [900, 40]
    assert by_token["r"].to_list() == pytest.approx([1, 1])
    assert matches.table["token_r2"].to_list() == pytest.approx([1] * 4)
    assert all("controls" in fails for fails in matches.table["fails"])


# ---- It is what a study says


def test_the_table_is_that_of_a_study():
    x, y = features(0, 40), features(1, 60)
    y[:, :20] += x[:, :20]
    table = homolog.match(
        scipy.sparse.coo_array(x), y, documents=DOCUMENTS, seed=3, null_exchanges=20
    ).table
    every = tables.MATCHES.only(*tables.MATCHES.columns)
    own = {name: kind for name, kind in every.items() if name in table.columns}
    assert dict(table.schema) == own | {"r_lo": pl.Float32, "r_hi": pl.Float32}
    assert own.keys() == MATCHES.keys() | TOGETHER.keys() | HOMOLOGS.keys()
    a, b = (
        [SparseFeatures(matrix, "s", DOCUMENTS.astype(np.int32), name, 0)]
        for matrix, name in ((x, "a"), (y, "b"))
    )
    expected = match_models(a, b, exchanges=document_exchanges(DOCUMENTS, 20, 3)).matches
    by_partner = {"kind", "partner_r", "partner_layer", "partner_feature"}
    same = [name for name in MATCHES if name not in by_partner]
    assert table.select(same).equals(expected.select(same))
    partners = table.filter(pl.col("partner_feature") >= 0)
    forward, back = (
        partners.filter(pl.col("model") == name).select("feature", "partner_feature").rows()
        for name in "ab"
    )
    assert sorted(forward) == sorted((j, i) for i, j in back)
    assert len(forward) >= 30  # of 30 and 45 that are not constant
    defined = table.filter(pl.col("r").is_not_nan())
    assert (defined["r_lo"] <= defined["r_hi"]).all()
    assert (defined["r_lo"] - 0.02 <= defined["r"]).all()
    assert table.filter(pl.col("r").is_nan())["r_lo"].is_nan().all()


def test_a_study_has_the_columns_that_are_saved(planted, tmp_path):
    matches = controlled(planted)
    folder = matches.save(tmp_path / "deep" / "out")
    assert sorted(path.name for path in folder.iterdir()) == [
        "match.json",
        "matches.parquet",
        "shared.parquet",
    ]
    assert pl.read_parquet(folder / "matches.parquet").equals(matches.matches)
    assert pl.read_parquet(folder / "shared.parquet").schema == tables.SHARED.schema
    again = controlled(planted).save(tmp_path / "again")
    for path in folder.iterdir():
        assert path.read_bytes() == (again / path.name).read_bytes()
    alone = matches.save(tmp_path / "table.parquet")
    assert pl.read_parquet(alone).equals(matches.table)


# ---- What changes nothing

FORMS: dict[str, Callable[[np.ndarray], Any]] = {
    "csr": scipy.sparse.csr_array,
    "csc": scipy.sparse.csc_matrix,
    "coo": scipy.sparse.coo_array,
    "float64": lambda x: x.astype(np.float64),
    "fortran": np.asfortranarray,
    "torch": torch.from_numpy,
    "torch coo": lambda x: torch.from_numpy(x).to_sparse(),
    "torch csr": lambda x: torch.from_numpy(x).to_sparse_csr(),
}


@pytest.mark.filterwarnings("ignore:Sparse CSR tensor support:UserWarning")
@pytest.mark.parametrize("form", FORMS)
def test_the_kind_of_matrix_changes_nothing(form):
    x, y, control = features(2, 12), features(3, 16), features(4, 8)
    told = {"documents": DOCUMENTS, "tokens": np.arange(len(x)) % 50}
    expected = homolog.match(x, y, controls={"c": control}, **told)
    made = FORMS[form]
    matches = homolog.match(made(x), y, controls={"c": made(control)}, **told)
    assert matches.matches.equals(expected.matches) and matches.words == expected.words


def test_entries_that_are_stored_twice_are_added():
    x, y = features(2, 12), features(3, 16)
    half = scipy.sparse.coo_array(x / 2)
    place = tuple(np.concatenate([axis, axis]) for axis in half.coords)
    twice = scipy.sparse.coo_array((np.concatenate([half.data] * 2), place), shape=x.shape)
    start = np.concatenate([[0], np.cumsum(np.bincount(place[0], minlength=len(x)))])
    order = np.argsort(place[0], kind="stable")
    csr = scipy.sparse.csr_array((twice.data[order], place[1][order], start), shape=x.shape)
    expected = homolog.match(x, y, documents=DOCUMENTS).table
    for given_twice in (twice, csr):
        assert homolog.match(given_twice, y, documents=DOCUMENTS).table.equals(expected)


def test_documents_may_be_told_by_their_first_rows_and_stand_in_any_order():
    x, y = features(2, 12), features(3, 16)
    y[:, :6] += x[:, :6]
    expected = homolog.match(x, y, documents=DOCUMENTS)
    starts = np.arange(0, len(x), 40)
    assert homolog.match(x, y, documents=starts).matches.equals(expected.matches)
    assert homolog.match(x, y, documents=DOCUMENTS.tolist()).matches.equals(expected.matches)
    order = np.random.default_rng(0).permutation(30)
    rows = (order[:, None] * 40 + np.arange(40)).ravel()
    moved = homolog.match(x[rows], y[rows], documents=DOCUMENTS[rows]).table
    same = ["best_feature", "n_active", "homolog", "fails", "mutual", "partner_feature"]
    assert moved.select(same).equals(expected.table.select(same))
    for name in ("r", "q", "beyond", "rival_r"):
        np.testing.assert_allclose(moved[name], expected.table[name], atol=1e-5)


def test_sides_exchanged_are_the_same_r(planted):
    there = homolog.match(planted.a, planted.b, documents=planted.document)
    back = homolog.match(planted.b, planted.a, documents=planted.document, names=("b", "a"))
    for name in "ab":
        own, other = (each.table.filter(model=name) for each in (there, back))
        same = ["r", "best_feature", "runner_up_r", "rival_r", "mutual", "n_active"]
        assert own.select(same).equals(other.select(same))


def test_rows_without_documents_are_cut_into_blocks_and_that_is_said(planted):
    matches = homolog.match(planted.a, planted.b, tokens=planted.token)
    assert "40,000 rows in 64 blocks of consecutive rows." in matches.words
    assert "No documents were given" in matches.words and "too narrow" in matches.words
    blocks = np.arange(40_000) * 64 // 40_000
    told = homolog.match(planted.a, planted.b, tokens=planted.token, documents=blocks)
    assert told.matches.equals(matches.matches) and told.notes == ()


def test_settings_are_those_of_a_recipe_by_name(planted):
    given = {"documents": planted.document}
    strict = homolog.match(planted.a, planted.b, margin=0.9, **given)
    assert (
        strict.table["homolog"].sum()
        < homolog.match(planted.a, planted.b, **given).table["homolog"].sum()
    )
    uncalibrated = homolog.match(planted.a, planted.b, null_exchanges=0, **given)
    assert "No verdict on a in b: the null of the maximum was not run." in uncalibrated.words
    assert uncalibrated.share["a"] == (None, None, None)
    assert uncalibrated.table["q"].is_nan().all()


def test_another_criterion_needs_no_new_match(planted):
    untrained = {"untrained b": homolog.StandIn(planted.untrained_b, "b")}
    told = {"documents": planted.document, "tokens": planted.token, "controls": untrained}
    matches = homolog.match(planted.a, planted.b, **told)
    strict = homolog.match(planted.a, planted.b, margin=0.5, rival_ratio=0.9, fdr=0.01, **told)
    intervals = pl.exclude("r_lo", "r_hi")
    again = matches.under(margin=0.5, rival_ratio=0.9).select(intervals)
    assert again.select(sorted(again.columns)).equals(strict.table.select(sorted(again.columns)))
    same = matches.under().select(matches.table.columns)
    assert same.equals(matches.table)


def test_few_features_have_more_exchanges_or_it_is_said_that_none_can_be_significant():
    x = features(2, 8)[:, :3]  # alike on both sides
    whole = homolog.match(x, x, documents=DOCUMENTS)  # 3 x 29 draws: p is at least 1/88
    assert "No verdict on a in b: the null of a has 87 draws, too few for an fdr" in whole.words
    assert whole.share["a"].value is None and whole.table["homolog"].is_null().all()
    assert whole.table["p"].to_list() == pytest.approx([1 / 88] * 6)
    many = homolog.match(x, x, documents=np.arange(len(x)) // 4)  # 300: 334 exchanges, 299 of them
    assert many.share["a"].value == 1.0
    assert "draws" not in many.words
    some = homolog.match(x, x, documents=np.arange(len(x)) // 20)  # 60: 59 exchanges, 177 draws
    assert "177 draws, so that fewer than 2 of its 3 features cannot be signi" in some.words
    assert some.share["a"].value == 1.0
    two = homolog.match(x, x, documents=DOCUMENTS, null_exchanges=2)
    assert "the null of a has 6 draws" in two.words


def test_a_side_that_never_varies_has_no_verdict():
    matches = homolog.match(X, np.ones((len(X), 2)), documents=DOCUMENTS)
    assert "No verdict on a in b: no feature of b varies." in matches.words
    assert "No verdict on b in a:" in matches.words
    assert matches.table["r"].is_nan().all() and (matches.table["best_feature"] == -1).all()


def test_few_documents_have_fewer_exchanges_and_a_warning():
    x, y = features(2, 12), features(3, 16)
    matches = homolog.match(x, y, documents=DOCUMENTS // 15)
    assert "The null has 1 of 2 exchanges" in matches.words
    assert (
        "No verdict on a in b: the null of a has 9 draws, too few for an fdr of 0.01"
        in matches.words
    )
    assert matches.table["homolog"].is_null().all()
    assert "There are 2 documents: null and intervals rest on little." in matches.words


# ---- What is refused

X = features(5, 6)
REFUSED: dict[str, tuple[dict[str, Any], str]] = {
    "documents of other rows": (
        {"documents": DOCUMENTS[:10]},
        r"shape of documents is \(10,\).*1200 rows",
    ),
    "one document": ({"documents": np.zeros(1200, int)}, "number of documents is 1,.*two are"),
    "documents that are no integers": ({"documents": np.zeros(1200)}, "dtype of documents is 'fl"),
    "documents with two axes": ({"documents": np.zeros((2, 3), int)}, r"documents is \(2, 3\)"),
    "starts beyond the rows": ({"documents": [0, 600, 1200]}, r"shape of documents is \(3,\)"),
    "starts that fall": ({"documents": [0, 600, 300]}, "ascending from 0"),
    "other rows": ({"b": X[1:]}, "rows of b is 1199, but it needs the 1200 rows of a"),
    "one axis": ({"a": X[:, 0]}, r"shape of a is \(1200,\), but two axes"),
    "words": ({"a": X.astype(str)}, "dtype of a is '<U.*real numbers"),
    "no features": ({"b": X[:, :0]}, "features of b is 0, but at least one"),
    "no rows": ({"a": X[:0], "b": X[:0], "documents": None}, "rows is 0"),
    "one row": ({"a": X[:1], "b": X[:1], "documents": None}, "rows is 1,.*two are needed"),
    "controls of other rows": ({"controls": {"c": X[2:]}}, "rows of c is 1198"),
    "a control named as a side": ({"controls": {"a": X}}, "name is 'a', but sides and controls"),
    "a control named as a comparison": ({"controls": {"main": X}}, "name is 'main'"),
    "a side of no name": ({"names": ("", "b")}, "name is ''"),
    "sides of one name": ({"names": ("b", "b")}, "name is 'b'"),
    "a stand-in of nobody": (
        {"controls": {"c": homolog.StandIn(X, "d")}},
        "side of the control c is 'd', but it takes the place of a or of b",
    ),
    "tokens of other rows": ({"tokens": [1, 2]}, r"shape of tokens is \(2,\).*1200 rows"),
    "negative tokens": ({"tokens": np.full(1200, -1)}, "tokens is -1, but ids are numbers from 0"),
    "tokens that are words": ({"tokens": np.array(["a"] * 1200)}, "dtype of tokens is '<U1'"),
    "an unknown setting": ({"fdrr": 0.1}, "fdrr.*fdr"),
    "a setting out of range": ({"fdr": 1.5}, "fdr is 1.5"),
}


@pytest.mark.parametrize("case", REFUSED)
def test_what_cannot_be_matched_is_refused(case):
    changed, message = REFUSED[case]
    sides = {"a": X, "b": X, "documents": DOCUMENTS} | changed
    with pytest.raises(InputError, match=message):
        homolog.match(sides.pop("a"), sides.pop("b"), **sides)


def test_names_that_are_missing_are_refused():
    with pytest.raises(InputError, match="controls is 'list', but each control needs a name"):
        require_names(("a", "b"), [X], RESERVED)
    with pytest.raises(InputError, match="there are two sides"):
        require_names(("a", "b", "c"), None, RESERVED)


@settings(max_examples=40, deadline=None)
@given(
    value=st.sampled_from([np.nan, np.inf, -np.inf]),
    row=st.integers(0, 1199),
    column=st.integers(0, 5),
    side=st.sampled_from(["a", "b", "c"]),
    made=st.sampled_from([np.asarray, scipy.sparse.csc_array, torch.from_numpy]),
)
def test_nan_and_infinity_are_refused_where_they_stand(value, row, column, side, made):
    given = {name: X for name in "abc"}
    given[side] = X.copy()
    given[side][row, column] = value
    given[side] = made(given[side])
    with pytest.raises(InputError, match=rf"{side}\[{row}, {column}\] is .*finite"):
        homolog.match(given["a"], given["b"], documents=DOCUMENTS, controls={"c": given["c"]})


@settings(max_examples=60, deadline=None)
@given(st.lists(st.integers(1, 9), min_size=2, max_size=12), st.randoms(use_true_random=False))
def test_first_rows_are_documents_by_another_name(sizes, random):
    numbers = random.sample(range(100), len(sizes))
    starts = np.cumsum([0, *sizes[:-1]])
    by_row = documents_of(np.repeat(sorted(numbers), sizes), sum(sizes))
    by_start = documents_of(starts, sum(sizes))
    assert np.array_equal(by_row.document, by_start.document)
    assert by_row.document.tolist() == [i for i, size in enumerate(sizes) for _ in range(size)]
    assert by_row.words == f"{len(sizes)} documents" == by_start.words


@given(st.integers(2, 5000))
def test_blocks_are_of_about_one_size(n_rows):
    blocks = documents_of(None, n_rows)
    sizes = np.bincount(blocks.document)
    assert 2 <= len(sizes) == blocks.n_documents <= 64 and sizes.max() - sizes.min() <= 1
    assert (np.diff(blocks.document) >= 0).all() and (len(sizes) == 2 or sizes.min() >= 16)


def test_the_example_of_the_docs(capsys):
    (example,) = re.findall(r"```python\n(.*?)```", DOCS.read_text(), re.DOTALL)
    names: dict = {}
    exec(example, names)
    homologs = names["homologs"]
    right = homologs.filter(pl.col("best_feature") == 299 - pl.col("feature"))
    assert right.group_by("model").len().sort("model").rows() == [("a", 200), ("b", 200)]
    assert right["mutual"].all() and len(homologs) <= 1.02 * len(right)
    assert "67% (66 to 67%) of the features of a have a homolog" in capsys.readouterr().out
