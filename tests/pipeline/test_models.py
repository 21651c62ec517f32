"""The models that a recipe asks for, and the names that it may not give them."""

from __future__ import annotations

from typing import Any

import pytest

from homolog.errors import InputError
from homolog.pipeline.models import left_out, models_of
from homolog.pipeline.recipes import load_recipe, parse_recipe
from homolog.record.comparisons import Models, planned

THIRD = {"ref": "zoo:transformer-s1", "untrained": "zoo:transformer-random"}


def models_with(third: dict[str, Any]) -> Models:
    """The demo's models, the first without a second seed, and a third."""
    values = load_recipe("demo").values()
    first = {**values["models"][0], "other_seed": None}
    models = [first, values["models"][1], third]
    return models_of(parse_recipe(values | {"models": models}, "three"))


def test_three_models_give_every_pair_with_its_controls() -> None:
    models = models_with(THIRD)
    a, b, c = "transformer-s0", "mamba-s0", "transformer-s1"
    assert [model.name for model in models.compared] == [a, b, c]
    assert [m.name for m in models.all] == [
        a,
        b,
        c,
        "transformer-random",
        "mamba-random",
        "mamba-s1",
    ]
    pairs: dict[str, set[tuple[str, str]]] = {}
    for plan in planned(models):
        pairs.setdefault(plan.comparison.name, set()).add((plan.a.model.name, plan.b.model.name))
    both_ways = {(a, b), (b, a), (a, c), (c, a), (b, c), (c, b)}
    assert pairs["main-seed"] == pairs["rotated"] == both_ways
    # the twin of both Transformers is one model: each is held against it once
    assert pairs["random-model"] == {
        (a, "mamba-random"),
        (b, "transformer-random"),
        (c, "mamba-random"),
        (a, "transformer-random"),
        (c, "transformer-random"),
    }


def test_dictionaries_of_every_seed_and_those_that_comparisons_derive() -> None:
    recipe = load_recipe("demo")
    (first, _) = models_of(recipe).compared
    assert (first.labels, first.derived) == (("sae", "seed1"), ("rotated",))
    assert first.encoded_labels == ("sae", "seed1", "rotated")
    without = recipe.changed(controls={"rotated": False, "neurons": False})
    assert left_out(without) == ["rotated", "neurons"]
    assert models_of(without).compared[0].derived == ()


def test_a_model_that_is_compared_cannot_be_a_control_too() -> None:
    with pytest.raises(InputError, match="a name of its own"):
        models_with(THIRD | {"other_seed": "zoo:mamba-s0"})
