"""`untrained = "random"`: a twin of a model's own configuration, with weights of the run's seed."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
import torch
from tests.pipeline.outcome import beside_the_zoo, told
from transformers import AutoConfig, AutoModelForCausalLM

from homolog.analyses.material import Material
from homolog.dictionaries import load
from homolog.pipeline import Study
from homolog.pipeline.inputs import weights_input
from homolog.pipeline.models import models_of
from homolog.pipeline.run_study import run_study
from homolog.progress import SilentProgress
from homolog.record.recipe import Recipe
from homolog.record.run_folder import RunFolder
from homolog.zoo import catalog

TWIN = {"untrained": "random"}
FEWER = {"untrained_sae": {"tokens": 1024}}


class Stopping(SilentProgress):
    """Ctrl-C when the twin's dictionaries are trained."""

    @contextmanager
    def stage(self, name: str, total: float | None = None) -> Iterator[Stopping]:
        if name == "train dictionaries of own-untrained":
            raise KeyboardInterrupt
        yield self


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A Transformer in a folder, with the zoo's tokenizer."""
    shutil.copytree(catalog.entry("transformer-s1").folder, tmp_path / "own")
    return Path(shutil.copytree(catalog.TOKENIZER, tmp_path / "own", dirs_exist_ok=True))


def asked(folder: Path, seed: int = 3) -> Recipe:
    controls = {"neurons": False, "sae_seed": False, "stability": False}
    recipe = beside_the_zoo(folder, TWIN, 1.0, controls=controls)
    first = recipe.models[0].values() | {"ref": "zoo:mamba-s0"} | TWIN | FEWER
    return recipe.changed(models=[first, recipe.models[1].values()], run={"seed": seed})


def weights_of_twin(folder: Path, seed: int, name: str, **run: object) -> dict[str, torch.Tensor]:
    recipe = asked(folder, seed).changed(run=run)
    models = models_of(recipe)
    return Material(folder, recipe, models).model(models.untrained[name]).hf.state_dict()


def test_its_weights_are_those_that_transformers_draws_from_the_seed(folder: Path) -> None:
    torch.manual_seed(3)
    config = AutoConfig.from_pretrained(folder)
    by_hand = AutoModelForCausalLM.from_config(config, dtype=torch.float32).state_dict()
    made = weights_of_twin(folder, 3, "own")
    assert made.keys() == by_hand.keys()
    assert all(torch.equal(made[name], weight) for name, weight in by_hand.items())
    half = weights_of_twin(folder, 3, "own", dtype="bfloat16")
    embedding = "gpt_neox.embed_in.weight"
    assert torch.equal(half[embedding], by_hand[embedding].bfloat16())
    other = weights_of_twin(folder, 4, "own")[embedding]
    assert not torch.equal(other, by_hand[embedding])
    mamba = weights_of_twin(folder, 3, "mamba-s0")
    assert not torch.equal(mamba["backbone.embeddings.weight"], by_hand[embedding])


def test_its_name_and_what_is_read_of_it(folder: Path) -> None:
    models = models_of(asked(folder))
    twin = models.untrained["own"]
    assert (twin.name, twin.ref) == ("own-untrained", f"{folder}#untrained=3")
    assert [m.name for m in models.all][2:] == ["mamba-s0-untrained", "own-untrained"]
    before = weights_input(twin.ref)
    assert before.files == (folder / "config.json",)
    (folder / "model.safetensors").unlink()  # the weights of the model are nothing to the twin
    assert weights_input(twin.ref).contents() == before.contents()
    assert weights_input(f"{folder}#untrained=4").contents() != before.contents()


def test_a_twin_of_a_revision_and_of_a_changed_model(folder: Path) -> None:
    entries = [
        {"ref": "EleutherAI/pythia-160m", "revision": "step9", "name": "p"} | TWIN,
        {"ref": "zoo:mamba-s0#noise=0.1", "name": "shaken"} | TWIN,
    ]
    recipe = asked(folder).changed(models=entries)
    twins = models_of(recipe).untrained
    assert (twins["p"].ref, twins["p"].revision) == ("EleutherAI/pythia-160m#untrained=3", "step9")
    assert twins["shaken"].ref == "zoo:mamba-s0#untrained=3"
    rehearsed = models_of(recipe.rehearsal(2048)).untrained["p"]
    assert weights_input(rehearsed.ref, rehearsed.revision, random=True).contents()


@pytest.mark.slow
def test_a_study_with_such_twins_goes_on_to_its_report(folder: Path) -> None:
    out = folder.parent / "run"
    with pytest.raises(KeyboardInterrupt):
        run_study(asked(folder), out, Stopping())
    page = run_study(asked(folder), out, SilentProgress())
    study = Study.load(out)
    rows = study.summary.filter(comparison="random-model", stratum="all")
    assert set(rows["best_model"]) >= {"own-untrained", "mamba-s0-untrained"}
    assert study.run["controls"] == {"mamba-s0": ["mamba-s0-untrained"], "own": ["own-untrained"]}
    assert "untrained twin of own, with random weights" in told(page.parent)
    learnt = {
        name: load(RunFolder(out).sae_folder(name, 0)).metadata["tokens_trained"]
        for name in ("mamba-s0", "mamba-s0-untrained", "own-untrained")
    }
    every = asked(folder).corpus.train_tokens
    assert learnt == {"mamba-s0": every, "mamba-s0-untrained": 1024, "own-untrained": every}
