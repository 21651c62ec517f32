"""What a recipe of more than two models asks for."""

from __future__ import annotations

import pytest
from homolog.pipeline.plan import make_plan

from homolog.errors import InputError
from homolog.pipeline.recipes import load_recipe, parse_recipe

THIRD = {"ref": "zoo:transformer-s1", "untrained": "zoo:transformer-random"}


def plan_of(third: dict):
    values = load_recipe("demo").values()
    first = {**values["models"][0], "other_seed": None}
    return make_plan(
        parse_recipe(values | {"models": [first, values["models"][1], third]}, "three")
    )


def test_three_models_give_every_pair_with_its_controls() -> None:
    plan = plan_of(THIRD)
    found = {}
    for c in plan.comparisons:
        found.setdefault(c.name, []).append((c.a.name, c.b.name))
    a, b, c = "transformer-s0", "mamba-s0", "transformer-s1"
    assert found["main"] == [(a, b), (a, c), (b, c)]
    both_ways = {(a, b), (b, a), (a, c), (c, a), (b, c), (c, b)}
    assert set(found["main-seed"]) == set(found["rotated"]) == both_ways
    assert set(found["sae-seed"]) == {(a, a), (b, b), (c, c)}
    # the twin of both Transformers is one model: each is held against it once
    assert set(found["random-model"]) == {
        (a, "mamba-random"),
        (b, "transformer-random"),
        (c, "mamba-random"),
        (a, "transformer-random"),
        (c, "transformer-random"),
    }
    assert len(found["random-model"]) == 5 and len({c.key for c in plan.comparisons}) == len(
        plan.comparisons
    )
    assert [s.name for s in plan.subjects].count("transformer-random") == 1


def test_a_model_that_is_compared_cannot_be_a_control_too() -> None:
    with pytest.raises(InputError, match="a name of its own"):
        plan_of(THIRD | {"other_seed": "zoo:mamba-s0"})
