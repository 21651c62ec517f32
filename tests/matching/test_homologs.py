"""Homologs by hand: bars from thresholds, baselines, rivals and the floor."""

from __future__ import annotations

import numpy as np
import polars as pl
from tests.matching.studies import NAN, classified, rows, small_study

from homolog.matching.homologs import Baseline, Criterion, classify
from homolog.matching.tables import BEYOND, HOMOLOGS


def test_bars_and_homologs_by_hand():
    found = classified(small_study())
    assert found.drop(HOMOLOGS).equals(small_study())
    main = found.filter(pl.col("comparison") == "main")
    assert main["homolog"].to_list() == [True, False, False, False, False, None]
    np.testing.assert_allclose(
        main["control_r"].to_list()[:5], [0.5, 0.9, 0.6, 0.1, 0.1], atol=1e-7
    )
    assert main["control_r"][5] is None
    # sqrt(1.1 control_r^2 + 0.04), threshold
    bars = [0.315**0.5, 0.931**0.5, 0.436**0.5, 0.051**0.5, 0.55]
    np.testing.assert_allclose(main["bar"].to_list()[:5], bars, atol=1e-7)
    assert main["bar"][5] is None
    np.testing.assert_allclose(main["beyond"].to_list()[:3], [0.39, -0.32, 0], atol=1e-6)
    assert main["fails"].to_list() == ["", "controls", "controls", "controls", "chance", None]
    for name in ("control_r", "bar", "homolog"):
        assert found.filter(pl.col("comparison") != "main")[name].null_count() == len(found) - 6
    assert classified(found).equals(found)
    low = classified(small_study(), margin=0.012, control_credit=0.0).filter(
        pl.col("comparison") == "main"
    )
    assert low["homolog"].to_list() == [True, False, False, True, False, None]


def test_a_partner_that_resembles_another_feature_more_is_no_homolog():
    """B's 0 and 1 best match A's 0 and 3 with 0.8 and 0.5; A's 1 leaks into B's 0, 2 is a part."""
    there = rows(
        "main", "A", "B", [0.8, 0.5, 0.57, 0.5], threshold=[0.1] * 4, best_feature=[0, 0, 0, 1]
    )
    back = rows("main", "B", "A", [0.8, 0.5], threshold=[0.1] * 2, best_feature=[0, 3])
    found = classified(pl.concat([there, back]), {})
    main = found.filter(pl.col("model") == "A")
    np.testing.assert_allclose(main["rival_r"], [0.8, 0.8, 0.8, 0.5], atol=1e-7)
    np.testing.assert_allclose(main["bar"], [0.56, 0.56, 0.56, 0.35], atol=1e-7)
    assert main["fails"].to_list() == ["", "rival", "", ""]
    assert main["homolog"].to_list() == [True, False, True, True]
    assert classified(there, {})["rival_r"].null_count() == 4  # the other direction is missing


def test_two_models_may_share_an_untrained_twin():
    parts = [rows("main", "A", other, [0.6, 0.9], threshold=[0.1, 0.1]) for other in "BC"]
    parts.append(rows("random-model", "A", "twin", [0.7, 0.7]))
    main = classified(pl.concat(parts), {"B": "twin", "C": "twin"}).filter(
        pl.col("comparison") == "main"
    )
    assert main["homolog"].to_list() == [False, True] * 2


def test_other_labels_of_the_same_models_neither_raise_nor_rival_the_main_ones():
    """B's second and rotated dictionaries come closer to A, and A's second ones to B."""
    there = rows("main", "A", "B", [0.5, 0.5], threshold=[0.1] * 2)
    back = rows("main", "B", "A", [0.6, 0.6], threshold=[0.1] * 2)
    others = [
        rows("main", "A", "B", [0.99, 0.99], threshold=[0.1] * 2, best_label="seed1"),
        rows("main", "A", "B", [0.95, 0.95], threshold=[0.1] * 2, label="seed1"),
        rows("main", "B", "A", [0.95, 0.95], threshold=[0.1] * 2, best_label="seed1"),
        rows("main", "B", "A", [0.99, 0.99], threshold=[0.1] * 2, label="seed1"),
        rows("rotated", "A", "B", [0.4, 0.55], best_label="rotated"),
        rows("rotated", "A", "B", [0.9, 0.9], best_label="seed1"),
        rows("rotated", "A", "B", [0.9, 0.9], label="seed1", best_label="rotated"),
        rows("rotated", "B", "A", [0.9, 0.9], label="rotated"),
    ]
    main = classified(pl.concat([*others, there, back])).filter(comparison="main")
    own = main.filter(model="A", label="sae", best_label="sae")
    np.testing.assert_allclose(own["rival_r"], [0.6, 0.6], atol=1e-7)
    np.testing.assert_allclose(own["control_r"], [0.4, 0.55], atol=1e-7)  # B's rotated ones alone
    bars = [0.216**0.5, 0.37275**0.5]  # 1.1 x 0.4^2 + 0.04, 1.1 x 0.55^2 + 0.04
    np.testing.assert_allclose(own["bar"], bars, atol=1e-7)
    assert own["homolog"].to_list() == [True, False]
    turned = main.filter(model="B", label="sae", best_label="sae")
    assert turned["control_r"].null_count() == 2  # A was not rotated
    assert turned["homolog"].to_list() == [True, True]


def test_what_other_documents_may_turn_around_is_no_homolog():
    """Four matches 0.06 beyond the controls; of two of them documents disagree, one is untested."""
    study = rows("main", "A", "B", [0.5] * 4, threshold=[0.1] * 4)
    beyond = pl.DataFrame(
        {
            "token_r2": [0.1] * 4,
            "control_r": [0.19**0.5] * 4,
            "beyond": [0.06] * 4,
            "beyond_se": [0.01, 0.03, 0.05, NAN],
            "beyond_p": [1e-6, 0.008, 0.02, NAN],
        },
        schema=BEYOND,
    )
    main = classify(study, Criterion("main", fdr=0.01), beyond)
    # q: p times 3 tests over its rank, made monotone from above; NaN is not a test
    q = main["beyond_q"].to_list()
    np.testing.assert_allclose(q[:3], [3e-6, 0.012, 0.02])
    assert q[3] is None
    assert main["homolog"].to_list() == [True, False, False, True]
    assert main["fails"].to_list() == ["", "documents", "documents", ""]
    # asked where controls explain more than half of what the partner does, 0.125 of 0.25
    for explained, fails in ((0.126, "documents"), (0.124, "")):
        less = beyond.with_columns(control_r=pl.lit(explained**0.5, pl.Float32))
        assert classify(study, Criterion("main", fdr=0.01), less)["fails"][2] == fails


def test_a_control_may_stand_for_the_features_own_model():
    study = [
        rows("main", "A", "B", [0.6, 0.6], threshold=[0.1, 0.1]),
        rows("main", "B", "A", [0.6, 0.6], threshold=[0.1, 0.1]),
        rows("own-random", "A", "A-random", [0.59, 0.1]),
        rows("own-random", "B", "B-random", [0.1, 0.59]),
    ]
    twins = {"A": ("A-random", "sae"), "B": ("B-random", "sae")}
    own = Baseline("own-random", "{} before training", twins, "model")
    found = classify(pl.concat(study), Criterion("main", [own])).filter(comparison="main")
    assert found["homolog"].to_list() == [False, True, True, False]
    assert own.was_run(found, "A", "B") is False and own.replaced("A", "B") == "A"


def test_without_baselines_only_rivals_and_the_floor_count():
    result = classify(small_study(), Criterion("main")).filter(pl.col("comparison") == "main")
    assert result["control_r"].null_count() == 6
    assert result["homolog"].to_list() == [True, True, True, False, False, None]


def test_another_comparison_can_be_the_result():
    found = classify(small_study(), Criterion("sae-seed"))
    assert found.filter(pl.col("comparison") == "main")["homolog"].null_count() == 6
    result = found.filter(pl.col("comparison") == "sae-seed")["homolog"]
    assert result.to_list() == [True, True, True, True, False, None]
