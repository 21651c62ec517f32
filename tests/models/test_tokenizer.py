"""Tokenizers that cannot be made: the model loads, and who needs one is told why there is none."""

from __future__ import annotations

import inspect
import json
import shutil
from pathlib import Path

import pytest
import torch
from tests.reference.tiny_models import tiny_gpt2, tiny_llama
from transformers import CONFIG_MAPPING, AutoModelForCausalLM, AutoTokenizer

import homolog
from homolog.errors import InputError
from homolog.models import load_tokenizer
from homolog.zoo import catalog

pytestmark = pytest.mark.usefixtures("one_thread")


SMALL = {
    "vocab_size": 97,
    "hidden_size": 32,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "intermediate_size": 40,
    "max_position_embeddings": 32,
}
"""By the common names, which most configurations take for their own."""
OWN = {
    "ctrl": {"dff": 40},
    "blenderbot-small": {"decoder_layers": 2, "decoder_attention_heads": 4, "decoder_ffn_dim": 40},
    "marian": {"decoder_layers": 2, "decoder_attention_heads": 4, "decoder_ffn_dim": 40}
    | {"pad_token_id": 1, "decoder_start_token_id": 1},
    "gpt_neox_japanese": {},
    "biogpt": {},
    "roformer": {"is_decoder": True},
}
DECODER = {"is_decoder": True, "is_encoder_decoder": False}


def saved(kind: str, folder: Path) -> None:
    """A tiny model of an architecture, without a tokenizer."""
    known = CONFIG_MAPPING[kind]
    names = inspect.signature(known).parameters.keys() | known.attribute_map.keys()
    given = {name: value for name, value in SMALL.items() if name in names}
    torch.manual_seed(0)
    config = known(**given, **OWN[kind], **(DECODER if "decoder_layers" in OWN[kind] else {}))
    AutoModelForCausalLM.from_config(config).save_pretrained(folder)


def told(call) -> str:
    with pytest.raises(InputError) as error:
        call()
    return str(error.value)


def refused_twice(folder: Path) -> str:
    """Why there is none, as the model and `load_tokenizer` say it."""
    model = homolog.load(folder)
    assert model.tokenizer is None and model.no_tokenizer is not None
    assert model.run(torch.full((1, 5), 5)).logits is not None
    for call in (model.require_tokenizer, lambda: load_tokenizer(folder)):
        message = told(call)
        assert model.no_tokenizer in message and "Save its tokenizer beside the weights" in message
    return model.no_tokenizer


@pytest.mark.parametrize("kind", list(OWN))
def test_a_type_whose_tokenizer_fails_in_a_way_of_its_own(kind, tmp_path):
    saved(kind, tmp_path)
    assert f"{tmp_path} holds no file of one, and loading it failed (" in refused_twice(tmp_path)


@pytest.mark.parametrize("kind", ["prophetnet", "xlm", "cpmant"])
def test_a_type_that_is_not_read_gives_the_same_reason(kind, tmp_path):
    (tmp_path / "config.json").write_text(json.dumps({"model_type": kind}))
    assert f"{tmp_path} holds no file of one, and" in told(lambda: load_tokenizer(tmp_path))


def test_a_package_that_a_tokenizer_needs_is_named(tmp_path, monkeypatch):
    saved("ctrl", tmp_path)
    (tmp_path / "vocab.json").write_text("{}")

    def missing(*_args, **_options):
        raise ImportError("You need to install sacremoses\nto use it: pip install sacremoses")

    monkeypatch.setattr(AutoTokenizer, "from_pretrained", missing)
    assert refused_twice(tmp_path) == (
        "loading it failed (ImportError: You need to install sacremoses to use it: "
        "pip install sacremoses)"
    )


def test_a_folder_without_tokenizer_files(tmp_path):
    tiny_llama().save_pretrained(tmp_path)
    refused_twice(tmp_path)


@pytest.mark.parametrize("file", ["tokenizer.json", "tokenizer_config.json"])
@pytest.mark.parametrize(
    ("content", "words"),
    [
        ("{", "not valid JSON"),
        ("[]", "must hold a JSON object, and holds []"),
        ("", "not valid JSON"),
    ],
)
def test_a_damaged_file_is_named(file, content, words, tmp_path):
    tiny_gpt2().save_pretrained(tmp_path)
    for path in catalog.TOKENIZER.iterdir():
        shutil.copy(path, tmp_path)
    (tmp_path / file).write_text(content)
    why = refused_twice(tmp_path)
    assert file in why and words in why


def test_a_vocabulary_that_is_no_vocabulary(tmp_path):
    tiny_gpt2().save_pretrained(tmp_path)
    for path in catalog.TOKENIZER.iterdir():
        shutil.copy(path, tmp_path)
    whole = json.loads((tmp_path / "tokenizer.json").read_text())
    (tmp_path / "tokenizer.json").write_text(
        json.dumps(whole | {"model": {"type": "BPE", "vocab": 3}})
    )
    assert "loading it failed" in refused_twice(tmp_path)


def test_a_tokenizer_that_is_there_is_given(tmp_path):
    tiny_gpt2().save_pretrained(tmp_path)
    for path in catalog.TOKENIZER.iterdir():
        shutil.copy(path, tmp_path)
    for model in (
        homolog.load(tmp_path),
        homolog.load("zoo:mamba-s0"),
        homolog.load("zoo:mamba-random"),
    ):
        assert model.require_tokenizer() is model.tokenizer and model.no_tokenizer is None
        assert (
            model.require_tokenizer()("a word").input_ids
            == load_tokenizer(tmp_path)("a word").input_ids
        )


def test_a_model_made_without_one_says_so():
    message = told(homolog.models.gpt2.GPT2("mine", tiny_gpt2()).require_tokenizer)
    assert "tokenizer is 'mine'" in message and "the model was made without one" in message
