"""Recipes are values: complete, checked, hashed; mistakes are named with what was meant."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from pydantic import ValidationError

from homolog.dictionaries import KINDS, parse_config
from homolog.errors import InputError
from homolog.pipeline.recipes import load_recipe, parse_recipe
from homolog.record.built_in import built_in_recipes
from homolog.record.recipe import Sae

SMALLEST = """
[[models]]
ref = "zoo:transformer-s0"
[[models]]
ref = "zoo:mamba-s0"
[corpus]
source = "text.txt"
train_tokens = 1000
match_tokens = 20_000
[sae]
d_sae = 8
l1 = 1.0
"""


def change(**tables: dict[str, Any]) -> dict[str, Any]:
    """The demo's values with some keys replaced; a value of None takes the key away."""
    values = load_recipe("demo").values()
    for model in values["models"]:
        model["untrained_sae"] = {}  # which is for the demo's kind alone
    for table, changes in tables.items():
        merged = values.get(table, {}) | changes
        values[table] = {key: value for key, value in merged.items() if value is not None}
    return values


def alike(**tables: dict[str, Any]) -> dict[str, Any]:
    """The same, without numbers that only some of the models are trained with."""
    values = change(**tables)
    return values | {"models": [model | {"untrained_sae": {}} for model in values["models"]]}


def test_every_built_in_recipe_loads() -> None:
    over = ["pythia-410m-over-training", "pythia-over-training"]
    assert built_in_recipes() == [
        "controls",
        "demo",
        "dictionary-grid",
        "grid",
        "over-training",
        "paper",
        "paper-2.8b",
        *over,
        "small-pair",
        "witnesses",
    ]
    for name in built_in_recipes():
        assert load_recipe(name).name == name


def test_the_paper_recipe_has_the_papers_settings() -> None:
    recipe = load_recipe("paper")
    assert [model.ref for model in recipe.models] == [
        "EleutherAI/pythia-160m",
        "state-spaces/mamba-130m-hf",
    ]
    assert recipe.sae.width(768) == 32 * 768 == 24_576
    assert (recipe.corpus.match_tokens, recipe.corpus.neuron_tokens) == (1_000_000, 100_000)
    assert (recipe.corpus.context, recipe.corpus.seed, recipe.sae.kind) == (1024, 42, "relu")


def test_a_file_takes_its_name_and_the_defaults(tmp_path: Path) -> None:
    path = tmp_path / "mine.toml"
    path.write_text(SMALLEST)
    recipe = load_recipe(path)
    assert recipe.name == "mine"
    assert recipe.run.device == "cpu"
    assert parse_recipe(recipe.values(), "run.json") == recipe


def test_the_hash_follows_the_contents() -> None:
    recipe = load_recipe("demo")
    assert recipe.hash == load_recipe("demo").hash
    assert recipe.with_run().hash == recipe.hash
    assert recipe.with_run(seed=1).hash != recipe.hash
    assert recipe.with_run(device="cuda").run.device == "cuda"


def test_a_recipe_is_frozen() -> None:
    with pytest.raises(ValidationError, match="frozen"):
        load_recipe("demo").run.seed = 1  # type: ignore[misc]


@pytest.mark.parametrize(
    ("tables", "field", "meant"),
    [
        ({"corpus": {"contxt": 64}}, "corpus.contxt", "Did you mean 'context'"),
        ({"sae": {"epoch": 3}}, "sae.epoch", "Did you mean 'epochs'"),
        ({"match": {"resamples": 3}}, "match", "Did you mean 'matching'"),
    ],
)
def test_an_unknown_key_names_the_nearest(tables: dict[str, Any], field: str, meant: str) -> None:
    with pytest.raises(InputError) as raised:
        parse_recipe(change(**tables), "mine.toml")
    assert raised.value.field == f"mine.toml: {field}"
    assert meant in raised.value.remedy


@pytest.mark.parametrize(
    ("tables", "message"),
    [
        ({"sae": {"l1": -1.0}}, r"sae\.l1 is -1\.0"),
        ({"sae": {"l1": None}}, "needs l1"),
        ({"sae": {"expansion": 4}}, "exactly one of d_sae and expansion"),
        ({"sae": {"kind": "topk"}}, "needs k or target_l0, and no l1"),
        ({"sae": {"kind": "jumprelu"}}, 'kind "jumprelu" needs l0 or target_l0, and no l1 or k'),
        ({"sae": {"kind": "gated", "k": 3}}, 'kind "gated" needs l1 or target_l0, and no l0 or k'),
        ({"sae": {"kind": "batchtopk", "l1": None, "k": 0}}, r"sae\.k is 0"),
        ({"sae": {"kind": "softmax"}}, r"sae\.kind is 'softmax'"),
        ({"sae": {"seeds": [3, 3]}}, "different from each other"),
        ({"sae": {"seeds": [3]}}, "controls.sae_seed needs two seeds"),
        ({"corpus": {"context": 0}}, r"corpus\.context is 0"),
        ({"corpus": {"source": None}}, r"corpus\.source is None, but it is required"),
        ({"corpus": {"neuron_tokens": 10**9}}, "match tokens, not more"),
        ({"run": {"seed": "zero"}}, r"run\.seed is 'zero'"),
        (
            {"interpretation": {"flow_r": 0.8, "flow_kept_r": 0.7}},
            r"flow_kept_r is 0\.7, but .* flow_r, 0\.8, or more\. Raise it, or lower flow_r",
        ),
    ],
)
def test_unusable_values_are_named(tables: dict[str, Any], message: str) -> None:
    with pytest.raises(InputError, match=message):
        parse_recipe(change(**tables), "mine.toml")


@pytest.mark.parametrize(
    ("kind", "key", "value"),
    [
        ("relu", "l1", 2.0),
        ("topk", "k", 9),
        ("batchtopk", "k", 9),
        ("jumprelu", "l0", 0.5),
        ("gated", "l1", 2.0),
    ],
)
def test_every_kind_takes_the_key_that_makes_it_sparse(kind: str, key: str, value: float) -> None:
    recipe = parse_recipe(alike(sae={"kind": kind, "l1": None, key: value}), "mine.toml")
    config = parse_config(recipe.sae.config(128))
    assert (type(config), config.d_sae, getattr(config, key)) == (KINDS[kind].Settings, 768, value)
    assert parse_recipe(recipe.values(), "run.json") == recipe


def test_every_kind_is_a_kind_of_the_recipe_and_keeps_no_other_kinds_settings() -> None:
    for name, kind in KINDS.items():
        sae = {"kind": name, "l1": None, kind.sparsity: 3}
        values = parse_recipe(alike(sae=sae), "mine.toml").values()["sae"]
        own = {*Sae.model_fields, *kind.Settings.model_fields}
        assert values.keys() <= own and values[kind.sparsity] == 3, name


def test_models_may_differ_in_numbers_of_their_training() -> None:
    recipe = load_recipe("demo")
    assert recipe.models[1].untrained_sae == {"l1": 1.0}
    values = recipe.values()
    for own, words in (
        ({"k": 3}, r"models.1.untrained_sae.k is 3, but \[sae\] has no such key.*Did you mean"),
        ({"l1": -1}, r"models.1.untrained_sae.l1 is -1"),
    ):
        models = [values["models"][0], values["models"][1] | {"untrained_sae": own}]
        with pytest.raises(InputError, match=words):
            parse_recipe(values | {"models": models}, "mine.toml")


def test_pairs_are_of_the_models_of_the_recipe() -> None:
    values = load_recipe("demo").values() | {"pairs": [["zoo:gpt-neox-s0", "zoo:other"]]}
    with pytest.raises(InputError, match=r"pairs names zoo:other, which is none of models"):
        parse_recipe(values, "mine.toml")


def bring(**saes: str) -> dict[str, Any]:
    values = load_recipe("demo").values()
    return values | {
        "models": [values["models"][0] | saes, values["models"][1] | {"saes": "theirs/{layer}"}]
    }


def test_models_that_bring_dictionaries_need_no_seeds_to_train() -> None:
    sae = load_recipe("demo").values()["sae"] | {"seeds": [0]}
    recipe = parse_recipe(
        bring(saes="hf:a/b/{layer}", saes_seed="c/{layer}") | {"sae": sae}, "mine.toml"
    )
    assert recipe.models[0].saes == "hf:a/b/{layer}" and recipe.models[1].saes_seed is None
    with pytest.raises(InputError, match=r"controls.sae_seed needs two seeds"):
        parse_recipe(bring() | {"sae": sae}, "mine.toml")
    rehearsed = recipe.rehearsal(20_000).models
    assert (
        [model.saes for model in rehearsed]
        == [model.saes_seed for model in rehearsed]
        == [None, None]
    )


@pytest.mark.parametrize(
    "saes", [{"saes_seed": "a/{layer}"}, {"saes": "a/{layer}", "saes_seed": "a/{layer}"}]
)
def test_a_second_seed_needs_a_first_and_differs(saes: dict[str, str]) -> None:
    with pytest.raises(InputError, match="saes_seed needs saes, and must be other dictionaries"):
        parse_recipe(bring(**saes), "mine.toml")


def test_keys_of_a_model_are_checked_and_two_are_needed() -> None:
    values = load_recipe("demo").values()
    with pytest.raises(InputError, match="Did you mean 'revision'") as raised:
        parse_recipe(
            values | {"models": [*values["models"], {"ref": "x/y", "revison": "main"}]}, "mine.toml"
        )
    assert raised.value.field == "mine.toml: models.2.revison"
    with pytest.raises(InputError, match="at least 2 items"):
        parse_recipe(values | {"models": values["models"][:1]}, "mine.toml")


def test_a_rehearsal_keeps_the_sizes_and_shrinks_the_counts() -> None:
    paper = load_recipe("paper")
    small = paper.rehearsal(20_000)
    assert (small.models, small.sae.d_sae, small.sae.seeds) == (
        paper.models,
        24_576,
        paper.sae.seeds,
    )
    assert (small.corpus.match_tokens, small.corpus.neuron_tokens, small.corpus.source) == (
        20_000,
        2_000,
        "zoo:demo",
    )
    assert (
        small.run.random_weights and small.run.device == "cpu" and small.name == "paper-rehearsal"
    )


def test_a_rehearsal_of_some_blocks_keeps_names_and_pairs() -> None:
    values = load_recipe("demo").values()
    values["models"][0] |= {"name": "neox", "layers": "0.5"}
    values["pairs"] = [["neox", "zoo:mamba-1-s0"]]
    small = parse_recipe(values, "mine.toml").rehearsal(2_000, blocks=2)
    a, b = small.models
    assert (a.ref, a.untrained, a.other_seed) == (
        "zoo:gpt-neox-s0#blocks=2",
        "zoo:gpt-neox-s0#blocks=2:1",  # drawn from another seed
        "zoo:gpt-neox-s1#blocks=2",
    )
    assert (a.name, b.name) == ("neox", "mamba-1-s0") == small.chosen[0]
    assert a.layers == b.layers == "all"


def test_no_such_recipe() -> None:
    listed = "Built in: controls, demo, dictionary-grid, grid, over-training, paper"
    with pytest.raises(InputError, match=listed):
        load_recipe("dmeo")


def test_text_that_is_not_toml(tmp_path: Path) -> None:
    path = tmp_path / "mine.toml"
    path.write_text("[corpus\na = 1")
    with pytest.raises(InputError, match=r"must be TOML: .*line 1"):
        load_recipe(path)


def test_width_by_expansion() -> None:
    recipe = parse_recipe(change(sae={"d_sae": None, "expansion": 6}), "mine.toml")
    assert recipe.sae.width(128) == 768
