"""Areas by visible arithmetic; a planted circuit beside random orders."""

from __future__ import annotations

import pytest
from tests.circuits.test_evaluation import PAIRS, TRUE_CIRCUIT, planted

from homolog.circuits.discovery import discover
from homolog.circuits.edges import nodes
from homolog.circuits.evaluation import CircuitEvaluation, Scoring
from homolog.circuits.nulls import random_orders
from homolog.circuits.size_curve import SizeCurve, discovered_order, size_curves, tried_sizes
from homolog.models import Site


@pytest.mark.parametrize(
    ("scores", "cpr", "cmd"),
    [
        # sizes 0, 1, 2, 4 of 4: widths 1/4, 1/4, 1/2
        ([0, 0.25, 0.5, 1], 0.5, 0.5),
        ([0, 1, 1, 1], 1 / 8 + 1 / 4 + 1 / 2, 1 / 8),
        ([0, 0, 0, 1], 1 / 4, 3 / 4),
        # above 1, and below 0: the means of neighbours times the widths
        ([0, 2, 2, 1], 2 / 8 + 4 / 8 + 3 / 4, 2 / 8 + 2 / 8 + 1 / 4),
        ([0, -1, 0, 1], -1 / 8 - 1 / 8 + 1 / 4, 3 / 8 + 3 / 8 + 1 / 4),
    ],
)
def test_areas_by_hand(scores: list[float], cpr: float, cmd: float) -> None:
    curve = SizeCurve([0, 1, 2, 4], scores)
    assert (curve.cpr, curve.cmd) == pytest.approx((cpr, cmd))
    assert curve.shares == [0, 0.25, 0.5, 1]
    assert curve.rows()[1] == {"n_nodes": 1, "share": 0.25, "faithfulness": scores[1]}


def test_sizes_are_shares_of_the_nodes_rounded_up() -> None:
    assert tried_sizes(8) == [0, 1, 2, 4, 8]
    assert tried_sizes(20) == [0, 1, 2, 4, 10, 20]
    assert tried_sizes(156) == [0, 1, 2, 4, 8, 16, 32, 78, 156]
    assert tried_sizes(1) == [0, 1]
    assert tried_sizes(700)[4:6] == [7, 14]  # 0.01 * 700 may come out above 7


def test_a_planted_circuit_is_found_first_and_random_orders_find_it_later() -> None:
    """Two of 15 nodes act, and 10 % of 15 are 2: from there on the curve is at 1."""
    model = planted()
    evaluation = CircuitEvaluation(model, PAIRS, TRUE_CIRCUIT, Scoring(ablation="zero"))
    order = discovered_order(discover(model, PAIRS, n_top=2, n_random=2), evaluation.universe)
    assert {str(node) for node in order[:2]} == set(TRUE_CIRCUIT)
    assert sorted(map(str, order)) == sorted(map(str, nodes(model)))
    orders = [order, *random_orders(evaluation.universe, 10)]
    curve, *random = size_curves(evaluation, orders)
    assert curve.sizes == [0, 1, 2, 3, 8, 15]
    assert curve.scores[2:] == [1.0] * 4 and curve.scores[0] == 0
    (first,) = evaluation.shares([order[:1]]).tolist()
    assert curve.scores[1] == first
    by_hand = first / 30 + (first + 1) / 30 + 13 / 15
    assert curve.cpr == pytest.approx(by_hand, abs=1e-6)
    # either part alone overshoots, by which a random order may gain CPR, but never CMD
    assert curve.cmd < min(r.cmd for r in random)


def test_a_curve_of_any_order_is_of_the_nodes_that_stand_first_in_it() -> None:
    evaluation = CircuitEvaluation(planted(), PAIRS, TRUE_CIRCUIT, Scoring(ablation="zero"))
    last = [Site("mlp_out", 0), Site("head_out", 1, 2)]
    order = [site for site in evaluation.universe if site not in last] + last
    (curve,) = size_curves(evaluation, [order])
    assert curve.scores == [0, 0, 0, 0, 0, 1]
    assert curve.cpr == pytest.approx(1 / 2 * 7 / 15)
    assert curve.cmd == pytest.approx(1 - 1 / 2 * 7 / 15)
