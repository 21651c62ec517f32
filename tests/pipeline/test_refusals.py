"""What cannot be used is refused before work starts, by every command with the same message, and no
folder is made.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import pytest
from safetensors.torch import load_file, save_file
from tests.pipeline.outcome import RECIPE
from tests.pipeline.test_inputs import model_folder

from homolog.errors import InputError
from homolog.pipeline.circuits import run_circuits
from homolog.pipeline.recipes import load_recipe, parse_circuits, parse_saes
from homolog.pipeline.run_study import run_study
from homolog.pipeline.sae import train_saes
from homolog.progress import SilentProgress

SMALL = {"model": "zoo:transformer-s0", "layers": (0,), "d_sae": 16, "tokens": 2048, "heldout": 512}


def compared(folder: Path, **changes: str) -> None:
    text = RECIPE
    for old, new in changes.values():
        text = text.replace(old, new)
    (folder / "recipe.toml").write_text(text)
    run_study(load_recipe(folder / "recipe.toml"), folder / "run", SilentProgress())


def trained(folder: Path, **values: object) -> None:
    train_saes(parse_saes(**SMALL | values), folder / "run", SilentProgress())


def traced(folder: Path, length: int) -> None:
    values = {"name": "circuits", "models": ["zoo:transformer-s0"], "circuits": {"length": length}}
    run_circuits(parse_circuits(values), folder / "run", SilentProgress())


LONGER_THAN_THE_MODEL: dict[str, Callable[[Path], None]] = {
    "corpus.context": lambda folder: compared(folder, context=("context = 64", "context = 600")),
    "--context": lambda folder: trained(folder, context=600),
    "circuits.length": lambda folder: traced(folder, 600),
}


@pytest.mark.parametrize("field", LONGER_THAN_THE_MODEL)
def test_windows_beyond_a_models_positions(field: str, tmp_path: Path) -> None:
    with pytest.raises(InputError, match="zoo:transformer-s0 has 512 positions") as told:
        LONGER_THAN_THE_MODEL[field](tmp_path)
    assert (told.value.field, told.value.value) == (field, 600)
    assert not (tmp_path / "run").exists()


def special_text(folder: Path) -> Path:
    path = folder / "special.jsonl"
    path.write_text("\n".join([json.dumps({"text": "<|endoftext|>" * 500})] * 60))
    return path


def test_text_that_is_special_tokens_alone(tmp_path: Path) -> None:
    path = special_text(tmp_path)
    for command in (
        lambda: compared(tmp_path, source=("zoo:demo", str(path))),
        lambda: trained(tmp_path, text=str(path)),
    ):
        with pytest.raises(
            InputError, match=r"no token of it is left that is not masked: all \d+ are special"
        ):
            command()
        assert not (tmp_path / "run").exists()


def test_text_of_which_a_part_is_special_tokens_alone(tmp_path: Path) -> None:
    """What is left after the split is what counts: held-out windows that hold nothing measure
    nothing.
    """
    path = tmp_path / "part.jsonl"
    texts = ["<|endoftext|>" * 127] * 60 + ["one two three four five six " * 20]
    path.write_text("\n".join(json.dumps({"text": text}) for text in texts))
    with pytest.raises(InputError, match="no token of it is left that is not masked") as told:
        trained(tmp_path, text=str(path), shuffle=False, context=128, tokens=1024, heldout=128)
    assert "part.jsonl" in str(told.value.value)


def test_logits_that_are_not_finite_are_one_error_with_model_site_and_token(tmp_path: Path) -> None:
    """One entry of the unembedding is 3e38, a finite weight; residuals stay finite."""
    model = model_folder("transformer-s0", tmp_path / "model")
    tensors = load_file(model / "model.safetensors")
    tensors = {name: tensor.float() for name, tensor in tensors.items()}
    tensors["embed_out.weight"][7, :] = 3e38
    save_file(tensors, model / "model.safetensors", {"format": "pt"})
    circuits = {
        "name": "circuits",
        "models": [str(model)],
        "circuits": {"length": 16, "repeat": 4, "n_prompts": 8},
    }
    for command in (
        lambda: trained(tmp_path, model=str(model)),
        lambda: run_circuits(parse_circuits(circuits), tmp_path / "circuits", SilentProgress()),
    ):
        with pytest.raises(InputError, match=r"logits.*token") as told:
            command()
        assert str(model) in str(told.value)
