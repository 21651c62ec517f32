"""What a run will cost: sizes against loaded models, costs against arithmetic by hand."""

from __future__ import annotations

import io
from pathlib import Path
from typing import Any

import pytest
import torch
from typer.testing import CliRunner

import homolog
from homolog import cli
from homolog.analyses.exclusive import REGRESSED
from homolog.analyses.overlay import OVERLAID
from homolog.analyses.work import CELL
from homolog.models import Site
from homolog.models.load import has_weights
from homolog.models.size import size_of
from homolog.pipeline import pace as pacing
from homolog.pipeline.costs import (
    ADAM,
    CHOICE,
    ENTRY,
    PASS,
    PROCESS,
    RESAMPLED,
    SPARSE,
    Costs,
    Stage,
    expected_seconds,
)
from homolog.pipeline.pace import ELEMENT, SCAN, Pace, PassPace, measured_pace, timed_pass
from homolog.pipeline.plan import Plan, Room, pace_heard, say_plan
from homolog.pipeline.recipes import load_recipe, parse_recipe
from homolog.progress import LineProgress, SilentProgress
from homolog.record.recipe import Recipe

PACE = Pace(products=1e9, training=2e9, threads=2)
TOKENS, WIDTH, K, D_MODEL = 10_000, 512, 8, 128


def recipe_of(**changes: Any) -> Recipe:
    """Two zoo models with TopK dictionaries, so that L0 is known."""
    values: dict[str, Any] = {
        "name": "small",
        "models": [{"ref": "zoo:transformer-s0"}, {"ref": "zoo:mamba-s0"}],
        "corpus": {
            "source": "zoo:demo",
            "context": 64,
            "train_tokens": 1000,
            "match_tokens": TOKENS,
            "quality_tokens": 100,
        },
        "sae": {"kind": "topk", "k": K, "d_sae": WIDTH, "seeds": [0]},
        "controls": {"sae_seed": False, "stability": False, "neurons": False, "rotated": False},
        "matching": {"space_tokens": 0, "null_exchanges": 1},
    }
    return parse_recipe(values | changes, "recipe")


def stage(recipe: Recipe, title: str, pace: Pace = PACE) -> Stage:
    return next(stage for stage in Costs(recipe, pace).stages if stage.title == title)


@pytest.mark.parametrize("block", [1e-7, 1e-5, 1e-3])
def test_a_pass_is_timed_in_seconds(block: float, monkeypatch: pytest.MonkeyPatch) -> None:
    """By a clock that passes alone move: two windows, then as many as take a second."""
    now, model = 0.0, homolog.load("zoo:transformer-s0")
    run, continue_from = model.run, model.continue_from

    def blocks(tokens: torch.Tensor, capture: list[Site], stop_after: Site) -> Any:
        nonlocal now
        assert stop_after == Site("resid", 3) and capture == [stop_after]
        now += tokens.numel() * 4 * block
        return run(tokens, capture=capture, stop_after=stop_after)

    def read_out(layer: int, h: torch.Tensor) -> torch.Tensor:
        nonlocal now
        assert layer == 3
        now += h.shape[0] * h.shape[1] * block
        return continue_from(layer, h)

    monkeypatch.setattr(model, "run", blocks)
    monkeypatch.setattr(model, "continue_from", read_out)
    timed = timed_pass(model, 64, lambda: now)
    assert timed.block == pytest.approx(block) and timed.read_out == pytest.approx(block)
    assert now < 1.5 + 4 * 64 * 4 * block


def timed_recipe(**changes: Any) -> tuple[Recipe, Pace]:
    """The recipe on a machine where both models were timed; the four blocks and the eight."""
    sizes = [size_of("zoo:transformer-s0"), size_of("zoo:mamba-s0")]
    passes = dict(zip(sizes, [PassPace(1e-3, 5e-3), PassPace(2e-3, 7e-3)], strict=True))
    return recipe_of(**changes), Pace(products=1e30, training=1e30, passes=passes)


def test_reading_by_hand_where_passes_were_timed() -> None:
    recipe, pace = timed_recipe()
    assert stage(recipe, "read transformer-s0", pace).seconds == pytest.approx(1000 * 4 * 1e-3)
    assert stage(recipe, "read mamba-s0", pace).seconds == pytest.approx(1000 * 8 * 2e-3)
    norms, sinks = (stage(recipe, f"{what} of mamba-s0", pace) for what in ("norms", "sinks"))
    assert norms.seconds == pytest.approx(100 * 8 * 2e-3)
    assert sinks.seconds == pytest.approx(TOKENS * 8 * 2e-3)
    kept, _ = timed_recipe(corpus=recipe.corpus.values() | {"sinks": "keep"})
    assert not any("sinks" in stage.title for stage in Costs(kept, pace).stages)
    neurons, _ = timed_recipe(controls=recipe.controls.values() | {"neurons": True})
    assert stage(neurons, "neurons of mamba-s0", pace).seconds == sinks.seconds
    met = stage(neurons, "match transformer-s0 and mamba-s0 (neurons)", pace).seconds
    assert met == pytest.approx(2 * TOKENS * (4 * 512) * (8 * 512) / pace.double)
    some, _ = timed_recipe(
        models=[{"ref": "zoo:transformer-s0"}, {"ref": "zoo:mamba-s0", "layers": "0.5"}]
    )
    blocks = Costs(some, pace).models[1].blocks(8)[-1] + 1
    assert blocks < 8
    assert stage(some, "read mamba-s0", pace).seconds == pytest.approx(1000 * blocks * 2e-3)


def test_the_loss_that_dictionaries_recover_by_hand() -> None:
    """With 0, 1, 2 and 3 blocks to come, each replaced and ablated; before them one whole pass,
    and one for the residuals; twice as many dictionaries have twice as many losses.
    """
    losses = 2 * ((0 + 1 + 2 + 3) * 1e-3 + 4 * 5e-3)
    passes = (4 * 1e-3 + 5e-3) + 4 * 1e-3
    for seeds in ([0], [0, 1]):
        recipe, pace = timed_recipe(sae={"kind": "topk", "k": K, "d_sae": WIDTH, "seeds": seeds})
        n_labels = len(Costs(recipe, pace).models[0].labels)
        measured = 100 * (n_labels * losses + passes)
        scattered = n_labels * 4 * scattered_of(recipe)
        trained = stage(recipe, "train dictionaries of transformer-s0", pace)
        assert trained.seconds == pytest.approx(measured + scattered)


def scattered_of(recipe: Recipe) -> float:
    """Of one dictionary what is no product: steps, choices, activations, and encoding twice."""
    step = 2 * D_MODEL * WIDTH * ADAM / recipe.sae.batch
    training = 1000 * (step + WIDTH * CHOICE + K * D_MODEL * SPARSE)
    return training + 2 * 100 * (WIDTH * CHOICE + K * ENTRY)


def test_models_at_hand_are_timed_and_others_are_not_loaded(monkeypatch: Any) -> None:
    timed: list[str] = []

    def planted(model: Any, context: int) -> PassPace:
        timed.append(model.name)
        return PassPace(1.0, context)

    monkeypatch.setattr(pacing, "timed_pass", planted)
    models = [{"ref": "zoo:transformer-s0"}, {"ref": "EleutherAI/pythia-160m"}]
    models.append({"ref": "zoo:transformer-s1"})
    passes = measured_pace(recipe_of(models=models)).passes
    assert timed == ["zoo:transformer-s0"]  # the other seed is of its size
    assert passes == {size_of("zoo:transformer-s0"): PassPace(1.0, 64)}
    assert has_weights("zoo:mamba-s0") and not has_weights("EleutherAI/pythia-160m")
    assert has_weights("EleutherAI/pythia-160m#untrained=1")  # which no file holds
    monkeypatch.setattr(pacing, "MOST_PARAMETERS", 1000)
    assert measured_pace(recipe_of()).passes == {}


@pytest.mark.parametrize("name", ["transformer-s0", "mamba-s0"])
def test_a_size_by_the_configuration_is_that_of_the_loaded_model(name: str) -> None:
    size, model = size_of(f"zoo:{name}"), homolog.load(f"zoo:{name}")
    assert (size.n_layers, size.d_model) == (model.n_layers, model.d_model)
    assert size.n_parameters == model.n_parameters
    ends = {
        id(module.weight): module.weight.numel()
        for module in (model.hf.get_input_embeddings(), model.hf.get_output_embeddings())
    }
    assert size.n_inner == size.n_parameters - sum(ends.values())
    assert size.n_unembedding == 1024 * D_MODEL
    assert size.n_neurons == 512


def test_encoding_by_hand() -> None:
    """A forward pass, and a dictionary for each of the blocks."""
    size = size_of("zoo:transformer-s0")
    attention = 4 * 4 * 64 * D_MODEL
    forward = TOKENS * ((2 * size.n_inner + attention) / 1e9 + 4 * (D_MODEL + 512) * ELEMENT)
    product = TOKENS * 2 * D_MODEL * WIDTH / 2e9
    encoded = stage(recipe_of(), "encode transformer-s0")
    dictionary = product + TOKENS * (WIDTH * CHOICE + K * ENTRY)
    assert encoded.seconds == pytest.approx(forward + 4 * dictionary)
    assert encoded.kept == 4 * TOKENS * (8 * K + 12)
    assert encoded.memory > PROCESS

    mamba = size_of("zoo:mamba-s0")
    scan = 8 * 256 * 16 * SCAN
    forward = TOKENS * (2 * mamba.n_inner / 1e9 + scan + 8 * (D_MODEL + 512) * ELEMENT)
    encoded = stage(recipe_of(), "encode mamba-s0")
    assert encoded.seconds == pytest.approx(forward + 8 * dictionary)


def test_matching_by_hand() -> None:
    """4 x 8 pairs of layers, twice for one exchange of the null; nothing fires often."""
    matched = stage(recipe_of(), "match transformer-s0 and mamba-s0 (main)")
    one_pass = WIDTH**2 * CELL + TOKENS * K * K * 1e-9 + PASS
    intervals = TOKENS * (4 + 8) * 2 * K * RESAMPLED
    assert matched.seconds == pytest.approx(4 * 8 * 2 * one_pass + intervals, rel=0.01)


def test_what_a_penalty_makes_of_a_dictionary_is_a_range() -> None:
    sparse = Plan.of(recipe_of(), PACE)
    assert sparse.seconds[0] == sparse.seconds[1] == sparse.seconds[2]
    penalty = {"kind": "relu", "l1": 4.0, "d_sae": WIDTH, "seeds": [0]}
    low, expected, high = Plan.of(recipe_of(sae=penalty), PACE).seconds
    assert low < expected < high
    costs = Costs(recipe_of(sae=penalty), PACE)
    assert costs.l0(costs.models[0]) == D_MODEL / 16
    denser = [{"ref": "zoo:transformer-s0", "sae": {"l1": 1.0}}, {"ref": "zoo:mamba-s0"}]
    costs = Costs(recipe_of(sae=penalty, models=denser), PACE)
    assert costs.l0(costs.models[0]) == pytest.approx(D_MODEL / 16 * 4**1.8)


def test_more_threads_and_faster_products_take_less_time() -> None:
    slow = Plan.of(recipe_of(), PACE).seconds[1]
    assert Plan.of(recipe_of(), Pace(1e9, 2e9, 8)).seconds[1] < slow
    assert Plan.of(recipe_of(), Pace(1e10, 2e10, 2)).seconds[1] < slow


def test_a_grid_costs_what_its_cells_do() -> None:
    grid = {"dictionaries": [{"k": 8}, {"k": 8, "lr": 0.01}], "seeds": 2}
    cells = recipe_of(grid=grid)
    one = recipe_of(sae={"kind": "topk", "k": 8, "d_sae": WIDTH, "seeds": [0, 1]})
    assert Plan.of(cells, PACE).seconds[1] == pytest.approx(2 * Plan.of(one, PACE).seconds[1])
    assert Plan.of(cells, PACE).kept == pytest.approx(2 * Plan.of(one, PACE).kept)


def test_what_does_not_fit_is_named_with_what_helps() -> None:
    corpus = recipe_of().corpus.values() | {"train_tokens": 100_000_000}
    recipe = recipe_of(corpus=corpus)
    plan = Plan.of(recipe, PACE, Room(memory=2**20, disk=2**30))
    memory, disk = plan.warnings()
    assert memory.startswith("Not enough memory: to ") and "1 MiB" in memory
    assert disk.startswith("Not enough disk: the run takes about")
    assert 'sae.residuals = "bfloat16"' in disk and "fewer corpus.train_tokens" in disk
    assert list(Plan.of(recipe, PACE, Room()).warnings()) == []
    shard = recipe_of(run={"shard_mib": 2**20})
    (memory,) = Plan.of(shard, PACE, Room(memory=2**33)).warnings()
    assert "a smaller run.shard_mib" in memory


def test_stages_are_those_of_the_progress_display() -> None:
    """The demo has one of every kind; the others are named in the same places."""
    titles = list(expected_seconds(load_recipe("demo"), PACE))
    assert titles[:2] == ["norms of gpt-neox-s0", "sinks of gpt-neox-s0"]
    read = titles.index("read gpt-neox-s0")
    assert titles[read : read + 3] == [
        "read gpt-neox-s0",
        "train dictionaries of gpt-neox-s0",
        "encode gpt-neox-s0",
    ]
    assert "match gpt-neox-s0 and mamba-1-s0 (main)" in titles
    assert "cut left context" in titles and titles[-1] == "write the report"
    assert any(title.startswith("trace") or "mamba-1-s0" in title for title in titles[-4:])


def test_a_plan_runs_nothing_and_leaves_nothing(tmp_path: Path) -> None:
    out = tmp_path / "run"
    done = CliRunner().invoke(cli.app, ["run", "demo", "--plan", "--out", str(out)])
    assert done.exit_code == 0 and not out.exists()
    for words in ("What demo (6 models, on cpu) will cost", "match features", "in all", "GiB"):
        assert words in done.stdout


def test_a_plan_is_said_where_somebody_listens(tmp_path: Path) -> None:
    said: list[str] = []

    class Listening:
        def note(self, text: str) -> None:
            said.append(text)

        plan, stage = SilentProgress.plan, SilentProgress.stage

    say_plan(recipe_of(), tmp_path, SilentProgress(), PACE)
    assert not said
    say_plan(recipe_of(), tmp_path, Listening(), PACE)  # type: ignore[arg-type]
    assert said[0].startswith("What small (2 models, on cpu) will cost")
    said.clear()
    unknown = recipe_of(models=[{"ref": "zoo:none"}, {"ref": "zoo:mamba-s0"}])
    say_plan(unknown, tmp_path, Listening(), PACE)  # type: ignore[arg-type]
    assert not said and expected_seconds(unknown, PACE) == {}


def test_the_pace_is_measured_where_somebody_listens(monkeypatch: Any) -> None:
    monkeypatch.setattr("homolog.pipeline.plan.measured_pace", lambda _recipe, threads: PACE)
    assert pace_heard(recipe_of(), LineProgress(io.StringIO()), None) is PACE
    assert pace_heard(recipe_of(), SilentProgress(), None) == Pace()


def test_an_analysis_says_what_it_takes_by_hand() -> None:
    """All features of both models with one model of partners each; 24 regressions a direction."""
    recipe, pace = timed_recipe(interpretation={"listed": 12, "context_tokens": 500})
    n_features, activations = (4 + 8) * WIDTH, (4 + 8) * K * TOKENS
    overlaid = stage(recipe, "lay activations over each other", pace).seconds
    assert overlaid == pytest.approx(1 + n_features * OVERLAID)
    regressed = stage(recipe, "regress exclusive features", pace).seconds
    assert regressed == pytest.approx(1 + 2 * 12 * activations * REGRESSED)
    cut = stage(recipe, "cut left context", pace).seconds
    assert cut == pytest.approx(1 + 500 * (4 * 1e-3 + 5e-3 + 8 * 2e-3 + 7e-3))
