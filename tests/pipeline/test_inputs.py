"""A run goes on with what it began with: other text, weights, tokenizers or dictionaries of the
same path are told.
"""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
from safetensors.torch import load_file, save_file

from homolog.errors import InputError
from homolog.models import load
from homolog.pipeline.circuits import run_circuits
from homolog.pipeline.inputs import saes_input, text_input, tokenizer_input, weights_input
from homolog.pipeline.recipes import load_recipe, parse_circuits, parse_recipe, parse_saes
from homolog.pipeline.run_study import finished_report, run_study
from homolog.pipeline.sae import train_saes
from homolog.progress import SilentProgress
from homolog.record.recipe import Recipe
from homolog.reference import resolve
from homolog.zoo import catalog


class Stopping(SilentProgress):
    """Ctrl-C when a stage begins."""

    def __init__(self, stage: str) -> None:
        self.stop = stage

    @contextmanager
    def stage(self, name: str, total: float | None = None) -> Iterator[Stopping]:
        if name == self.stop:
            raise KeyboardInterrupt
        yield self


def model_folder(of: str, folder: Path) -> Path:
    shutil.copytree(catalog.entry(of).folder, folder)
    return Path(shutil.copytree(catalog.TOKENIZER, folder, dirs_exist_ok=True))


def write_lines(path: Path, first: int) -> None:
    lines = catalog.DEMO_TEXT.read_text(encoding="utf-8").splitlines()[first : first + 30]
    path.write_text("\n".join(lines) + "\n", encoding="utf-8")


def small(folder: Path, **models: dict[str, str]) -> Recipe:
    a, b = ({"ref": str(folder / name)} | models.get(name, {}) for name in "ab")
    return parse_recipe(
        {
            "name": "inputs",
            "models": [a, b],
            "sae": {"d_sae": 16, "l1": 1.0, "batch": 128, "seeds": [0]},
            "corpus": {
                "source": str(folder / "text.jsonl"),
                "context": 32,
                "train_tokens": 1024,
                "match_tokens": 2048,
                "quality_tokens": 512,
            },
            "controls": dict.fromkeys(
                ("rotated", "current_token", "sae_seed", "stability", "neurons"), False
            ),
            "matching": {"resamples": 2, "null_exchanges": 1, "space_tokens": 0},
        },
        "inputs",
    )


@pytest.fixture(scope="module")
def stopped(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a text, two models, and `run`: stopped when the features of the second model
    began.
    """
    folder = tmp_path_factory.mktemp("study")
    write_lines(folder / "text.jsonl", 0)
    model_folder("transformer-s0", folder / "a")
    model_folder("transformer-s1", folder / "b")
    with pytest.raises(KeyboardInterrupt):
        run_study(small(folder), folder / "run", Stopping("encode b"))
    return folder


@pytest.fixture
def folder(stopped: Path) -> Iterator[Path]:
    """The folder of `stopped`, put back afterwards as it was."""
    kept = stopped.with_name("kept")
    shutil.copytree(stopped, kept)
    yield stopped
    shutil.rmtree(stopped)
    kept.rename(stopped)


def go_on(folder: Path, **models: dict[str, str]) -> Path:
    return run_study(small(folder, **models), folder / "run", SilentProgress())


def turn_weights(model: Path) -> None:
    """Other weights in a file of the same size."""
    file = model / "model.safetensors"
    tensors = load_file(file)
    tensors["gpt_neox.final_layer_norm.weight"] *= 2
    save_file(tensors, file, {"format": "pt"})


def other_text(folder: Path) -> None:
    write_lines(folder / "text.jsonl", 30)


def other_tokenizer(folder: Path) -> None:
    """For both models, lest they differ: text is put into lower case first."""
    for model in ("a", "b"):
        file = folder / model / "tokenizer.json"
        file.write_text(
            json.dumps(json.loads(file.read_text()) | {"normalizer": {"type": "Lowercase"}})
        )


CHANGES = {
    "the text": (other_text, "the text {folder}/text.jsonl"),
    "weights": (lambda folder: turn_weights(folder / "a"), "the weights of {folder}/a"),
    "a tokenizer": (other_tokenizer, "the tokenizer of {folder}/b"),
}


@pytest.mark.parametrize("what", CHANGES)
def test_a_stopped_run_does_not_go_on_with_other(what: str, folder: Path) -> None:
    change, named = CHANGES[what]
    before = (folder / "run" / "run.json").read_text()
    change(folder)
    with pytest.raises(InputError) as told:
        go_on(folder)
    assert "it holds a run of other contents of" in str(told.value)
    assert named.format(folder=folder) in str(told.value)
    known = json.loads(before)["inputs"]
    assert json.loads((folder / "run" / "run.json").read_text())["inputs"] == known


def test_files_that_were_touched_or_copied_and_say_the_same_are_the_same(folder: Path) -> None:
    for file in (
        folder / "text.jsonl",
        folder / "a" / "model.safetensors",
        folder / "b" / "tokenizer.json",
    ):
        shutil.copy(file, folder / "copy")
        os.replace(folder / "copy", file)
    page = go_on(folder)
    assert page.is_file()
    assert finished_report(small(folder), folder / "run") == page


def test_a_finished_run_is_not_the_answer_for_other_inputs(folder: Path) -> None:
    page = go_on(folder)
    assert finished_report(small(folder), folder / "run") == page
    turn_weights(folder / "b")
    assert finished_report(small(folder), folder / "run") is None
    with pytest.raises(InputError, match="other contents of the weights of"):
        go_on(folder)


def test_dictionaries_that_are_brought_are_known_by_their_contents(folder: Path) -> None:
    go_on(folder)
    brought = folder / "brought"
    shutil.copytree(folder / "run" / "saes" / "a", brought)
    shutil.rmtree(folder / "run")
    saes = {"saes": str(brought / "{layer}")}
    with pytest.raises(KeyboardInterrupt):
        run_study(small(folder, a=saes), folder / "run", Stopping("encode b"))
    shutil.rmtree(brought / "2")
    shutil.copytree(brought / "1", brought / "2")
    with pytest.raises(InputError, match=r"other contents of the dictionaries .*brought/\{layer\}"):
        go_on(folder, a=saes)


def test_dictionaries_on_their_own_do_not_go_on_with_other_text(folder: Path) -> None:
    settings = parse_saes(
        model=str(folder / "a"),
        text=str(folder / "text.jsonl"),
        layers=(0,),
        d_sae=16,
        seeds=1,
        tokens=2048,
        heldout=512,
        context=32,
        batch=128,
        stream="pool",
    )
    with pytest.raises(KeyboardInterrupt):
        train_saes(settings, folder / "saes", Stopping("measure quality"))
    other_text(folder)
    with pytest.raises(InputError, match="other contents of the text"):
        train_saes(settings, folder / "saes", SilentProgress())


def test_circuits_do_not_go_on_with_other_weights(folder: Path) -> None:
    small = {
        "n_prompts": 8,
        "length": 16,
        "repeat": 4,
        "discovery_prompts": 2,
        "validated_edges": 2,
    }
    values = {"name": "circuits", "models": [str(folder / "a")], "circuits": small}
    run_circuits(parse_circuits(values), folder / "circuits", SilentProgress())
    turn_weights(folder / "a")
    with pytest.raises(InputError, match="other contents of the weights of"):
        run_circuits(parse_circuits(values), folder / "circuits", SilentProgress())


def test_contents_are_read_only_where_a_file_was_touched(tmp_path: Path) -> None:
    file = tmp_path / "text.jsonl"
    write_lines(file, 0)
    known = text_input(str(file), lambda: "hash").facts()
    assert text_input(str(file), lambda: pytest.fail("read again")).is_as(known)
    os.utime(file, (1, 1))
    assert text_input(str(file), lambda: "hash").is_as(known)
    assert not text_input(str(file), lambda: "another").is_as(known)


def test_every_kind_of_model_and_dictionary_has_contents(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    copied = model_folder("mamba-s0", tmp_path / "copied")
    zoo, folder = weights_input("zoo:mamba-s0"), weights_input(str(copied))
    assert zoo.contents() == folder.contents() and zoo.state != folder.state
    made = [
        weights_input(f"zoo:{name}").contents() for name in ("mamba-random", "transformer-random")
    ]
    made += [
        weights_input(ref, random=True).contents()
        for ref in ("EleutherAI/pythia-160m", "state-spaces/mamba-130m")
    ]
    assert len(set(made)) == 4
    assert tokenizer_input("zoo:mamba-s0").contents() == tokenizer_input(str(copied)).contents()
    (copied / "tokenizer.json").unlink()
    assert tokenizer_input(str(copied)).contents() == "none"
    monkeypatch.chdir(tmp_path)
    for layer in "01":
        (tmp_path / "saes" / layer).mkdir(parents=True)
        (tmp_path / "saes" / layer / "cfg.json").write_text("{}")
    absolute, relative = saes_input(f"{tmp_path}/saes/{{layer}}"), saes_input("saes/{layer}")
    assert len(absolute.files) == 2 and absolute.contents() == relative.contents()
    (tmp_path / "saes" / "1" / "cfg.json").rename(tmp_path / "saes" / "0" / "more.json")
    assert saes_input("saes/{layer}").contents() != absolute.contents()


def hub(cache: Path, commit: str) -> None:
    """A repository of the Hub in a cache, at a commit."""
    repo = cache / "models--someone--tiny"
    shutil.copytree(catalog.entry("mamba-s0").folder, repo / "snapshots" / commit)
    (repo / "refs").mkdir(exist_ok=True)
    (repo / "refs" / "main").write_text(commit)


def test_a_model_of_the_hub_is_known_by_its_commit(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path))
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    for commit in ("a" * 40, "b" * 40):
        hub(tmp_path, commit)
        assert weights_input("someone/tiny").contents() == commit


def test_one_model_under_two_names_is_not_compared_with_itself(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    shutil.rmtree(folder / "run")
    shutil.rmtree(folder / "b")
    (folder / "b").symlink_to(folder / "a")
    with pytest.raises(
        InputError, match="they hold the same weights, and would be compared with themselves"
    ):
        go_on(folder)
    monkeypatch.chdir(folder)
    values = {"name": "circuits", "models": ["a", str(folder / "a")]}
    with pytest.raises(InputError, match="they hold the same weights"):
        run_circuits(parse_circuits(values), folder / "circuits", SilentProgress())
    assert not (folder / "run").exists() and not (folder / "circuits").exists()
    (folder / "b").unlink()
    model_folder("transformer-s1", folder / "b")


def test_a_name_that_is_two_things_is_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    assert resolve("mamba-s0") == resolve("zoo:mamba-s0")
    model_folder("mamba-s1", tmp_path / "mamba-s0")
    with pytest.raises(
        InputError, match=r"both a model of the zoo and .*/mamba-s0 have that name.*zoo:mamba-s0"
    ):
        resolve("mamba-s0")
    assert (resolve("zoo:mamba-s0").kind, resolve("./mamba-s0").kind) == ("zoo", "folder")
    with pytest.raises(InputError, match="both a model of the zoo and"):
        load("mamba-s0")
    (tmp_path / "demo").write_text("name = 'mine'")
    with pytest.raises(InputError, match=r"both a built-in recipe and .*/demo have that name"):
        load_recipe("demo")
