"""The tokenizer of the shipped models, and their training text as tokens.

    python -m homolog.zoo_training.text.tokenizer TEXT_FOLDER

Trains byte-level BPE with `VOCABULARY` entries on TEXT_FOLDER/train.jsonl (made by `gather`) into
TEXT_FOLDER/tokenizer, and writes the text as TEXT_FOLDER/train.npy: one uint16 array of token ids,
each document with its end of text.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Iterator
from pathlib import Path

import numpy as np
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
from transformers import AutoTokenizer, PreTrainedTokenizerFast

from homolog.errors import InputError
from homolog.record.atomic import atomic_path

VOCABULARY = 4096
END = "<|endoftext|>"
BATCH = 1024  # documents


def main(text: str) -> None:
    """Write the tokenizer and the tokens.  InputError where there is no text."""
    folder = Path(text)
    train_tokenizer(folder)
    stream = tokens(folder)
    print(f"{len(stream):,} tokens")


def train_tokenizer(folder: Path) -> Path:
    """FOLDER/tokenizer, of FOLDER/train.jsonl."""
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=VOCABULARY,
        special_tokens=[END],
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    tokenizer.train_from_iterator(texts(folder), trainer)
    fast = PreTrainedTokenizerFast(
        tokenizer_object=tokenizer, bos_token=END, eos_token=END, unk_token=END
    )
    fast.save_pretrained(folder / "tokenizer")
    settings = folder / "tokenizer" / "tokenizer_config.json"
    # a class name that older and newer transformers both know
    fields = json.loads(settings.read_text()) | {"tokenizer_class": "PreTrainedTokenizerFast"}
    settings.write_text(json.dumps(fields, indent=2) + "\n")
    return folder / "tokenizer"


def tokens(folder: Path) -> np.ndarray:
    """FOLDER/train.jsonl as token ids, uint16 (n,), mapped from FOLDER/train.npy, made where it is
    missing.
    """
    made = folder / "train.npy"
    if not made.is_file():
        tokenizer = AutoTokenizer.from_pretrained(folder / "tokenizer")
        parts: list[np.ndarray] = []
        for batch in _batches(texts(folder)):
            for ids in tokenizer(batch, add_special_tokens=False)["input_ids"]:
                parts.append(np.array([*ids, tokenizer.eos_token_id], np.uint16))
        with atomic_path(made) as temporary, temporary.open("wb") as file:
            np.save(file, np.concatenate(parts))
    return np.load(made, mmap_mode="r")


def texts(folder: Path) -> Iterator[str]:
    """The documents to train on, in order.  InputError where they were not made."""
    path = folder / "train.jsonl"
    if not path.is_file():
        remedy = f"Make it: python -m homolog.zoo_training.text.gather {folder}"
        raise InputError("text", str(folder), "it holds no train.jsonl", remedy)
    with path.open(encoding="utf-8") as lines:
        for line in lines:
            yield json.loads(line)["text"]


def _batches(texts: Iterator[str]) -> Iterator[list[str]]:
    batch: list[str] = []
    for text in texts:
        batch.append(text)
        if len(batch) == BATCH:
            yield batch
            batch = []
    if batch:
        yield batch


if __name__ == "__main__":
    main(*sys.argv[1:])
