"""The tokenizer that comes with a model, or the reason why there is none."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from transformers import AutoTokenizer, PreTrainedTokenizerBase

from homolog.errors import InputError
from homolog.models.gguf import as_pretrained
from homolog.models.stored import json_object
from homolog.reference import resolve

_JSON = (
    "tokenizer.json",
    "tokenizer_config.json",
    "special_tokens_map.json",
    "added_tokens.json",
    "vocab.json",
)


def find_tokenizer(ref: str, **options: Any) -> tuple[PreTrainedTokenizerBase | None, str | None]:
    """(tokenizer, None), or (None, why there is none).

    Never raises: a model without one can still be read.
    """
    try:
        if Path(ref).is_dir():
            _require_sound_files(Path(ref))
        source, named = as_pretrained(ref, options)
        tokenizer = AutoTokenizer.from_pretrained(source, trust_remote_code=False, **named)
        n_entries, special = len(tokenizer), len(tokenizer.all_special_ids)
        tokenizer("a word")
    except InputError as error:
        return None, f"{error.value}: {error.requirement}"
    except Exception as error:
        # a tokenizer's own code, of any architecture: files missing, packages missing, ...
        failed = f"loading it failed ({type(error).__name__}: {' '.join(str(error).split())[:300]})"
        lies_here = Path(ref).is_dir() and not resolve(ref).tokenizer_files
        return None, f"{ref} holds no file of one, and {failed}" if lies_here else failed
    if n_entries <= special + 1:
        # without its files, transformers makes an empty one of special tokens alone
        return None, f"{ref} holds no vocabulary for one"
    return tokenizer, None


def _require_sound_files(folder: Path) -> None:
    for path in (folder / name for name in _JSON):
        if path.exists():
            json_object(path)
