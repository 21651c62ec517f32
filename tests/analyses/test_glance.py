"""The answer at a glance: parts of all features, and homologs that stand for others."""

from __future__ import annotations

from itertools import pairwise
from pathlib import Path

import polars as pl
import pytest
from tests.analyses.planted_run import make_run, read_pair
from tests.report.planted_features import VOCABULARY, A, B, contexts_of, planted_run

from homolog.analyses.glance.examples import ENOUGH_TOKENS, SHOWN, examples
from homolog.analyses.glance.figure import PARTS, answer_figure, parts
from homolog.analyses.records import PairRecords
from homolog.analyses.verdict.doubts import doubts
from homolog.record.tables import MATCHES

HOMOLOG, CONTROLS, UNMATCHED = (words for words, _ in PARTS.values())


@pytest.fixture
def run(tmp_path: Path) -> Path:
    return make_run(tmp_path / "run")


def test_parts_are_all_features_that_fire_each_once(run: Path) -> None:
    """Ten of A are given the reasons that a match may fail by, one each."""
    path = run / MATCHES.file
    matches = pl.read_parquet(path)
    ours = (pl.col("comparison") == "main") & (pl.col("model") == "transformer-s0")
    ours &= (pl.col("label") == "sae") & pl.col("homolog").fill_null(False)
    reasons = ["controls", "controls, rival", "documents", "rare", "rival"]
    reasons += ["chance", "chance, controls", "chance, controls, rival", "rare, rival", "documents"]
    rows = matches.with_row_index().filter(ours)["index"].to_list()[:10]
    told = pl.DataFrame({"index": rows, "new": reasons}, schema_overrides={"index": pl.UInt32})
    matches = matches.with_row_index().join(told, on="index", how="left", maintain_order="left")
    given = pl.col("new").is_not_null()
    matches = matches.with_columns(
        homolog=pl.when(given).then(pl.lit(False)).otherwise("homolog"),
        fails=pl.when(given).then("new").otherwise("fails"),
    )
    records = read_pair(run)
    before = parts(records)[0]
    matches.drop("index", "new").write_parquet(path)

    shown = [row for row in parts(read_pair(run)) if row["direction"].startswith("transformer")]
    n = {row["part"]: row["n"] for row in shown}
    alive = matches.filter(pl.col("n_active") > 0, comparison="main", model="transformer-s0")
    assert sum(n.values()) == alive.filter(label="sae").height
    assert [row["part"] for row in shown] == [HOMOLOG, CONTROLS, UNMATCHED]
    assert n[CONTROLS] == 4
    assert n[HOMOLOG] == before["n"] - 10
    assert shown[0]["start"] == 0 and shown[-1]["end"] == 1
    assert all(a["end"] == b["start"] for a, b in pairwise(shown))
    assert {"lo", "hi", "ceiling"} <= shown[0].keys()


def test_a_withheld_direction_has_no_bar(tmp_path: Path) -> None:
    both = {("mamba-s0", "transformer-s0"), ("transformer-s0", "mamba-s0")}
    one = read_pair(make_run(tmp_path / "one", withheld={("mamba-s0", "transformer-s0")}))
    assert {row["direction"] for row in parts(one)} == {"transformer-s0|in mamba-s0"}
    assert answer_figure(read_pair(make_run(tmp_path / "none", withheld=both))) is None


def test_examples_are_mutual_homologs_of_which_controls_explain_least(tmp_path: Path) -> None:
    """Features 3 to 20 of block 0 are such, their `beyond` falling; 9 fires on too few tokens."""
    path = tmp_path / "run"
    study = planted_run(path)
    file = study.folder.table(MATCHES)
    able = pl.col("feature").is_between(3, 20) & (pl.col("layer") == 0)
    changed = {
        "mutual": able,
        "homolog": able,
        "beyond": (0.9 - pl.col("feature") / 100).cast(pl.Float32),
        "n_active": ENOUGH_TOKENS - (pl.col("feature") == 9).cast(pl.Int64),
        "best_feature": pl.when(able).then("feature").otherwise("best_feature").cast(pl.Int32),
    }
    MATCHES.write(pl.read_parquet(file).with_columns(**changed), file)

    expected: list[int] = []
    seen: set[str] = set()
    for feature in range(3, 21):
        if feature == 9 or feature % 7 == 0:  # that one has no contexts
            continue
        tokens = {strongest_token(model, feature) for model in (A, B)}
        if not tokens & seen:
            seen |= tokens
            expected.append(feature)
    found = examples(PairRecords(path, study.run, study.compared, (A, B)))
    assert len(found) == SHOWN
    assert [example.link.split("/")[-1] for example in found] == list(map(str, expected[:SHOWN]))
    assert [title for title, _ in found[0].sides] == [f"{A}, block 0", f"{B}, block 0"]
    shown = "".join(line for example in found for _, lines in example.sides for line in lines)
    assert shown.count("<span") >= 2 * SHOWN * 2 and "<script" not in shown and "<img" not in shown


def strongest_token(model: str, feature: int) -> str:
    """Where a planted feature of block 0 fires most."""
    contexts = contexts_of(model, 0)
    assert contexts is not None
    row = contexts.filter(feature=feature, quantile=1.0, rank=0).row(0, named=True)
    return VOCABULARY[row["tokens"][row["position"] - row["start"]]].strip().lower()


def test_a_control_that_misses_its_gates_stands_beside_the_answer(tmp_path: Path) -> None:
    """Dictionaries that are compared withhold the verdict instead."""
    failing = {("mamba-random", 1), ("mamba-random", 2), ("mamba-s0", 0)}
    assert doubts(read_pair(make_run(tmp_path / "run", failing=failing))) == [
        "A control misses its gates: dictionaries of mamba-random, 2 of 8 blocks "
        "(explained variance 0.41 is below 0.60)."
    ]
    assert doubts(read_pair(make_run(tmp_path / "good"))) == []


def test_without_contexts_there_are_no_examples(run: Path) -> None:
    assert examples(read_pair(run)) == []
