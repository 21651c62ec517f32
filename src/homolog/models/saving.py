"""A loaded model as an ordinary Hugging Face folder: config.json, safetensors, its tokenizer."""

from __future__ import annotations

import os
from pathlib import Path
from tempfile import TemporaryDirectory

from homolog.errors import InputError
from homolog.models.base import LanguageModel
from homolog.record.atomic import PARTIAL_PREFIX, user_errors


def save(model: LanguageModel, folder: str | Path) -> Path:
    """Write the model as it is, in its dtype, into a new folder, which appears when it is whole.

    What it was read from matters no more: a GGUF file gives a folder that anything reads, faster.
    InputError where something is there already, and where it cannot be written.
    """
    folder = Path(folder)
    with user_errors(folder):
        if folder.exists() and not (folder.is_dir() and not any(folder.iterdir())):
            requirement = "a model is written into a new folder, and something is there"
            raise InputError("output path", str(folder), requirement, "Name another folder.")
        folder.parent.mkdir(parents=True, exist_ok=True)
        prefix = f"{PARTIAL_PREFIX}{os.getpid()}-"
        with TemporaryDirectory(prefix=prefix, dir=folder.parent) as partial:
            whole = Path(partial) / "model"
            model.hf.save_pretrained(whole)
            if model.tokenizer is not None:
                model.tokenizer.save_pretrained(whole)
            os.replace(whole, folder)
    return folder
