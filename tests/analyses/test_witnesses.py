"""Who says that a feature is shared, and how far they agree: rules, counts and shuffles by hand."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import polars as pl
import pytest
from tests.analyses.planted_record import A, B
from tests.analyses.planted_run import make_run, read_pair
from tests.report.pages import said as said_by

from homolog.analyses.records import PairRecords
from homolog.analyses.witnesses import ANALYSIS
from homolog.analyses.witnesses.agreement import agreement, kappa
from homolog.analyses.witnesses.figures import agreement_figure, agreement_rows
from homolog.analyses.witnesses.rules import ALL, asked
from homolog.charts.words import MISSING
from homolog.record.table import Table
from homolog.record.tables import (
    BY_WEIGHTS,
    CROSSCODER_FEATURES,
    FEATURES,
    LISTS,
    MATCHES,
    RATINGS,
    WITNESS_AGREEMENT,
    WITNESSES,
)

NAN = float("nan")
ABOUT = {"model": A, "best_model": B, "layer": 1}
RULES: dict[str, list[tuple[dict, bool | None]]] = {
    "verdict": [
        ({"comparison": "main", "homolog": True}, True),
        ({"comparison": "main", "homolog": False}, False),
        ({"comparison": "main"}, None),
        ({"comparison": "rotated", "homolog": True}, None),
    ],
    "correlation": [
        ({"comparison": "main", "r": 0.71, "homolog": False}, True),
        ({"comparison": "main", "r": 0.69, "homolog": True}, False),
        ({"comparison": "main", "r": NAN}, None),
        ({"comparison": "rotated", "r": 0.9}, None),
    ],
    "weights": [
        ({"best_feature": 3, "mutual": True, "cosine": 0.5, "null_cosine": 0.4}, True),
        ({"best_feature": 3, "mutual": True, "cosine": 0.3, "null_cosine": 0.4}, False),
        ({"best_feature": 3, "mutual": False, "cosine": 0.5, "null_cosine": 0.4}, False),
        ({"best_feature": 3, "mutual": True, "cosine": 0.5, "null_cosine": NAN}, False),
        ({"best_feature": -1, "mutual": False, "cosine": NAN, "null_cosine": 0.4}, None),
        (
            {"best_model": A, "best_feature": 3, "mutual": True}
            | {"cosine": 0.5, "null_cosine": 0.4},
            None,
        ),
    ],
    "crosscoder": [
        ({"r": 0.71, "owner": "shared"}, True),
        ({"r": 0.71, "owner": A}, False),
        ({"r": 0.71, "owner": B}, True),  # a latent of the other model alone fires like it
        ({"r": 0.69, "owner": "shared"}, None),
        ({"r": NAN, "owner": None}, None),
    ],
    "regression": [
        ({"list": "exclusive", "exclusive_r2": 0.5}, True),
        ({"list": "exclusive", "exclusive_r2": 0.48}, False),
        ({"list": "exclusive", "exclusive_r2": NAN}, None),
        ({"list": "shared"}, None),
    ],
    "words": [
        ({"detection": 0.9, "partner_detection": 0.8, "other_detection": 0.6}, True),
        ({"detection": 0.9, "partner_detection": 0.6, "other_detection": 0.6}, False),
        ({"detection": 0.9, "partner_detection": 0.5, "other_detection": 0.2}, False),
        ({"detection": 0.7, "partner_detection": 0.9, "other_detection": 0.2}, None),
        ({"detection": 0.9, "partner_detection": None, "other_detection": 0.2}, None),
        ({"detection": 0.9, "partner_detection": 0.9, "other_detection": None}, None),
        ({"best_model": None, "detection": 0.9, "partner_detection": 0.9}, None),
    ],
}
TABLES = {
    "verdict": MATCHES,
    "correlation": MATCHES,
    "weights": BY_WEIGHTS,
    "crosscoder": CROSSCODER_FEATURES,
    "regression": LISTS,
    "words": RATINGS,
}


def table_of(name: str) -> pl.LazyFrame:
    """The rows of its rules, as features 0, 1, …"""
    rows = [ABOUT | {"feature": i} | row for i, (row, _) in enumerate(RULES[name])]
    return TABLES[name].frame(rows).lazy()


@pytest.mark.parametrize("name", RULES)
def test_each_says_yes_no_or_nothing(name: str) -> None:
    witness = next(one for one in ALL if one.name == name)
    assert witness.table is TABLES[name]
    answers = dict(witness.says(table_of(name)).select("feature", name).iter_rows())
    assert answers == {i: says for i, (_, says) in enumerate(RULES[name]) if says is not None}


def test_all_stand_in_one_table_and_who_is_missing_says_nothing() -> None:
    both = {TABLES[name]: table_of(name) for name in ("verdict", "crosscoder")}
    said = asked(both.get)
    assert dict(said.schema) == WITNESSES.schema
    assert said.select("feature", "verdict", "crosscoder").rows() == [
        (0, True, True),
        (1, False, False),
        (2, None, True),  # of which the study has no verdict
    ]
    others = said.select("correlation", "weights", "regression", "words")
    assert others.null_count().row(0) == (3, 3, 3, 3)
    alone = asked(lambda table: table_of("verdict") if table is MATCHES else None)
    assert len(alone) == 2 and agreement(alone, seed=0).is_empty()
    assert asked(lambda table: None).is_empty()


def answers_of(
    one: np.ndarray, other: np.ndarray, layer: np.ndarray | None = None, feature=None
) -> pl.DataFrame:
    """`WITNESSES` of the features of A, of which verdict and weights say this."""
    n = len(one)
    where = {
        "layer": np.zeros(n, int) if layer is None else layer,
        "feature": np.arange(n) if feature is None else feature,
    }
    rows = pl.DataFrame({"verdict": one, "weights": other, **where})
    return WITNESSES.frame(rows.with_columns(model=pl.lit(A), best_model=pl.lit(B)))


def counted(both: int, alone: int, other_alone: int, neither: int) -> tuple[np.ndarray, np.ndarray]:
    """Answers of two witnesses with these counts."""
    counts = (both, alone, other_alone, neither)
    one, other = (np.repeat(answers, counts) for answers in ((1, 1, 0, 0), (1, 0, 1, 0)))
    return one.astype(bool), other.astype(bool)


def test_kappa_is_what_is_agreed_beyond_chance() -> None:
    # 35 of 50 agree; by chance half do: 0.5 * 0.6 + 0.5 * 0.4
    row = agreement(answers_of(*counted(20, 5, 10, 15)), seed=0).row(0, named=True)
    assert (row["witness"], row["other"], row["n"]) == ("verdict", "weights", 50)
    assert (row["both"], row["alone"], row["other_alone"]) == (20, 5, 10)
    assert row["agreement"] == 0.7
    assert row["kappa"] == pytest.approx((0.7 - 0.5) / (1 - 0.5))
    assert row["kappa_lo"] < 0.4 < row["kappa_hi"]
    tables = np.array([[5, 0, 0, 5], [0, 5, 5, 0], [9, 0, 1, 0], [0, 0, 3, 7]])
    assert kappa(tables[:2]).tolist() == [1, -1]
    assert np.isnan(kappa(tables[2:])).all()  # one says the same of all


def test_few_of_an_answer_give_no_interval() -> None:
    row = agreement(answers_of(*counted(9, 0, 50, 50)), seed=0).row(0, named=True)
    assert np.isfinite(row["kappa"]) and np.isnan(row["kappa_lo"]) and np.isnan(row["kappa_hi"])
    row = agreement(answers_of(*counted(9, 1, 50, 50)), seed=0).row(0, named=True)
    assert np.isfinite([row["kappa_lo"], row["kappa_hi"]]).all()


def test_shuffled_answers_agree_by_chance_alone() -> None:
    rng = np.random.default_rng(0)
    found = []
    for seed in range(200):
        one, other = rng.random(400) < 0.3, rng.random(400) < 0.8
        row = agreement(answers_of(one, other), resamples=200, seed=seed).row(0, named=True)
        found.append((row["kappa"], row["kappa_lo"] <= 0 <= row["kappa_hi"], row["agreement"]))
    kappas, covered, agreed = np.array(found, float).T
    error = kappas.std() / np.sqrt(len(kappas))
    assert abs(kappas.mean()) < 3 * error and error < 0.005
    assert covered.mean() > 0.9
    assert agreed.mean() == pytest.approx(0.3 * 0.8 + 0.7 * 0.2, abs=0.01)  # and yet agree in 38 %


def test_a_line_through_layers_is_one_draw() -> None:
    """What each line says is said again in four layers: no more is known."""
    one, other = counted(60, 40, 30, 70)
    n = len(one)
    layer, feature = np.repeat(np.arange(4), n), np.tile(np.arange(n), 4)
    four = answers_of(np.tile(one, 4), np.tile(other, 4), layer, feature)
    lines = pl.DataFrame({"model": A, "layer": layer, "feature": feature}).with_columns(
        pl.col("layer", "feature").cast(pl.Int32),
        born_layer=pl.lit(0, pl.Int32),
        born_feature=pl.col("feature").cast(pl.Int32),
    )
    rows = [
        agreement(frame, given, resamples=4000, seed=0).row(0, named=True)
        for frame, given in ((answers_of(one, other), None), (four, lines), (four, None))
    ]
    assert [row["n_lines"] for row in rows] == [200, 200, 800] and rows[1]["n"] == 800
    assert len({round(row["kappa"], 12) for row in rows}) == 1
    single, by_line, by_feature = (row["kappa_hi"] - row["kappa_lo"] for row in rows)
    assert by_line == pytest.approx(single, rel=0.05)
    assert by_feature == pytest.approx(single / 2, rel=0.1)


def test_the_interval_is_that_of_lines_drawn_one_by_one() -> None:
    rng = np.random.default_rng(1)
    line = rng.integers(0, 60, 300)
    one = rng.random(60)[line] < 0.5
    other = np.where(rng.random(300) < 0.7, one, ~one)
    lines = pl.DataFrame({"model": A, "layer": 0, "feature": np.arange(300), "born_feature": line})
    lines = lines.with_columns(pl.exclude("model").cast(pl.Int32), born_layer=pl.lit(0, pl.Int32))
    row = agreement(answers_of(one, other), lines, resamples=4000, seed=0).row(0, named=True)
    slowly = []
    for _ in range(2000):
        rows = np.concatenate(
            [np.flatnonzero(line == i) for i in rng.choice(np.unique(line), len(np.unique(line)))]
        )
        a, b = one[rows], other[rows]
        chance = a.mean() * b.mean() + (1 - a.mean()) * (1 - b.mean())
        slowly.append(((a == b).mean() - chance) / (1 - chance))
    assert [row["kappa_lo"], row["kappa_hi"]] == pytest.approx(
        np.quantile(slowly, (0.025, 0.975)), abs=0.02
    )


@pytest.fixture(scope="module")
def records(tmp_path_factory: pytest.TempPathFactory) -> PairRecords:
    """A run with an explorer: 50 features that verdict and weights divide, two of regression."""
    path = make_run(tmp_path_factory.mktemp("witnesses") / "run")
    records = read_pair(path)

    def put(table: Table, rows: pl.DataFrame) -> None:
        table.write(rows, records.folder.table(table.name))

    said = answers_of(*counted(20, 5, 10, 15)).with_columns(
        regression=pl.when(pl.col("feature") > 47).then(pl.lit(False))
    )
    put(WITNESSES, WITNESSES.frame(said))
    put(WITNESS_AGREEMENT, agreement(said, seed=0))
    put(FEATURES, FEATURES.frame())
    records.folder.vocabulary.write_text("[]", "utf-8")
    return read_pair(path)


def test_the_figure_has_a_bar_for_two_that_can_be_compared(records: PairRecords) -> None:
    rows = agreement_rows(records)
    assert [(row["answer"], row["n"], row["share"]) for row in rows] == [
        ("both", 20, 0.4),
        ("alone", 5, 0.1),
        ("other_alone", 10, 0.2),
        ("neither", 15, 0.3),
    ]
    assert {row["pair"] for row in rows} == {"verdict, weights|kappa 0.40 of 50"}
    links = [row.get("link", "").partition("#")[2] for row in rows]
    assert links[0] == links[3] == ""
    assert links[1:3] == [
        f"from={A}&to={B}&witnesses={pair}" for pair in ("verdict-weights", "weights-verdict")
    ]
    figure = agreement_figure(records)
    assert figure is not None and "verdict, weights, kappa 0.40 of 50" in figure.alt


def test_the_section_says_what_each_says(records: PairRecords) -> None:
    text = said_by(ANALYSIS, records)
    assert "Do the methods say the same?" in text
    assert "the verdict 50 50%" in text and "weights 50 60%" in text and "regression 2 0%" in text
    assert "the verdict, weights 50 50 20 5 10 70% 0.40 (" in text
    assert f"the verdict, regression 2 2 0 0 0 100% {MISSING} (no interval)" in text


def test_a_run_without_two_witnesses_has_no_chapter(tmp_path: Path) -> None:
    records = read_pair(make_run(tmp_path / "run"))
    assert agreement_figure(records) is None and said_by(ANALYSIS, records) == ""


def test_it_is_asked_for_where_a_recipe_has_a_second_witness() -> None:
    class Recipe:
        interpretation: object = None
        crosscoder: object = None

    assert not ANALYSIS.wanted(Recipe())
    for name in ("interpretation", "crosscoder"):
        recipe = Recipe()
        setattr(recipe, name, object())
        assert ANALYSIS.wanted(recipe)
    assert {witness.table for witness in ALL} < set(ANALYSIS.reads)
