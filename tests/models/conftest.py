"""Tiny models as plain Hugging Face folders."""

from pathlib import Path

import pytest
from tests.reference.tiny_models import tiny_gpt_neox, tiny_mamba


@pytest.fixture(scope="session")
def neox_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("neox")
    tiny_gpt_neox().save_pretrained(folder)
    return folder


@pytest.fixture(scope="session")
def mamba_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("mamba")
    tiny_mamba().save_pretrained(folder)
    return folder
