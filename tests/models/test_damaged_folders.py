"""A damaged folder is a model as it was saved, or one error that says what is wrong."""

from __future__ import annotations

import contextlib
import random
import shutil
from pathlib import Path

import pytest
import torch
from tests.damage import number_of, put_back
from tests.models.damage import damage
from tests.reference import tiny_models as tiny

import homolog
from homolog.errors import InputError
from homolog.models import LanguageModel
from homolog.zoo import catalog

pytestmark = pytest.mark.usefixtures("one_thread")

BUILDS = {
    "gpt_neox": tiny.tiny_gpt_neox,
    "gpt2": tiny.tiny_gpt2,
    "llama": tiny.tiny_llama,
    "mamba": tiny.tiny_mamba,
    "qwen3": tiny.tiny_qwen3,
    "rwkv": tiny.tiny_rwkv,
    "mixtral": tiny.tiny_mixtral,
}
SHARD = {"whole": "1GB", "sharded": "40KB"}


@pytest.fixture(scope="module")
def folders(tmp_path_factory: pytest.TempPathFactory) -> list[Path]:
    """Saved models of several architectures, in one file and in several, with tokenizers."""
    folders = []
    for name, build in BUILDS.items():
        for how, size in SHARD.items():
            folder = tmp_path_factory.mktemp(f"{name}-{how}")
            build().save_pretrained(folder, max_shard_size=size)
            for path in catalog.TOKENIZER.iterdir():
                shutil.copy(path, folder)
            assert len(list(folder.glob("*.safetensors"))) > (how == "sharded")
            folders.append(folder)
    return folders


def loaded(folder: Path, seed: int) -> LanguageModel | str:
    """The model, or the error's text; weights drawn at random would depend on the seed."""
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        try:
            return homolog.load(folder)
        except InputError as error:
            return str(error)


def check(folders: list[Path], n: int, tmp_path: Path) -> None:
    rng = random.Random(n)
    outcomes = {"model": 0, "error": 0}
    for i in range(n):
        folder = put_back(tmp_path / "damaged", folders[i % len(folders)])
        what = f"{folders[i % len(folders)].name}, damage {i}: {damage(folder, rng)}"
        try:
            outcome = loaded(folder, 1)
            if isinstance(outcome, str):
                outcomes["error"] += 1
                assert outcome.startswith("model is ") and len(outcome) < 1000, outcome
                continue
            outcomes["model"] += 1
            again = loaded(folder, 2)
            assert not isinstance(again, str)
            for (name, p), q in zip(
                outcome.hf.named_parameters(), again.hf.parameters(), strict=True
            ):
                assert p.isfinite().all() and torch.equal(p, q), name
            with contextlib.suppress(InputError):
                outcome.run(torch.full((1, 4), 5))
            if outcome.tokenizer is None:
                assert outcome.no_tokenizer
        except Exception as error:
            raise AssertionError(what) from error
    assert min(outcomes.values()) > n / 10, outcomes


@pytest.mark.damage
def test_a_damaged_folder_is_refused_or_loads(folders, tmp_path, pytestconfig):
    check(folders, number_of(pytestconfig), tmp_path)
