"""The models that a recipe asks for, and the names that it may not give them."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from homolog.errors import InputError
from homolog.pipeline.models import left_out, models_of, revisions_of, weights_of
from homolog.pipeline.recipes import load_recipe, parse_recipe
from homolog.record.comparisons import planned
from homolog.record.recipe import Recipe
from homolog.record.sides import Models

FIRST = {"ref": "zoo:transformer-s0", "untrained": "zoo:transformer-random"}
SECOND = {"ref": "zoo:mamba-s0", "untrained": "zoo:mamba-random", "other_seed": "zoo:mamba-s1"}
THIRD = {"ref": "zoo:transformer-s1", "untrained": "zoo:transformer-random"}


def models_with(third: dict[str, Any]) -> Models:
    """Two models, the first without a second seed, and a third."""
    return models_of(recipe_of(FIRST, SECOND, third))


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
    assert left_out(without) == ["rotated", "frozen_encoder", "neurons"]
    assert models_of(without).compared[0].derived == ()
    asked = models_of(recipe.changed(controls={"frozen_encoder": True}))
    assert asked.compared[0].derived == ("rotated", "frozen-encoder")
    met = [plan for plan in planned(asked) if plan.comparison.name == "frozen-encoder"]
    assert [plan.b.words for plan in met] == [
        "mamba-1-s0@frozen-encoder",
        "gpt-neox-s0@frozen-encoder",
    ]


def test_a_model_that_is_compared_cannot_be_a_control_too() -> None:
    with pytest.raises(InputError, match="a name of its own"):
        models_with(THIRD | {"other_seed": "zoo:mamba-s0"})


def recipe_of(*models: dict[str, Any], **more: Any) -> Recipe:
    """The demo's recipe with other models."""
    values = load_recipe("demo").values()
    return parse_recipe(values | {"models": list(models)} | more, "other models")


def test_a_model_is_called_by_its_name_and_else_by_its_ref(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for folder in ("checkpoints/pythia", "init"):
        (tmp_path / folder).mkdir(parents=True)
    (tmp_path / "Tiny.Q8_0.gguf").touch()
    monkeypatch.chdir(tmp_path)
    models = models_of(
        recipe_of(
            {"ref": "zoo:transformer-s0", "untrained": str(tmp_path / "init")},
            {"ref": "checkpoints/pythia", "other_seed": "./Tiny.Q8_0.gguf"},
            {"ref": "checkpoints/pythia/#noise=0.1", "name": "shaken"},
            {"ref": "EleutherAI/pythia-160m", "revision": "step0"},
            {"ref": "EleutherAI/pythia-160m", "revision": "step1000", "name": "after-1000"},
        )
    )
    assert [model.name for model in models.all] == [
        "transformer-s0",
        "pythia",
        "shaken",
        "EleutherAI--pythia-160m",
        "after-1000",
        "init",
        "Tiny.Q8_0",
    ]
    assert models.controls["transformer-s0"] == ["init"] and models.controls["shaken"] == []


def test_two_models_of_one_name_are_asked_for_names(tmp_path: Path) -> None:
    for folder in ("a/model", "b/model"):
        (tmp_path / folder).mkdir(parents=True)
    a, b = ({"ref": str(tmp_path / name / "model")} for name in "ab")
    with pytest.raises(InputError, match=r"\['model'\].*a name of its own.*Give models a `name`"):
        models_of(recipe_of(a, b))
    assert [m.name for m in models_of(recipe_of(a, b | {"name": "other"})).all] == [
        "model",
        "other",
    ]
    controls = (a | {"name": "x", "untrained": "zoo:mamba-random"}, b | {"name": "y"})
    assert len(models_of(recipe_of(*controls)).all) == 3
    twins = ({"ref": "zoo:mamba-s0", "untrained": a["ref"]}, {"ref": "zoo:mamba-s1"})
    with pytest.raises(InputError, match="a name of its own"):
        models_of(recipe_of(twins[0], twins[1] | {"untrained": b["ref"]}))


@pytest.mark.parametrize("name", ["a/b", "two words", ".hidden", "", "a@b", "x" * 65, "zoo:a"])
def test_a_name_is_that_of_a_folder(name: str) -> None:
    with pytest.raises(InputError, match=r"models\.0.*a name is of letters, digits"):
        recipe_of({"ref": "zoo:mamba-s0", "name": name}, {"ref": "zoo:mamba-s1"})


def test_no_model_is_called_as_what_stands_for_none() -> None:
    with pytest.raises(InputError, match="stands for no model"):
        recipe_of({"ref": "zoo:mamba-s0", "name": "current-token"}, {"ref": "zoo:mamba-s1"})


def test_pairs_name_models_by_name_or_by_a_ref_that_one_has() -> None:
    steps = [
        {"ref": "EleutherAI/pythia-160m", "revision": f"step{n}", "name": f"step{n}"}
        for n in (0, 1)
    ]
    pairs = [["step0", "zoo:mamba-s0"], ["mamba-s0", "step1"]]
    models = models_of(recipe_of(*steps, {"ref": "zoo:mamba-s0"}, pairs=pairs))
    named = [(a.name, b.name) for a, b in models.pairs]
    assert named == [("step0", "mamba-s0"), ("step1", "mamba-s0")]
    several = "pairs names EleutherAI/pythia-160m, which is 2 of models .step0, step1."
    with pytest.raises(InputError, match=several):
        recipe_of(*steps, pairs=[["EleutherAI/pythia-160m", "step0"]])
    with pytest.raises(InputError, match="pairs names step0 twice"):
        recipe_of(*steps, pairs=[["step0", "step0"]])


STEPS = {"ref": "EleutherAI/pythia-160m", "name": "p", "revisions": ["step0", "step1"]}


def test_revisions_are_models_of_one_twin_that_are_not_compared_with_each_other() -> None:
    recipe = recipe_of(STEPS | {"untrained": "random"}, {"ref": "zoo:mamba-s0"})
    models = models_of(recipe)
    assert [(m.name, m.ref, m.revision) for m in models.compared[:2]] == [
        ("p-step0", "EleutherAI/pythia-160m", "step0"),
        ("p-step1", "EleutherAI/pythia-160m", "step1"),
    ]
    assert [(a.name, b.name) for a, b in models.pairs] == [
        ("p-step0", "mamba-s0"),
        ("p-step1", "mamba-s0"),
    ]
    assert [m.name for m in models.all] == ["p-step0", "p-step1", "mamba-s0", "p-untrained"]
    twin = models.untrained["p-step1"]
    assert (twin.ref, twin.revision) == ("EleutherAI/pythia-160m#untrained=0", "step0")
    rehearsed = weights_of(models_of(recipe.rehearsal(2048)).all[:2], random=True)
    assert rehearsed[0].contents() != rehearsed[1].contents()
    assert revisions_of(recipe)["p"][1] == {"name": "p-step1", "revision": "step1"}


def test_pairs_may_ask_for_more_of_revisions() -> None:
    pairs = [["p-step0", "p-step1"], ["p", "mamba-s0"]]
    models = models_of(recipe_of(STEPS, {"ref": "zoo:mamba-s0"}, pairs=pairs))
    assert len(models.pairs) == 3
    with pytest.raises(InputError, match="all models have revisions: say in pairs"):
        recipe_of(STEPS, STEPS | {"name": "q"})


def test_a_revision_stands_in_a_path(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "runs" / "tiny").mkdir(parents=True)
    monkeypatch.chdir(tmp_path)
    tiny = {"ref": "runs/tiny/{revision}", "revisions": ["10", "20"]}
    zoo = {"ref": "zoo:transformer-{revision}", "revisions": ["random", "s0"]}
    compared = models_of(recipe_of(tiny, zoo, {"ref": "zoo:mamba-s0"})).compared
    assert [(m.name, m.ref, m.revision) for m in compared] == [
        ("tiny-10", "runs/tiny/10", None),
        ("tiny-20", "runs/tiny/20", None),
        ("transformer-random", "zoo:transformer-random", None),
        ("transformer-s0", "zoo:transformer-s0", None),
        ("mamba-s0", "zoo:mamba-s0", None),
    ]


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"revision": "main"}, "no revision beside them"),
        ({"revisions": ["a", "a"]}, "each once"),
        ({"revisions": None, "ref": "x/{revision}"}, "stands for one of revisions"),
        ({"saes": "saes/{layer}"}, "put {revision} in saes"),
    ],
)
def test_revisions_that_cannot_be(change: dict[str, Any], words: str) -> None:
    with pytest.raises(InputError, match=words):
        recipe_of(STEPS | change, {"ref": "zoo:mamba-s0"})


def test_the_recipe_over_training() -> None:
    recipe = load_recipe("pythia-over-training")
    models = models_of(recipe)
    assert len(models.compared) == 13 and len(models.pairs) == 12 and len(models.all) == 15
    models_of(recipe.rehearsal(2048))
