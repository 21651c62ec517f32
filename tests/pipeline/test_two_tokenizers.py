"""A study of two models whose tokenizers differ, from text to report: rows are units."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import polars as pl
import pytest
import torch
from tests.pipeline.outcome import RECIPE, leave_undrawn
from tests.reference.tiny_tokenizers import tiny_tokenizer
from transformers import GPTNeoXConfig, GPTNeoXForCausalLM

from homolog.corpus import load_windows
from homolog.corpus.together import Alignment
from homolog.features import load_features
from homolog.pipeline import run_study as run_study_module
from homolog.pipeline.recipes import load_recipe
from homolog.pipeline.run_study import finished_report, run_study
from homolog.progress import SilentProgress
from homolog.record.run_folder import RunFolder
from homolog.zoo import catalog

MEANING = """
[interpretation]
top = 2
context_tokens = 256
causal_pairs = 2
listed = 2
"""


def save_model(folder: Path) -> Path:
    """A model of random weights that reads the tokens of a tiny tokenizer."""
    torch.manual_seed(0)
    tokenizer = tiny_tokenizer("metaspace")
    config = GPTNeoXConfig(
        vocab_size=len(tokenizer),
        hidden_size=32,
        num_hidden_layers=2,
        num_attention_heads=4,
        intermediate_size=64,
        max_position_embeddings=64,
        eos_token_id=tokenizer.eos_token_id,
    )
    GPTNeoXForCausalLM(config).save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return folder


def recipe_of(folder: Path, align: str = "last") -> str:
    text = RECIPE.replace("zoo:transformer-s1", str(save_model(folder / "other")))
    text = text.replace('ref = "zoo:transformer-s0"', 'ref = "zoo:transformer-s0"\n', 1)
    text = text.replace("quality_tokens = 512", "quality_tokens = 4096")
    return text.replace("[matching]", f'[matching]\nalign = "{align}"') + MEANING


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> RunFolder:
    folder = tmp_path_factory.mktemp("two")
    path = folder / "recipe.toml"
    path.write_text(recipe_of(folder))
    with pytest.MonkeyPatch.context() as patch:
        leave_undrawn(patch.setattr)
        patch.setattr(RunFolder, "drop_cache", lambda self: None)  # which the tests look into
        run_study(load_recipe(str(path)), folder / "run", SilentProgress())
    return RunFolder(folder / "run")


def test_the_study_reaches_its_report_and_nothing_fails(run: RunFolder) -> None:
    assert run.record.get("failed", {}) == {}
    assert (run.report_folder / "index.html").is_file()
