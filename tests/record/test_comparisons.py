"""Who is compared with whom, and in which order comparisons stand."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace

import pytest

from homolog.record import comparisons
from homolog.record.comparisons import (
    COMPARISONS,
    MAIN,
    RANDOM_MODEL,
    ROTATED,
    SAE_SEED,
    TOKENS,
    colour_of,
    comparison_of,
    in_order,
    planned,
    register,
    shown,
    with_role,
)
from homolog.record.sides import Models, Side, StudyModel

A, B, C = (
    StudyModel(f"zoo:{name}", "compared", labels=("sae", "seed1"), derived=("rotated",))
    for name in "abc"
)
TWIN = StudyModel("zoo:twin", "untrained twin")
SEED = StudyModel("zoo:seed", "another seed")


def pairs_of(models: Models, left_out: tuple[str, ...] = ()) -> dict[str, list[tuple[str, str]]]:
    """The pairs of sides of every comparison, in words."""
    pairs: dict[str, list[tuple[str, str]]] = {}
    for plan in planned(models, left_out):
        pairs.setdefault(plan.comparison.name, []).append((plan.a.words, plan.b.words))
    return pairs


@pytest.fixture
def fresh() -> Iterator[None]:
    """What a test registers is gone after it."""
    before = list(COMPARISONS)
    yield
    COMPARISONS[:] = before


def test_two_models_with_all_controls() -> None:
    assert pairs_of(Models((A, B), {"a": TWIN}, {"b": SEED})) == {
        "main": [("a", "b")],
        "main-seed": [("a", "b@seed1"), ("b", "a@seed1")],
        "random-model": [("b", "twin")],
        "own-random": [("a", "twin")],
        "rotated": [("a", "b@rotated"), ("b", "a@rotated")],
        "sae-seed": [("a", "a@seed1"), ("b", "b@seed1")],
        "tokens": [("a", "current-token"), ("b", "current-token")],
        "model-seed": [("b", "seed")],
        "neurons": [("a", "b")],
        "neurons-random": [("b", "twin")],
    }


def test_what_is_turned_off_or_has_no_models_is_left_out() -> None:
    plain = StudyModel("zoo:plain", "compared")
    models = Models((A, plain), {}, {})
    left = ("rotated", "current_token", "neurons")
    assert pairs_of(models, left) == {
        "main": [("a", "plain")],
        "main-seed": [("plain", "a@seed1")],
        "sae-seed": [("a", "a@seed1")],
    }


def test_only_the_chosen_pairs_are_compared() -> None:
    models = Models((A, B, C), {}, {}, (("a", "c"), ("c", "b")))
    assert pairs_of(models)["main"] == [("a", "c"), ("b", "c")]
    assert ("a", "b@rotated") not in pairs_of(models)["rotated"]


def test_the_result_is_repeated_with_every_further_seed() -> None:
    three = tuple(replace(model, labels=("sae", "seed1", "seed2")) for model in (A, B))
    pairs = pairs_of(Models(three, {}, {}), ("rotated", "current_token", "neurons"))
    assert pairs == {
        "main": [("a", "b")],
        "main-seed": [("a", "b@seed1"), ("a", "b@seed2"), ("b", "a@seed1"), ("b", "a@seed2")],
        "sae-seed": [("a", "a@seed1"), ("b", "b@seed1")],
        "sae-seeds": [("a", "a@seed2"), ("b", "b@seed2")],
    }


def test_a_twin_that_two_models_share_is_met_once_and_worked_on_once() -> None:
    models = Models((A, B, C), {"a": TWIN, "b": TWIN}, {})
    assert [model.name for model in models.all] == ["a", "b", "c", "twin"]
    assert sorted(pairs_of(models)["random-model"]) == [("a", "twin"), ("b", "twin"), ("c", "twin")]
    assert pairs_of(models)["main"] == [("a", "b"), ("a", "c"), ("b", "c")]


def test_keys_are_unique_file_names() -> None:
    keys = [plan.key for plan in planned(Models((A, B), {"a": TWIN}, {"b": SEED}))]
    assert len(set(keys)) == len(keys) and "rotated.a@sae.b@rotated" in keys


def test_figures_show_skylines_then_results_then_baselines_then_neurons() -> None:
    names = [comparison.name for comparison in COMPARISONS]
    assert in_order([*names, "unknown"]) == [
        "sae-seed",
        "model-seed",
        "main",
        "main-seed",
        "sae-seeds",
        "random-model",
        "own-random",
        "rotated",
        "frozen-encoder",
        "tokens",
        "unknown",
        "neurons",
        "neurons-random",
    ]
    assert shown(["main-seed", "rotated", "main"]) == ["main", "rotated"]


def test_an_unknown_comparison_has_its_name_and_a_spare_colour() -> None:
    assert comparison_of("unknown").plain == "unknown"
    assert colour_of("unknown") in comparisons.SPARE_COLOURS
    assert colour_of("main") == MAIN.colour


def test_one_more_is_registered_once(fresh: None) -> None:
    register(replace(ROTATED, name="mirrored", pairs=lambda m: [(Side(A), Side(B, "mirrored"))]))
    assert with_role("baseline")[-1] == "mirrored"
    assert pairs_of(Models((A, B), {}, {}))["mirrored"] == [("a", "b@mirrored")]
    with pytest.raises(ValueError, match="is there already"):
        register(ROTATED)


def test_within_a_sentence_a_partner_has_its_name() -> None:
    assert RANDOM_MODEL.in_sentence() == "an untrained model"
    assert RANDOM_MODEL.in_sentence("mamba-s0") == "an untrained mamba-s0"
    assert ROTATED.in_sentence() == "a rotated dictionary"
    assert ROTATED.in_sentence("{}") == "{} with rotated dictionaries"
    for partner in ("", "mamba-s0"):
        assert TOKENS.in_sentence(partner) == "the current token"
        assert SAE_SEED.in_sentence(partner) == "a second dictionary seed of the same model"
