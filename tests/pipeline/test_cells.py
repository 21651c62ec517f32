"""The cells of a grid: their names and recipes, and what users get wrong."""

from __future__ import annotations

from typing import Any

import pytest

from homolog.errors import InputError
from homolog.pipeline.cells import cells_of
from homolog.pipeline.recipes import load_recipe, parse_recipe
from homolog.pipeline.run_study import run_study
from homolog.progress import SilentProgress


def with_grid(**grid: Any) -> dict[str, Any]:
    """The demo with a grid."""
    return load_recipe("demo").values() | {"grid": grid}


RELU, TOPK = {"l1": 2.0}, {"kind": "topk", "k": 16, "untrained": {"k": 64}}


def test_a_cell_for_each_kind_and_width() -> None:
    recipe = parse_recipe(with_grid(dictionaries=[RELU, TOPK], d_sae=[96, 192], seeds=4), "mine")
    cells = cells_of(recipe)
    assert [cell.name for cell in cells] == [
        "relu-2-96",
        "topk-16-96",
        "relu-2-192",
        "topk-16-192",
    ]
    assert [cell.number for cell in cells] == [0, 1, 0, 1]
    relu, topk = (cell.recipe.sae for cell in cells[:2])
    assert (relu.of_kind, relu.d_sae) == ({"kind": "relu", "l1": 2.0}, 96)
    assert (topk.of_kind, topk.d_sae) == ({"kind": "topk", "k": 16}, 96)  # and no l1 of the relu
    assert relu.seeds == topk.seeds == (0, 1, 2, 3)
    assert relu.training == topk.training == recipe.sae.training
    # the demo's mamba has an untrained twin with an l1 of its own, which a TopK cannot have; the
    # twin of its transformer is trained as all others are
    twins = [[model.untrained_sae for model in cell.recipe.models] for cell in cells[:2]]
    assert twins == [[{}, {"l1": 1.0}], [{}, {"k": 64}]]


def test_a_cell_is_a_study_that_asks_for_the_verdict_alone() -> None:
    recipe = parse_recipe(with_grid(dictionaries=[RELU]), "mine")
    (cell,) = cells_of(recipe)
    assert cell.name == cell.recipe.name == "relu-2-768"  # the width and seeds are those of [sae]
    assert cell.recipe.sae.seeds == recipe.sae.seeds
    own = cell.recipe
    assert (own.grid, own.interpretation, own.circuits, own.controls.neurons) == (
        None,
        None,
        None,
        False,
    )
    assert parse_recipe(own.values(), "run.json") == own
    assert (own.corpus, own.gates) == (recipe.corpus, recipe.gates)


def test_what_else_a_table_changes_stands_in_the_name() -> None:
    grid = with_grid(dictionaries=[RELU, RELU | {"lr": 0.001}])
    names = [cell.name for cell in cells_of(parse_recipe(grid, "mine"))]
    assert names == ["relu-2-768", "relu-2-lr-0.001-768"]


@pytest.mark.parametrize(
    ("grid", "field", "message"),
    [
        ({}, "grid.dictionaries", "it is required"),
        ({"dictionaries": []}, "grid.dictionaries", "at least 1 item"),
        ({"dictionaries": [RELU], "d_sae": []}, "grid.d_sae", "at least 1 item"),
        ({"dictionaries": [RELU], "seeds": 1}, "grid.seeds", "greater than or equal to 2"),
        ({"dictionaries": [RELU], "widths": [3]}, "grid.widths", "no such key. Did you mean"),
        ({"dictionaries": [RELU, {"epoch": 1}]}, "grid.dictionaries.1.epoch", "'epochs'"),
        ({"dictionaries": [{"kind": "topc"}]}, "grid.dictionaries.0.kind", "'topc'"),
        ({"dictionaries": [{"kind": "topk"}]}, "grid.dictionaries.0", "needs k or target_l0"),
        ({"dictionaries": [RELU | {"k": 3}]}, "grid.dictionaries.0", "needs l1 or target_l0"),
        ({"dictionaries": [{"l1": -1.0}]}, "grid.dictionaries.0.l1", "-1.0"),
        ({"dictionaries": [{"lr": -1.0}]}, "grid.dictionaries.0.lr", "greater than 0"),
        ({"dictionaries": [{"d_sae": 3}]}, "grid.dictionaries.0", "the same for all dictionaries"),
        ({"dictionaries": [RELU, RELU]}, "grid.dictionaries.1", "two cells of a grid have"),
        (
            {"dictionaries": [{"kind": "topk", "k": 16}]},
            "models.1.untrained_sae.l1",
            "no such key",
        ),
    ],
)
def test_what_cannot_be_is_named_as_it_was_written(
    grid: dict[str, Any], field: str, message: str
) -> None:
    with pytest.raises(InputError) as raised:
        parse_recipe(with_grid(**grid), "mine.toml")
    assert raised.value.field == f"mine.toml: {field}"
    assert message in str(raised.value)


def test_what_a_grid_cannot_do_to_models_and_where_it_does_not_run(tmp_path: Any) -> None:
    values = with_grid(dictionaries=[RELU])
    values["models"][0]["saes"] = "theirs/{layer}"
    with pytest.raises(InputError, match="a grid trains the dictionaries of all models"):
        parse_recipe(values, "mine.toml")
    values = with_grid(dictionaries=[TOPK])
    for model in values["models"]:
        model["untrained_sae"] = {}
    with pytest.raises(InputError, match="replaces untrained_sae, which no model has"):
        parse_recipe(values, "mine.toml")
    with pytest.raises(InputError, match="a study is one cell of a grid"):
        recipe = parse_recipe(with_grid(dictionaries=[RELU]), "mine.toml")
        run_study(recipe, tmp_path / "run", SilentProgress())
