"""Whole layers held against chance: figures and section of a run whose numbers are planted."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import pytest
from tests.analyses.planted_run import make_run, read_pair
from tests.report.pages import said

from homolog.analyses.records import PairRecords
from homolog.analyses.space_null import ANALYSIS
from homolog.analyses.space_null.figures import (
    beside_null,
    nearest,
    nearest_figure,
    null_figure,
)
from homolog.record.tables import SPACE_MODELS, SPACE_TESTS


def planted(records: PairRecords) -> Iterator[tuple[dict, float]]:
    """Pairs of four and eight blocks in two comparisons, and how far apart they are in depth."""
    a, b = records.pair
    for comparison, other in (("main", b), ("random-model", f"{b[:-3]}-random")):
        for measure in ("cka", "svcca", "mutual_knn"):
            about = {"comparison": comparison, "model": a, "best_model": other, "measure": measure}
            for i in range(4):
                for j in range(8):
                    yield about | {"layer": i, "best_layer": j}, abs((i + 1) / 4 - (j + 1) / 8)


@pytest.fixture(scope="module")
def records(tmp_path_factory: pytest.TempPathFactory) -> PairRecords:
    path = make_run(tmp_path_factory.mktemp("space-null") / "run")
    records = read_pair(path)
    tests = [
        row
        | {"diagonal": apart < 0.2, "value": 0.5 - apart / 4, "null_mean": 0.1, "null_high": 0.2}
        | {"excess": (0.4 - apart / 4) / 0.9, "p": 0.005, "p_max": 0.005 if apart < 0.1 else 0.2}
        for row, apart in planted(records)
    ]
    a, b = records.pair
    summary = {
        **{"comparison": "main", "model": a, "best_model": b, "measure": "mutual_knn"},
        **{"n_documents": 30, "n_rows": 2040, "n_permutations": 199, "n_pairs": 32, "n_called": 4},
        **{"layer": 1, "best_layer": 3, "value": 0.5, "p_max": 0.005, "mean_excess": 0.37},
        **{"diagonal": 0.48, "elsewhere": 0.4, "diagonal_p": 0.0001},
    }
    SPACE_TESTS.write(SPACE_TESTS.frame(tests), records.folder.table(SPACE_TESTS.name))
    SPACE_MODELS.write(SPACE_MODELS.frame([summary]), records.folder.table(SPACE_MODELS.name))
    return read_pair(path)


def test_the_matrix_of_neighbours_has_its_diagonal_and_says_how_it_was_tested(records) -> None:
    rows = nearest(records)
    assert len(rows) == 32 and {row["panel"] for row in rows} == {"Mutual nearest neighbours"}
    by_place = {(row["a"], row["b"]): row for row in rows}
    assert by_place[0, 1]["diagonal"] and not by_place[0, 7]["diagonal"]
    assert by_place[0, 1]["value"] == 0.5
    figure = nearest_figure(records)
    assert figure is not None
    words = "On the outlined diagonal 0.48 on average, elsewhere 0.40; layers in random order have"
    assert words in figure.read and "p <0.001" in figure.read


def test_each_block_stands_beside_the_null_with_its_most_alike_block(records) -> None:
    rows = beside_null(records)
    assert len(rows) == 3 * 2 * 4  # measures, comparisons, blocks
    first = rows[0]
    assert (first["panel"], first["comparison"], first["layer"]) == ("CKA", "main", 0)
    assert first["partner"].endswith("block 1") and first["value"] == 0.5
    assert (first["null_mean"], first["null_high"]) == (0.1, 0.2)
    assert np.isclose(first["excess"], 0.4 / 0.9, atol=1e-4)
    figure = null_figure(records)
    assert figure is not None and "are 12 of 12 in the main comparison" in figure.read


def test_the_section_says_what_was_tested(records) -> None:
    text = said(ANALYSIS, records)
    assert "on 2,040 tokens, against 199 random orders of the documents" in text
    assert "4 of 32" in text


def test_a_run_without_it_says_so(tmp_path) -> None:
    records = read_pair(make_run(tmp_path / "run"))
    assert nearest_figure(records) is None and null_figure(records) is None
    assert said(ANALYSIS, records).startswith("Not measured in this run: whether whole blocks")
