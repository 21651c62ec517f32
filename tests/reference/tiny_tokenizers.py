"""Tokenizers of every kind, trained in a moment, as transformers wraps them."""

import json
from functools import cache
from typing import Any

from tokenizers import Tokenizer, decoders, models, normalizers, pre_tokenizers, processors
from tokenizers.trainers import BpeTrainer, WordPieceTrainer
from transformers import PreTrainedTokenizerFast

TEXT = [
    "the cat sat on the mat, and the dog sat on the log. It's 12 of 345, a café or cafe\u0301?",
    "日本語の文字 and עברית שלום with \u200f marks, 😀 smiles 👩\u200d👩\u200d👧 and\r\nlines\n\n",
    "def main(argument):\n    return argument  # a    comment",
] * 8
_BYTES = [f"<0x{byte:02X}>" for byte in range(256)]
_BYTE_LEVEL = pre_tokenizers.ByteLevel.alphabet


def _byte_level(size: int, normalizer: Any = None) -> Tokenizer:
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    tokenizer.post_processor = processors.ByteLevel(trim_offsets=True)
    if normalizer is not None:
        tokenizer.normalizer = normalizer
    options = {"special_tokens": ["</s>"], "show_progress": False}
    trainer = BpeTrainer(vocab_size=size, initial_alphabet=_BYTE_LEVEL(), **options)
    tokenizer.train_from_iterator(TEXT, trainer)
    return tokenizer


def _trained(tokenizer: Tokenizer, size: int, text: list[str] = TEXT) -> Tokenizer:
    special = ["</s>", "<unk>", *_BYTES]
    trainer = BpeTrainer(vocab_size=size, special_tokens=special, show_progress=False)
    tokenizer.train_from_iterator(text, trainer)
    whole = json.loads(tokenizer.to_str())  # bytes are entries of the model, no tokens of their own
    whole["added_tokens"] = [t for t in whole["added_tokens"] if t["content"] not in _BYTES]
    return Tokenizer.from_str(json.dumps(whole))


def _metaspace(size: int) -> Tokenizer:
    """As SentencePiece: a space in front, and bytes for what is in no token."""
    tokenizer = Tokenizer(models.BPE(byte_fallback=True, unk_token="<unk>", fuse_unk=True))
    tokenizer.pre_tokenizer = pre_tokenizers.Metaspace()
    tokenizer.decoder = _SPACES
    return _trained(tokenizer, size, [line for line in TEXT if line.isascii()])


def _prepend(size: int) -> Tokenizer:
    """As Llama's: the space in front and all others by a normaliser."""
    tokenizer = Tokenizer(models.BPE(byte_fallback=True, unk_token="<unk>", fuse_unk=True))
    marks = [normalizers.Prepend("▁"), normalizers.Replace(" ", "▁")]
    tokenizer.normalizer = normalizers.Sequence(marks)
    tokenizer.decoder = _SPACES
    return _trained(tokenizer, size, [line for line in TEXT if line.isascii()])


def _characters(size: int) -> Tokenizer:
    tokenizer = Tokenizer(models.BPE(unk_token="<unk>"))
    tokenizer.pre_tokenizer = pre_tokenizers.Split(" ", "merged_with_next")
    tokenizer.decoder = decoders.Fuse()
    return _trained(tokenizer, size)


def _word_piece(size: int) -> Tokenizer:
    """As BERT's: lower case, without accents and spaces."""
    tokenizer = Tokenizer(models.WordPiece(unk_token="[UNK]"))
    tokenizer.normalizer = normalizers.BertNormalizer(lowercase=True)
    tokenizer.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
    tokenizer.decoder = decoders.WordPiece()
    special = ["[UNK]", "</s>"]
    trainer = WordPieceTrainer(vocab_size=size, special_tokens=special, show_progress=False)
    tokenizer.train_from_iterator(TEXT, trainer)
    return tokenizer


_SPACES = decoders.Sequence(
    [decoders.Replace("▁", " "), decoders.ByteFallback(), decoders.Fuse(), decoders.Strip(" ", 1)]
)
_MAKERS = {
    "byte-level": lambda: _byte_level(300),
    "byte-level, larger": lambda: _byte_level(420),
    "byte-level, NFC": lambda: _byte_level(320, normalizers.NFC()),
    "byte-level, lower case": lambda: _byte_level(320, normalizers.Lowercase()),
    "metaspace": lambda: _metaspace(340),
    "prepend": lambda: _prepend(340),
    "characters": lambda: _characters(420),
    "word pieces": lambda: _word_piece(200),
}
KINDS = tuple(_MAKERS)
AS_WRITTEN = ("byte-level", "byte-level, larger")
"""Those whose tokens, put together, are the text."""
SPACE_IN_FRONT = ("metaspace", "prepend")
"""Those whose tokens are a space and the text."""


@cache
def tiny_tokenizer(kind: str) -> PreTrainedTokenizerFast:
    """A tokenizer of a kind."""
    made, unknown = _MAKERS[kind](), "[UNK]" if kind == "word pieces" else None
    unknown = unknown or ("<unk>" if "<unk>" in made.get_vocab() else None)
    return PreTrainedTokenizerFast(
        tokenizer_object=made, eos_token="</s>", unk_token=unknown, name_or_path=f"tiny {kind}"
    )
