"""What a crosscoder says of features with a homolog and of others, from numbers known by hand."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from tests.analyses.planted_record import A, B
from tests.analyses.planted_run import make_run, read_pair

from homolog.analyses.crosscoder import ANALYSIS, agreement, values
from homolog.analyses.crosscoder.measure import _is_sink
from homolog.record.table import Table
from homolog.record.tables import CROSSCODER_FEATURES, CROSSCODER_LATENTS, CROSSCODERS

NAN = float("nan")
PAIR = {"model": A, "best_model": B}
# (model, homolog, r, owner of the latent)
FEATURES = [
    (A, True, 0.9, "shared"),
    (A, True, 0.8, "shared"),
    (A, True, 0.71, A),
    (A, True, 0.5, "shared"),  # follows nothing
    (A, False, 0.9, A),
    (A, False, NAN, None),  # is never active
    (B, True, 0.6, "shared"),
    (B, None, 0.9, "shared"),  # has no verdict
]
LATENTS = [
    (9, "shared", "shared"),
    (9, A, "shared"),
    (9, A, A),
    (9, B, B),
    (0, B, B),  # never active
]


def write(folder: Path) -> None:
    def put(table: Table, rows: list[dict]) -> None:
        table.write(table.frame(rows), folder / table.file)

    facts = {"layer": 1, "best_layer": 2, "d_sae": 5, "l0": 3.25}
    explained = {"explained_variance": 0.75, "best_explained_variance": 0.5}
    put(CROSSCODERS, [PAIR | facts | explained | {"n_trained": 10, "n_rows": 9}])
    put(
        CROSSCODER_LATENTS,
        [
            PAIR | {"latent": i, "n_active": n, "by_norm": by_norm, "owner": owner}
            for i, (n, by_norm, owner) in enumerate(LATENTS)
        ],
    )
    rows = []
    for i, (model, homolog, r, owner) in enumerate(FEATURES):
        other = B if model == A else A
        about = {"model": model, "layer": 1, "feature": i, "best_model": other}
        latent = -1 if owner is None else i
        rows.append(about | {"homolog": homolog, "latent": latent, "r": r, "owner": owner})
    put(CROSSCODER_FEATURES, rows)


def test_agreement_counts_features_that_have_a_verdict_and_a_correlation() -> None:
    names = ("model", "homolog", "r", "owner")
    rows = [dict(zip(names, row, strict=True)) for row in FEATURES]
    found = agreement(CROSSCODER_FEATURES.frame(rows), (A, B))
    assert [tuple(row.values()) for row in found] == [
        (A, True, 4, 3, pytest.approx(2 / 3)),
        (A, False, 1, 1, 0.0),
        (B, True, 1, 0, None),
        (B, False, 0, 0, None),
    ]


def test_the_section(tmp_path: Path) -> None:
    path = make_run(tmp_path / "run")
    assert values(read_pair(path)) is None
    write(path)
    filled = values(read_pair(path))
    assert filled is not None and filled["crosscoder"]["l0"] == 3.25
    assert filled["classes"].rows == [
        ["shared", "1", "2"],
        [f"{A} alone", "2", "1"],
        [f"{B} alone", "1", "1"],
    ]
    assert [row[1:] for row in filled["verdicts"].rows] == [
        ["4", "3", "0.67"],
        ["1", "1", "0.00"],
        ["1", "0", ""],
        ["0", "0", ""],
    ]
    assert "{{ table(classes) }}" in ANALYSIS.section


def test_sinks_are_not_learnt_from_where_they_hold_much_of_the_variance() -> None:
    x = torch.randn(1000, 16, generator=torch.Generator().manual_seed(0))
    assert not _is_sink(x).any()
    x[7] *= 100
    assert _is_sink(x).nonzero().flatten().tolist() == [7]
