"""What makes two tokenizers the same: equal ids for every text.

The fingerprint is the SHA-256 of the parts of the fast tokenizer that decide ids: vocabulary,
merges and flags of the model, normaliser, pre-tokeniser, added tokens, and which ids are special.
Left out is what does not: the post-processor (special tokens are never added here), the decoder,
padding, truncation, offsets.  A prefix or suffix of words that is empty is none: a GGUF file gives
"" where the folder that it was made from has null.
"""

from __future__ import annotations

import json
from typing import Any

from homolog.errors import InputError
from homolog.record.atomic import sha256_bytes

_DECIDES_IDS = ("model", "normalizer", "pre_tokenizer", "added_tokens")
_ONLY_OFFSETS = ("trim_offsets",)
_EMPTY_IS_NONE = ("continuing_subword_prefix", "end_of_word_suffix")


def fingerprint(tokenizer: Any) -> str:
    """Hexadecimal SHA-256 of everything by which a Hugging Face tokenizer turns text into ids."""
    backend = getattr(tokenizer, "backend_tokenizer", None)
    if backend is not None:
        whole = json.loads(backend.to_str())
        parts = {key: _without_offsets(whole.get(key)) for key in _DECIDES_IDS}
        model = parts["model"]
        model.update({key: None for key in _EMPTY_IS_NONE if model.get(key) == ""})
    else:  # written in Python: its class and vocabulary are all there is to see
        parts = {"class": type(tokenizer).__name__, "vocabulary": tokenizer.get_vocab()}
    # Those of the configuration: `added_tokens` and the vocabulary tell the others, and
    # fingerprints that are stored with dictionaries stay what they are.
    parts["special_ids"] = sorted({int(token) for token in tokenizer.all_special_ids})
    return sha256_bytes(json.dumps(parts, sort_keys=True, ensure_ascii=True, separators=(",", ":")))


def special_tokens(tokenizer: Any) -> dict[int, str]:
    """The special tokens, id and name, ascending: what is masked wherever it stands.

    They are those that the configuration names (`eos_token` and the like) and every added token
    that is marked as special, in tokenizer.json too.  An added token that is not, as the runs of
    spaces of Pythia, is text, and stays.
    """
    added = {int(i) for i, token in tokenizer.added_tokens_decoder.items() if token.special}
    ids = sorted(added.union(int(i) for i in tokenizer.all_special_ids))
    return dict(zip(ids, map(str, tokenizer.convert_ids_to_tokens(ids)), strict=True))


def special_ids(tokenizer: Any) -> list[int]:
    """Ids of the `special_tokens`, ascending."""
    return list(special_tokens(tokenizer))


def joining_id(tokenizer: Any) -> int:
    """Id of the token that ends each document: end of text, else beginning of text.

    Raises `InputError` where there is neither.
    """
    for token in (tokenizer.eos_token_id, tokenizer.bos_token_id):
        if token is not None:
            return int(token)
    requirement = "it must have an end-of-text or beginning-of-text token to put between documents"
    remedy = "Set eos_token in its tokenizer_config.json."
    raise InputError("tokenizer", getattr(tokenizer, "name_or_path", "?"), requirement, remedy)


def require_tokenizer(name: str, tokenizer: Any) -> Any:
    """A model's tokenizer.  InputError, naming the model, where it has none."""
    if tokenizer is None:
        remedy = "Put tokenizer.json and tokenizer_config.json in the model's folder."
        raise InputError("tokenizer", name, "the model must come with a tokenizer", remedy)
    return tokenizer


def check_same_tokenizer(a_name: str, tokenizer_a: Any, b_name: str, tokenizer_b: Any) -> str:
    """The fingerprint of both models' tokenizers.  InputError, naming both, if they differ."""
    for name, tokenizer in ((a_name, tokenizer_a), (b_name, tokenizer_b)):
        require_tokenizer(name, tokenizer)
    a, b = fingerprint(tokenizer_a), fingerprint(tokenizer_b)
    if a != b:
        own = f"{a_name}: {len(tokenizer_a)} entries, {a[:8]}"
        other = f"{b_name}: {len(tokenizer_b)} entries, {b[:8]}"
        both = f"{a_name} and {b_name} must read the same tokens, and their tokenizers differ"
        remedy = "Take a model that shares the other's tokenizer."
        raise InputError("tokenizers", f"{own}; {other}", both, remedy)
    return a


def _without_offsets(part: Any) -> Any:
    if isinstance(part, dict):
        return {
            key: _without_offsets(value) for key, value in part.items() if key not in _ONLY_OFFSETS
        }
    if isinstance(part, list):
        return [_without_offsets(value) for value in part]
    return part
