"""Packing, masks and hashes on a tokenizer of words, where the expected ids can be read off."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from safetensors.numpy import save_file
from tokenizers import AddedToken, Tokenizer, models, normalizers, pre_tokenizers, processors
from transformers import PreTrainedTokenizerFast
from transformers.tokenization_python import PythonBackend

from homolog.corpus import (
    Document,
    TokenWindows,
    check_same_tokenizer,
    fingerprint,
    load_windows,
    pack,
    read_documents,
    save_windows,
    special_tokens,
)
from homolog.errors import InputError
from homolog.record.parts import write_part

WORDS = ["<eot>", "a", "b", "c", "d", "e"]


def words(names: list[str] | None = None, **special: str | None) -> PreTrainedTokenizerFast:
    vocabulary = {word: index for index, word in enumerate(names or WORDS)}
    backend = Tokenizer(models.WordLevel(vocabulary, unk_token="<eot>"))
    backend.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    return PreTrainedTokenizerFast(tokenizer_object=backend, **({"eos_token": "<eot>"} | special))


def documents(*texts: str) -> list[Document]:
    return [Document(text, f"test:{index}") for index, text in enumerate(texts)]


def test_packing_by_hand() -> None:
    windows = pack(documents("a b c", "d", "e a b c d e"), words(), context=4)
    # stream: a b c . d . e a b c d e .   -> three windows, one token dropped
    assert windows.tokens.tolist() == [[1, 2, 3, 0], [4, 0, 5, 1], [2, 3, 4, 5]]
    assert windows.document.tolist() == [[0, 0, 0, 0], [1, 1, 2, 2], [2, 2, 2, 2]]
    assert windows.mask.tolist() == [[True] * 3 + [False], [True, False, True, True], [True] * 4]
    assert (len(windows), windows.context, windows.n_tokens) == (3, 4, 12)
    assert (windows.n_dropped, windows.n_documents) == (1, 3)
    assert windows.token_document.tolist() == [0, 0, 0, 1, 2, 2, 2, 2, 2, 2]
    assert (windows.tokens.dtype, windows.document.dtype, windows.mask.dtype) == (
        np.int32,
        np.int32,
        np.bool_,
    )


def test_a_special_token_written_in_the_text_is_masked_too() -> None:
    windows = pack(documents("a <eot> b c d e a"), words(), context=4)
    assert windows.tokens.tolist() == [[1, 0, 2, 3], [4, 5, 1, 0]]
    assert windows.mask.tolist() == [[True, False, True, True], [True, True, True, False]]


def test_every_special_id_is_masked() -> None:
    windows = pack(documents("a b c"), words(bos_token="b", pad_token="c"), context=4)
    assert windows.mask.tolist() == [[True, False, False, False]]


def test_a_special_token_in_the_text_ends_no_document() -> None:
    windows = pack(documents("a <eot> b", "c d"), words(), context=7)
    assert windows.tokens.tolist() == [[1, 0, 2, 0, 3, 4, 0]]
    assert windows.document.tolist() == [[0, 0, 0, 0, 1, 1, 1]]


def test_a_token_that_is_special_in_the_tokenizer_alone_is_masked() -> None:
    tokenizer = words()
    tokenizer.backend_tokenizer.add_special_tokens([AddedToken("<sink>", special=True)])
    tokenizer.backend_tokenizer.add_tokens([AddedToken("<run>", special=False)])
    assert tokenizer.all_special_ids == [0]  # the configuration does not name them
    assert special_tokens(tokenizer) == {0: "<eot>", 6: "<sink>"}
    windows = pack(documents("a <sink> b <run> c"), tokenizer, context=6)
    assert windows.tokens.tolist() == [[1, 6, 2, 7, 3, 0]]
    assert windows.mask.tolist() == [[True, False, True, True, True, False]]


def test_special_tokens_of_a_tokenizer_without_a_backend() -> None:
    class Slow(PythonBackend):
        vocab_size = 2

        def get_vocab(self) -> dict[str, int]:
            return {"<eot>": 0, "a": 1} | self.get_added_vocab()

        def _tokenize(self, text: str, **kwargs: object) -> list[str]:
            return text.split()

        def _convert_token_to_id(self, token: str) -> int:
            return ["<eot>", "a"].index(token)

        def _convert_id_to_token(self, index: int) -> str:
            return ["<eot>", "a"][index]

    tokenizer = Slow(
        eos_token="<eot>",
        added_tokens_decoder={
            2: AddedToken("<sink>", special=True),
            3: AddedToken("<run>", special=False),
        },
    )
    assert special_tokens(tokenizer) == {0: "<eot>", 2: "<sink>"}
    windows = pack(documents("a <sink> <run>"), tokenizer, context=4)
    assert windows.tokens.tolist() == [[1, 2, 3, 0]] and windows.mask.tolist() == [
        [True, False, True, False]
    ]


def test_the_fingerprint_of_stored_dictionaries_stays() -> None:
    named, unnamed = words(), words()
    for tokenizer in (named, unnamed):
        tokenizer.backend_tokenizer.add_special_tokens([AddedToken("<sink>", special=True)])
    assert fingerprint(named) == fingerprint(unnamed) != fingerprint(words())
    named.pad_token = "<sink>"
    assert fingerprint(named) != fingerprint(unnamed)  # the named ones decide, as they always did


def test_text_of_special_tokens_alone_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "a.txt"
    path.write_text("<eot> <eot> <eot>")
    none_left = "but no token of it is left that is not masked: all 4 are special"
    message = rf"4 tokens in 1 documents of .*a\.txt', {none_left}"
    for fewer in (False, True):
        with pytest.raises(InputError, match=message):
            pack(read_documents(path), words(), context=4, n_tokens=4, fewer=fewer)
    windows = pack(documents("<eot> a", "<eot>"), words(), context=2)
    with pytest.raises(
        InputError, match=r"corpus is 'part 1', but no token of it is left .* all 2 are special"
    ):
        windows[1:].require_unmasked("part 1")


def test_documents_read_and_left_out_are_counted(tmp_path: Path) -> None:
    path = tmp_path / "a.jsonl"
    path.write_text(
        "".join(json.dumps({"text": text}) + "\n" for text in ["a b", "", " \n", "c", "\x00"])
    )
    tokenizer = words()
    # leaves the last without a token
    tokenizer.backend_tokenizer.normalizer = normalizers.Replace("\x00", "")
    windows = pack(read_documents(path, shuffle=False), tokenizer, context=5)
    assert windows.tokens.tolist() == [[1, 2, 0, 3, 0]]
    assert (windows.n_read, windows.n_empty, windows.n_documents) == (5, 3, 2)
    with pytest.raises(
        InputError, match=r"5 tokens in 2 documents of .*a\.jsonl, 3 empty ones left out'"
    ):
        pack(read_documents(path), tokenizer, context=6)
    windows = pack(documents("a", "", "b"), words(), context=2)
    assert (windows.n_read, windows.n_empty, windows.document.tolist()) == (3, 1, [[0, 0], [1, 1]])


def test_documents_are_joined_by_the_beginning_of_text_token_if_there_is_no_end_of_text() -> None:
    windows = pack(documents("a", "b"), words(eos_token=None, bos_token="e"), context=2)
    assert windows.tokens.tolist() == [[1, 5], [2, 5]]
    with pytest.raises(InputError, match="end-of-text or beginning-of-text"):
        pack(documents("a"), words(eos_token=None), context=2)


def test_as_many_tokens_as_asked_for_in_whole_windows() -> None:
    read = []

    def endless():
        for index in range(10**6):
            read.append(index)
            yield Document("a b c", str(index))

    windows = pack(endless(), words(), context=8, n_tokens=100)
    assert windows.n_tokens == 104  # 13 windows of 8
    assert len(read) == 256  # no more than one batch of documents


def test_fewer_tokens_where_the_text_holds_no_more() -> None:
    texts = documents("a b c", "d", "e a b c d e")  # 13 tokens with the ends
    with pytest.raises(InputError, match="fill 25 windows"):
        pack(texts, words(), context=4, n_tokens=100)
    assert pack(texts, words(), context=4, n_tokens=100, fewer=True).n_tokens == 12
    assert pack(texts, words(), context=4, n_tokens=7, fewer=True).n_tokens == 8
    with pytest.raises(InputError, match=r"13 tokens in 3 documents.*fill 1 windows of 20"):
        pack(texts, words(), context=20, n_tokens=100, fewer=True)


def test_windows_by_number_in_any_order() -> None:
    windows = pack(documents("a b c", "d", "e a b c d e"), words(), context=4)
    chosen = windows[np.array([2, 0])]
    assert chosen.tokens.tolist() == [[2, 3, 4, 5], [1, 2, 3, 0]]
    assert chosen.mask.tolist() == [[True] * 4, [True] * 3 + [False]]
    assert chosen.document.tolist() == [[2] * 4, [0] * 4]


@pytest.mark.parametrize(
    ("texts", "n_tokens", "found"),
    [
        ([], None, "0 tokens in 0 documents"),
        (["a b"], None, "3 tokens in 1 documents"),
        (["a b c"] * 5, 100, "20 tokens in 5 documents"),
    ],
)
def test_too_little_text_is_an_error_with_the_counts(
    texts: list[str], n_tokens: int | None, found: str
) -> None:
    with pytest.raises(InputError, match="windows of 4 tokens") as raised:
        pack(documents(*texts), words(), context=4, n_tokens=n_tokens)
    assert raised.value.value == found


def test_slices_keep_documents_and_have_their_own_hash() -> None:
    windows = pack(documents("a b c", "d", "e a b c d e"), words(), context=4)
    first, rest = windows.split(1)
    assert (len(first), len(rest)) == (1, 2)
    assert rest.document.tolist() == [[1, 1, 2, 2], [2, 2, 2, 2]]
    assert len({windows.hash, first.hash, rest.hash}) == 3
    assert windows[1:].hash == rest.hash
    assert windows[:].hash == windows.hash


def changed(windows: TokenWindows, **arrays: np.ndarray) -> str:
    old = {"tokens": windows.tokens, "document": windows.document, "mask": windows.mask}
    return TokenWindows(**(old | arrays), tokenizer_fingerprint=windows.tokenizer_fingerprint).hash


def test_the_hash_changes_with_tokens_documents_mask_and_context() -> None:
    windows = pack(documents("a b c d e a b"), words(), context=4)
    hashes = [
        windows.hash,
        changed(windows, tokens=windows.tokens[:, ::-1]),
        changed(windows, document=windows.document + 1),
        changed(windows, mask=~windows.mask),
        pack(documents("a b c d e a b"), words(), context=8).hash,
        pack(documents("a b c", "e a b"), words(), context=4).hash,
    ]
    assert len(set(hashes)) == len(hashes)
    assert (
        changed(windows)
        == windows.hash
        == pack(documents("a b c d e a b"), words(), context=4).hash
    )


def test_save_and_load(tmp_path: Path) -> None:
    windows = pack(documents("a b c", "d", "e a b c d e"), words(), context=4)
    loaded = load_windows(save_windows(windows, tmp_path / "corpus"))
    assert (loaded.hash, loaded.n_dropped) == (windows.hash, 1)
    assert loaded.tokenizer_fingerprint == windows.tokenizer_fingerprint
    np.testing.assert_array_equal(loaded.tokens, windows.tokens)
    again = save_windows(loaded, tmp_path / "again")
    file = "windows.safetensors"
    assert (again / file).read_bytes() == (tmp_path / "corpus" / file).read_bytes()


def test_windows_of_an_older_format_are_refused_until_saved_again(tmp_path: Path) -> None:
    windows = pack(documents("a b c"), words(), context=4)
    arrays = {"tokens": windows.tokens, "document": windows.document, "mask": windows.mask}
    save_file(arrays, tmp_path / "windows.safetensors")
    (tmp_path / "windows.json").write_text("{}")  # the manifest of format 1
    for _ in range(2):  # and they are left as they are
        with pytest.raises(InputError, match=r"format 1, this version reads 2.*save them again"):
            load_windows(tmp_path)
    assert load_windows(save_windows(windows, tmp_path)).hash == windows.hash


@pytest.mark.parametrize("damage", ["flip", "truncate", "remove", "empty", "other", "folder"])
def test_damaged_windows_are_not_loaded(tmp_path: Path, damage: str) -> None:
    folder = save_windows(pack(documents("a b c"), words(), context=4), tmp_path)
    path = folder / "windows.safetensors"
    contents = bytearray(path.read_bytes())
    if damage == "flip":
        contents[-1] ^= 1
        path.write_bytes(contents)
    elif damage == "truncate":
        path.write_bytes(contents[:-3])
    elif damage == "empty":
        path.write_bytes(b"")
    elif damage == "other":  # whole, and not made by `save_windows`
        write_part(path, {"tokens": np.zeros((1, 4), np.int32)}, "something else")
    else:
        path.unlink()
        if damage == "folder":
            path.mkdir()
    with pytest.raises(InputError, match="whole and unaltered"):
        load_windows(folder)


def test_the_fingerprint_follows_what_decides_ids() -> None:
    same = words()
    same.backend_tokenizer.post_processor = processors.TemplateProcessing(
        single="<eot> $A", special_tokens=[("<eot>", 0)]
    )
    same.backend_tokenizer.enable_truncation(4)
    assert fingerprint(words()) == fingerprint(same)
    lower = words()
    lower.backend_tokenizer.normalizer = normalizers.Lowercase()
    split = words()
    split.backend_tokenizer.pre_tokenizer = pre_tokenizers.Punctuation()
    added = words()
    added.add_tokens(["f"])
    others = [
        words(["<eot>", "b", "a", "c", "d", "e"]),
        lower,
        split,
        added,
        words(bos_token="a"),
        words(eos_token="e"),
    ]
    assert len({fingerprint(tokenizer) for tokenizer in [words(), *others]}) == 1 + len(others)


def test_models_with_different_tokenizers_are_named() -> None:
    assert check_same_tokenizer("one", words(), "two", words()) == fingerprint(words())
    other = words([*WORDS, "f"])
    with pytest.raises(InputError, match="one and two must read the same tokens") as raised:
        check_same_tokenizer("one", words(), "two", other)
    assert "one: 6 entries" in str(raised.value.value)
    assert "two: 7 entries" in str(raised.value.value)
    with pytest.raises(
        InputError, match="tokenizer is 'two', but the model must come with a tokenizer"
    ):
        check_same_tokenizer("one", words(), "two", None)


def test_shuffled_windows_are_the_same_windows_in_another_order() -> None:
    tokens = np.arange(40, dtype=np.int32).reshape(10, 4)
    windows = TokenWindows(tokens, tokens // 8, tokens % 5 > 0, tokenizer_fingerprint="f")
    shuffled = windows.shuffled(3)
    assert shuffled.tokens[:, 0].tolist() != windows.tokens[:, 0].tolist()
    assert sorted(shuffled.tokens.tolist()) == windows.tokens.tolist()
    assert (shuffled.document == shuffled.tokens // 8).all() and (
        shuffled.mask == (shuffled.tokens % 5 > 0)
    ).all()
    assert shuffled.hash == windows.shuffled(3).hash != windows.hash
