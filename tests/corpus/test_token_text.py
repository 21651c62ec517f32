"""The texts of a text's tokens, joined, are that text, for every kind of tokenizer."""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Callable
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tokenizers import (
    AddedToken,
    Regex,
    Tokenizer,
    decoders,
    models,
    normalizers,
    pre_tokenizers,
    trainers,
)
from transformers import BertTokenizerLegacy, ByT5Tokenizer, PreTrainedTokenizerFast
from transformers.tokenization_python import PythonBackend

from homolog.corpus import alone, joined, token_texts

CORPUS = [
    "the cat sat on the mat, the dog ran: " * 3,
    "自分の 自動車 é ê ñ 🙂🙃 👩\u200d👧\n\n  x = 12;\tfoo(bar)",
]
BYTES = [f"<0x{byte:02X}>" for byte in range(256)]


def fast(backend: Tokenizer, **special: str) -> PreTrainedTokenizerFast:
    return PreTrainedTokenizerFast(
        tokenizer_object=backend, clean_up_tokenization_spaces=False, **special
    )


def trained(backend: Tokenizer, trainer: Any) -> PreTrainedTokenizerFast:
    backend.train_from_iterator(CORPUS, trainer)
    return fast(backend)


def byte_level(space: bool = False, decoder: bool = True) -> PreTrainedTokenizerFast:
    backend = Tokenizer(models.BPE())
    backend.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=space)
    backend.decoder = decoders.ByteLevel() if decoder else None
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    return trained(
        backend, trainers.BpeTrainer(vocab_size=300, initial_alphabet=alphabet, show_progress=False)
    )


def sentencepiece_bpe() -> PreTrainedTokenizerFast:
    """As Llama's: spaces are characters, unknown ones bytes, the first space is stripped."""
    pieces = ["▁", "▁t", "▁th", "▁the", "c", "a", "t", "h", "e", "自", "分"]
    vocabulary = {piece: i for i, piece in enumerate(["<unk>", *BYTES, *pieces])}
    merges = [("▁", "t"), ("▁t", "h"), ("▁th", "e")]
    backend = Tokenizer(
        models.BPE(vocabulary, merges, unk_token="<unk>", byte_fallback=True, fuse_unk=True)
    )
    backend.normalizer = normalizers.Sequence(
        [normalizers.Prepend("▁"), normalizers.Replace(" ", "▁")]
    )
    backend.decoder = decoders.Sequence(
        [
            decoders.Replace("▁", " "),
            decoders.ByteFallback(),
            decoders.Fuse(),
            decoders.Strip(" ", 1, 0),
        ]
    )
    return fast(backend, unk_token="<unk>")


def unigram(scheme: str = "always", fallback: bool = True) -> PreTrainedTokenizerFast:
    pieces = [
        ("<unk>", 0.0),
        *((byte, -20.0) for byte in BYTES),
        ("▁", -3.0),
        ("▁the", -2.0),
        ("cat", -3.0),
        ("自", -4.0),
    ]
    backend = Tokenizer(models.Unigram(pieces, unk_id=0, byte_fallback=True))
    backend.normalizer = normalizers.NFC()
    backend.pre_tokenizer = pre_tokenizers.Metaspace(prepend_scheme=scheme)
    spaces = decoders.Metaspace(prepend_scheme=scheme)
    backend.decoder = decoders.Sequence([decoders.ByteFallback(), spaces]) if fallback else spaces
    return fast(backend, unk_token="<unk>")


def word_suffixes() -> PreTrainedTokenizerFast:
    """As CLIP's: the last token of a word ends with a mark."""
    letters = "abcdefghijklmnopqrstuvwxyz"
    vocabulary = {
        piece: i
        for i, piece in enumerate(["<unk>", *letters, *(f"{c}</w>" for c in letters), "he</w>"])
    }
    backend = Tokenizer(
        models.BPE(vocabulary, [("h", "e</w>")], unk_token="<unk>", end_of_word_suffix="</w>")
    )
    backend.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    backend.decoder = decoders.BPEDecoder("</w>")
    return fast(backend, unk_token="<unk>")


def word_piece() -> PreTrainedTokenizerFast:
    characters = sorted({c for text in CORPUS for c in text if not c.isspace()})
    pieces = ["[UNK]", *characters, *(f"##{c}" for c in characters), "the", "##ing", "##at"]
    backend = Tokenizer(models.WordPiece({p: i for i, p in enumerate(pieces)}, unk_token="[UNK]"))
    backend.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
    backend.decoder = decoders.WordPiece(cleanup=False)
    return fast(backend, unk_token="[UNK]")


def pieces_of(tokenizer: Any, text: str) -> list[str]:
    texts = token_texts(tokenizer)
    ids = tokenizer(text, add_special_tokens=False)["input_ids"]
    pieces = joined([texts[i] for i in ids])
    assert len(pieces) == len(ids)
    return pieces


SPACED = st.lists(
    st.sampled_from(
        [
            "the",
            " ",
            "  ",
            "\n",
            "自",
            "é",
            "e\u0301",
            "🙂",
            "👩\u200d👧",
            "\x00",
            "\x85",
            "\u0430",
            "\ufb01",
            "<E8>",
        ]
    )
)
TEXT = st.one_of(st.text(max_size=40), SPACED.map("".join))


@pytest.mark.parametrize(
    ("make", "before", "normal"),
    [
        (byte_level, "", str),
        (lambda: byte_level(space=True), " ", str),
        (lambda: byte_level(decoder=False), "", str),
        (sentencepiece_bpe, " ", lambda text: text.replace("▁", " ")),
        (unigram, " ", lambda text: unicodedata.normalize("NFC", text).replace("▁", " ")),
        (
            lambda: unigram("first"),
            " ",
            lambda text: unicodedata.normalize("NFC", text).replace("▁", " "),
        ),
        (
            lambda: unigram("never"),
            "",
            lambda text: unicodedata.normalize("NFC", text).replace("▁", " "),
        ),
        (
            lambda: unigram("never", fallback=False),
            "",
            lambda t: unicodedata.normalize("NFC", t).replace("▁", " "),
        ),
        (ByT5Tokenizer, "", str),
    ],
    ids=[
        "bytes",
        "bytes-space",
        "bytes-no-decoder",
        "llama",
        "unigram",
        "unigram-first",
        "unigram-never",
        "unigram-no-fallback",
        "slow-bytes",
    ],
)
def test_joined_texts_are_the_text(
    make: Callable[[], Any], before: str, normal: Callable[[str], str]
) -> None:
    tokenizer = make()
    texts = token_texts(tokenizer)
    assert not [text for text in texts if isinstance(text, str) and "\ufffd" in text]

    @settings(max_examples=150, deadline=None, derandomize=True)
    @given(TEXT)
    def check(text: str) -> None:
        ids = tokenizer(text, add_special_tokens=False)["input_ids"]
        shown = "".join(joined([texts[i] for i in ids]))
        wanted = normal(text)
        assert shown in (wanted, before + wanted)  # no space is put before one, nor before nothing
        alphabet = set(wanted) | set(before) | set("<>0123456789ABCDEF")
        assert set("".join(alone(texts[i]) for i in ids)) <= alphabet

    check()


@pytest.mark.parametrize("make", [word_suffixes, word_piece])
def test_tokenizers_of_words_keep_letters_and_part_words(make: Callable[[], Any]) -> None:
    tokenizer = make()
    texts = token_texts(tokenizer)
    words = ["the", "cat", "a", "he", "hehe", "sat", "x"] + (
        ["自動", "é", "🙂", ","] if make is word_piece else []
    )

    @settings(max_examples=100, deadline=None, derandomize=True)
    @given(st.lists(st.sampled_from(words)))
    def check(some: list[str]) -> None:
        ids = tokenizer(" ".join(some), add_special_tokens=False)["input_ids"]
        shown = "".join(joined([texts[i] for i in ids]))
        assert shown.replace(" ", "") == "".join(some)
        assert [word for word in shown.split() if word.isascii()] == [
            word for word in some if word.isascii()
        ]

    check()


def test_a_character_of_several_tokens_stands_at_the_last_of_them() -> None:
    tokenizer = byte_level()
    tokenizer.backend_tokenizer.model = models.BPE(
        {c: i for i, c in enumerate(pre_tokenizers.ByteLevel.alphabet())}, []
    )
    assert pieces_of(tokenizer, "x 自é") == ["x", " ", "", "", "自", "", "é"]
    texts = token_texts(tokenizer)
    ids = tokenizer("自")["input_ids"]
    assert [texts[i] for i in ids] == [[0xE8], [0x87], [0xAA]]
    assert [alone(texts[i]) for i in ids] == ["<E8>", "<87>", "<AA>"]


def test_bytes_are_joined_within_what_is_given() -> None:
    e8, x87, aa = [0xE8], [0x87], [0xAA]
    assert joined([x87, aa, " a", e8, x87, aa, e8]) == ["<87>", "<AA>", " a", "", "", "自", "<E8>"]
    assert joined([e8, "a", x87]) == ["<E8>", "a", "<87>"]
    assert joined([[0x20, 0xE8], [0x87], [0xAA, 0xE8], [0x87, 0xAA, 0x21]]) == [
        " ",
        "",
        "自",
        "自!",
    ]
    assert joined(
        ["\ufffd", " ", "\udce8".encode("utf-8", "surrogateescape").decode("latin-1")]
    ) == [
        "\ufffd",
        " ",
        "è",
    ]
    assert joined([]) == []
    assert alone([0x20, 0xE8]) == " <E8>" and alone(" the") == " the"


@pytest.mark.parametrize("make", [sentencepiece_bpe, unigram])
def test_spaces_of_sentencepiece_are_kept(make: Callable[[], Any]) -> None:
    tokenizer = make()
    texts = dict(
        zip(
            tokenizer.convert_ids_to_tokens(list(range(len(tokenizer)))),
            token_texts(tokenizer),
            strict=True,
        )
    )
    assert (texts["▁the"], texts["▁"], texts["自"]) == (" the", " ", "自")
    assert (texts["<0xE8>"], texts["<0x41>"], texts["<unk>"]) == ([0xE8], "A", "<unk>")


def test_added_tokens_are_as_they_are_written() -> None:
    tokenizer = byte_level()
    tokenizer.add_tokens(["   ", "é!", AddedToken("<mask>", lstrip=True, rstrip=True)])
    tokenizer.add_special_tokens({"eos_token": "<|fin é|>"})
    assert pieces_of(tokenizer, "a   b é!<|fin é|>") == ["a", "   ", "b", " ", "é!", "<|fin é|>"]
    # it takes the spaces, and does not say so
    assert pieces_of(tokenizer, "a <mask> b") == ["a", "<mask>", "b"]
    tokenizer = sentencepiece_bpe()
    # as Gemma's runs of spaces: spelled by the model too
    tokenizer.add_tokens([AddedToken("▁the", normalized=False)])
    assert pieces_of(tokenizer, "the ▁the") == [" the", " ", " the"]


def test_a_vocabulary_that_has_spaces_needs_no_others() -> None:
    backend = Tokenizer(models.WordLevel({"the": 0, " cat": 1, " sat": 2}, unk_token="the"))
    backend.pre_tokenizer = pre_tokenizers.Split(Regex(r" ?\w+"), "isolated")
    assert pieces_of(fast(backend), "the cat sat") == ["the", " cat", " sat"]


def test_word_piece_by_hand() -> None:
    texts = dict(
        zip(
            (tokenizer := word_piece()).convert_ids_to_tokens(range(len(tokenizer))),
            token_texts(tokenizer),
            strict=True,
        )
    )
    assert (texts["##ing"], texts["the"], texts["[UNK]"]) == ("ing", " the", "[UNK]")


def test_slow_tokenizers(tmp_path: Any) -> None:
    (tmp_path / "vocab.txt").write_text(
        "\n".join(["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", "the", "##ing"])
    )
    assert token_texts(BertTokenizerLegacy(str(tmp_path / "vocab.txt")))[4:] == [
        "[MASK]",
        " the",
        "ing",
    ]

    class Bytes(PythonBackend):
        """Tokens are bytes, as those of the first Qwen; the fifth cannot be decoded."""

        tokens = (b"the", b"\xe8", b"\x87\xaa", "\ufffd", "中", "<eot>")
        vocab_size = len(tokens)

        def get_vocab(self) -> dict[Any, int]:
            return {token: i for i, token in enumerate(self.tokens)}

        def _convert_id_to_token(self, index: int) -> Any:
            return self.tokens[index]

        def _convert_token_to_id(self, token: Any) -> int:
            return self.tokens.index(token)

        def convert_tokens_to_string(self, tokens: list[Any]) -> str:
            return "".join("\ufffd" if token == "中" else str(token) for token in tokens)

    assert token_texts(Bytes(eos_token="<eot>")) == [
        "the",
        [0xE8],
        [0x87, 0xAA],
        "\ufffd",
        "<token 4>",
        "<eot>",
    ]


def test_an_id_that_no_token_has_is_named() -> None:
    backend = Tokenizer(models.WordLevel({"a": 0, "b": 3}, unk_token="a"))
    backend.pre_tokenizer = pre_tokenizers.Split(Regex(r"\s+"), "removed")
    assert token_texts(fast(backend)) == [" a", "<token 1>", "<token 2>", " b"]
    assert not re.search("\ufffd", "".join(pieces_of(fast(backend), "a b")))
