"""A study by the command, in half precision, of two folders as large models come: weights in
several files, an unembedding that is the embedding, dtypes and tokenizers of their own.
"""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file
from tests.pipeline.outcome import RECIPE
from tests.reference.tiny_models import tiny_gpt_neox, tiny_llama
from tests.reference.tiny_tokenizers import tiny_tokenizer
from transformers import PreTrainedModel
from typer.testing import CliRunner

from homolog.cli import app
from homolog.models import load
from homolog.pipeline import Study

pytestmark = pytest.mark.slow


def save_in_parts(model: PreTrainedModel, tokenizer: str, folder: Path) -> Path:
    """Several safetensors files in bfloat16, their index, and the tokenizer."""
    model.bfloat16().save_pretrained(folder, max_shard_size="20KB")
    tiny_tokenizer(tokenizer).save_pretrained(folder)
    assert len(list(folder.glob("model-*-of-*.safetensors"))) > 1
    return folder


@pytest.fixture(scope="module")
def folders(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    folder = tmp_path_factory.mktemp("models")
    sizes = {name: len(tiny_tokenizer(name)) for name in ("metaspace", "byte-level")}
    neox = tiny_gpt_neox(vocab_size=sizes["metaspace"])
    llama = tiny_llama(vocab_size=sizes["byte-level"], tie_word_embeddings=True)
    return {
        "neox": save_in_parts(neox, "metaspace", folder / "neox"),
        "llama": save_in_parts(llama, "byte-level", folder / "llama"),
    }


def test_tied_weights_in_parts_are_one_weight(folders: dict[str, Path]) -> None:
    stored = {
        name: tensor
        for file in folders["llama"].glob("*.safetensors")
        for name, tensor in load_file(file).items()
    }
    model = load(folders["llama"], dtype=torch.bfloat16)
    assert "lm_head.weight" not in stored
    assert model.hf.lm_head.weight.data_ptr() == model.embedding().weight.data_ptr()
    own = dict(model.hf.named_parameters())
    assert set(own) == set(stored)
    assert all(torch.equal(own[name], tensor) for name, tensor in stored.items())


@pytest.mark.parametrize("dtype", ["bfloat16", "float16"])
def test_a_study_of_them_is_whole(dtype: str, folders: dict[str, Path], tmp_path: Path) -> None:
    text = RECIPE.replace("zoo:transformer-s0", str(folders["neox"]))
    text = text.replace("zoo:transformer-s1", str(folders["llama"]))
    text = text.replace("context = 64", "context = 32")
    (tmp_path / "recipe.toml").write_text(f'{text}\ndtype = "{dtype}"\n')
    words = ["run", str(tmp_path / "recipe.toml"), "--out", str(tmp_path / "run"), "--quiet"]
    done = CliRunner().invoke(app, words)
    assert done.exit_code == 0, done.output
    run = json.loads((tmp_path / "run" / "run.json").read_text())
    assert not run.get("failed") and run["recipe"]["run"]["dtype"] == dtype
    study = Study.load(tmp_path / "run")
    assert set(study.saes["model"]) == set(folders)
    assert study.saes["loss_clean"].is_finite().all()
    assert study.folder.verify() == []
