"""The closest homologs."""

from __future__ import annotations

import polars as pl
import pytest
from tests.analyses.planted_run import A, B, changed, make_run, read_pair

from homolog.analyses.closest import closest
from homolog.record.comparisons import MAIN
from homolog.record.tables import MATCHES


@pytest.fixture(scope="module")
def records(tmp_path_factory):
    return read_pair(make_run(tmp_path_factory.mktemp("closest") / "run"))


def test_the_closest_pairs_are_homologs_where_those_are_known(records, tmp_path):
    main = records.matches.filter(pl.col("r").is_finite(), comparison=MAIN.name, side="A")
    first = main.sort("r", descending=True).row(0, named=True)
    name = f"{first['layer']} / {first['feature']}"
    assert closest(records, "A").rows[0][0] == name
    path = make_run(tmp_path / "run")
    same = {"comparison": MAIN.name, "model": A, **{k: first[k] for k in ("layer", "feature")}}
    no = pl.when(**same).then(False).otherwise("homolog")  # a control finds it as closely
    changed(path, MATCHES, no.alias("homolog"))
    assert name not in [row[0] for row in closest(read_pair(path), "A").rows]
    changed(path, MATCHES, pl.lit(None, pl.Boolean).alias("homolog"))
    assert closest(read_pair(path), "A").rows[0][0] == name


def test_the_closest_pairs_carry_their_marks(records):
    table = closest(records, "A")
    marks = ["r", "Excess", "q", "Active", "Mutual", "One-to-one", "Stable"]
    assert table.columns == [A, B, *marks]
    for row in table.rows:
        feature = int(row[0].split(" / ")[1])
        null = 0.4 if float(row[5].removesuffix("%")) < 100 * 1000 / 90_000 else 0.2
        assert float(row[3]) == pytest.approx(float(row[2]) - null, abs=0.0011)
        assert row[4] == "<0.001"
        planted = [feature % 2 == 0, feature % 3 == 0, feature % 5 != 0]
        assert row[6:] == ["yes" if holds else "no" for holds in planted]
