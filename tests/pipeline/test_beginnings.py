"""A study of two models of which one reads a token before every window."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from tests.pipeline.outcome import beside_the_zoo, told
from tests.reference.tiny_models import save_readable, tiny_llama
from tokenizers import processors
from transformers import AutoTokenizer

from homolog import dictionaries
from homolog.analyses.material import Material
from homolog.errors import InputError
from homolog.models import load
from homolog.pipeline.inputs import tokenizer_input
from homolog.pipeline.models import models_of
from homolog.pipeline.run_study import run_study
from homolog.progress import SilentProgress
from homolog.record.recipe import Recipe


@pytest.fixture(scope="module")
def llama(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("models") / "tiny-llama"
    return save_readable(folder, tiny_llama, max_position_embeddings=128)


def recipe(folder: Path, bos: object, **changes: Any) -> Recipe:
    meaning = {"context_tokens": 1024, "causal_pairs": 4, "listed": 2}
    return beside_the_zoo(folder, {"bos": bos}, 0.1, **{"interpretation": meaning} | changes)


def test_a_setting_is_true_or_false_as_in_toml_and_another_one_is_another_recipe(llama) -> None:
    said = [recipe(llama, bos) for bos in (True, "true", False, "auto")]
    assert [asked.models[1].bos for asked in said] == ["true", "true", "false", "auto"]
    assert len({asked.hash for asked in said}) == 3
    with pytest.raises(InputError, match="bos"):
        recipe(llama, "yes")


@pytest.mark.slow
def test_features_are_those_of_the_text_after_the_token(llama, tmp_path) -> None:
    asked = recipe(llama, True)
    page = run_study(asked, tmp_path / "run", SilentProgress())
    material = Material(tmp_path / "run", asked, models_of(asked))
    begun, text = material.models.compared[1], material.windows("match")
    model = load(llama)
    first = torch.full((len(text), 1), model.require_tokenizer().bos_token_id)
    tokens = torch.cat([first, torch.from_numpy(text.tokens).long()], dim=1)
    layer = 0
    x = model.run(tokens, [f"resid.{layer}"])[f"resid.{layer}"][:, 1:]
    sae = dictionaries.load(material.run.sae_folder(begun.name, layer, "sae"))
    expected = sae.encode(x[torch.from_numpy(text.mask)]).numpy()
    stored = material.features(begun.name, layer).matrix.toarray()
    assert stored.shape == (int(text.mask.sum()), 32)
    np.testing.assert_allclose(stored, expected, atol=1e-3)
    known = material.run.record["beginnings"]
    assert known[begun.name]["begins"] and not known["transformer-s0"]["begins"]
    assert known[begun.name]["with_it"] > 0 and known[begun.name]["without"] > 0
    assert "Windows begin with" in told(page.parent)


def test_a_study_is_refused_by_name_before_anything_is_made(llama, tmp_path) -> None:
    bare = tmp_path / "bare"
    tiny_llama(max_position_embeddings=128).save_pretrained(bare)
    tokenizer = AutoTokenizer.from_pretrained(llama)
    tokenizer.bos_token = None
    tokenizer.save_pretrained(bare)
    with pytest.raises(InputError, match=r"tokenizer of .*bare has no token that texts begin"):
        run_study(recipe(bare, True), tmp_path / "run", SilentProgress())
    whole = recipe(llama, True, corpus=recipe(llama, True).corpus.values() | {"context": 128})
    with pytest.raises(InputError, match=r"corpus\.context is 128.*at most 127 tokens"):
        run_study(whole, tmp_path / "run", SilentProgress())
    assert not (tmp_path / "run").exists()


def test_a_template_is_part_of_what_a_run_reads(llama, tmp_path) -> None:
    tokenizer = AutoTokenizer.from_pretrained(llama)
    name, token = tokenizer.eos_token, tokenizer.eos_token_id
    tokenizer.backend_tokenizer.post_processor = processors.TemplateProcessing(
        single=f"{name} $A", special_tokens=[(name, token)]
    )
    tokenizer.save_pretrained(tmp_path)
    (tmp_path / "config.json").write_text((llama / "config.json").read_text())
    plain, begun = (tokenizer_input(str(folder)).contents() for folder in (llama, tmp_path))
    assert plain != begun


def test_a_control_of_two_models_that_are_read_in_different_ways_is_refused(llama) -> None:
    asked = recipe(llama, True)
    models = [
        model.values() | {"untrained": "zoo:transformer-s0#untrained=0"} for model in asked.models
    ]
    with pytest.raises(InputError, match="read in different ways"):
        models_of(asked.changed(models=models))
