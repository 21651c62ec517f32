"""Windows of several tokenizers over one text, and their units, against an enumeration."""

from itertools import pairwise

import numpy as np
import pytest
from tests.reference.tiny_tokenizers import KINDS, tiny_tokenizer

from homolog.corpus import Document, TokenWindows, load_windows, pack, save_windows, token_texts
from homolog.corpus.together import Alignment, pack_together
from homolog.errors import InputError

TEXTS = [
    "the cat sat on the mat, the dog on the log. ",
    "日本語 and 😀 smiles, cafe\u0301 </s> or café ",
    "def main(argument):\r\n    return argument\n",
]
DOCUMENTS = [Document(TEXTS[i % 3] * (2 + i % 5) + str(i), f"{i}") for i in range(40)]
PAIRS = [("byte-level", "metaspace"), ("word pieces", "byte-level, NFC"), ("prepend", "characters")]
WHOLE = b"".join(document.text.encode() + b"\xff" for document in DOCUMENTS)


def packed(kinds: tuple[str, ...], n_tokens: int = 640) -> list[TokenWindows]:
    return pack_together(DOCUMENTS, [tiny_tokenizer(k) for k in kinds], 16, n_tokens=n_tokens)


@pytest.mark.parametrize("kind", KINDS)
def test_the_first_tokenizers_windows_are_those_of_pack(kind: str) -> None:
    (windows,) = packed((kind,))
    assert windows.hash == pack(DOCUMENTS, tiny_tokenizer(kind), 16, n_tokens=640).hash


@pytest.mark.parametrize("kinds", PAIRS)
def test_windows_lie_one_after_the_other_over_the_same_text(kinds: tuple[str, str]) -> None:
    a, b = packed(kinds)
    for windows in (a, b):
        assert windows.bounds is not None
        assert windows.bounds[1:, 0].tolist() == windows.bounds[:-1, -1].tolist()
    assert a.bounds is not None and b.bounds is not None
    assert b.bounds[-1, 0] < a.bounds[-1, -1]
    texts = token_texts(tiny_tokenizer("byte-level"))
    if kinds[0] == "byte-level":  # whose tokens spell the text
        spelled = b"".join(
            (texts[i].encode() if isinstance(texts[i], str) else bytes(texts[i]))  # type: ignore
            if m
            else b"\xff"
            for i, m in zip(a.tokens.flat, a.mask.flat, strict=True)
        )
        assert spelled.replace(b"\xff", b"") == WHOLE[: a.bounds[-1, -1]].replace(
            b"</s>", b""
        ).replace(b"\xff", b"")


def units_one_by_one(a: TokenWindows, b: TokenWindows) -> list[tuple]:
    """(rows of A, rows of B, bytes) of every unit that counts, from sets of positions."""
    sides = []
    for w in (a, b):
        assert w.bounds is not None
        row = np.cumsum(w.mask).reshape(w.mask.shape) - 1
        tokens = [
            (w.bounds[i, j], w.bounds[i, j + 1], bool(w.mask[i, j]), int(row[i, j]), i * 16 + j)
            for i in range(len(w))
            for j in range(16)
        ]
        sides.append(tokens)
    common = set.intersection(*({x for t in tokens for x in t[:2]} for tokens in sides))
    units, ordered = [], sorted(common)
    for begin, end in pairwise(ordered):
        within = [[t for t in tokens if begin < t[1] <= end] for tokens in sides]
        if all(
            part
            and sum(t[1] - t[0] for t in part) == end - begin
            and all(t[2] for t in part)
            and max(t[4] for t in part) - min(t[4] for t in part) == len(part) - 1
            for part in within
        ):
            units.append((*(sorted(t[3] for t in part) for part in within), end - begin))
    return sorted(units)


@pytest.mark.parametrize("kinds", PAIRS)
@pytest.mark.parametrize("shuffled", [False, True])
def test_units_that_count(kinds: tuple[str, str], shuffled: bool) -> None:
    a, b = packed(kinds)
    if shuffled:  # blocks of windows in another order, some left out
        a, b = a[np.r_[20:38, 2:15]], b[np.r_[len(b) // 2 : len(b), 1 : len(b) // 3]]
    aligned = Alignment.of(a, b)
    u = aligned.units
    rows = [
        (list(range(i, j + 1)), list(range(k, m + 1)), n)
        for i, j, k, m, n in zip(u.first_a, u.last_a, u.first_b, u.last_b, u.n_bytes, strict=True)
    ]
    assert rows == units_one_by_one(a, b) and len(rows) > 20
    assert (np.diff(u.first_a) > 0).all()
    assert aligned.document.tolist() == a.token_document[u.last_a].tolist()
    assert aligned.document.tolist() == b.token_document[u.last_b].tolist()


def test_what_a_run_says_of_units() -> None:
    """ab cd: tokens ab, cd against a, b, cd: units ab and cd, of 2 + 2 bytes, and EOT masked."""
    document = np.zeros((1, 3), np.int32)
    a = TokenWindows(
        np.zeros((1, 3), np.int32),
        document,
        np.array([[True, True, False]]),
        bounds=np.array([[0, 2, 4, 5]]),
        tokenizer_fingerprint="",
    )
    b = TokenWindows(
        np.zeros((1, 4), np.int32),
        np.zeros((1, 4), np.int32),
        np.array([[True, True, True, False]]),
        bounds=np.array([[0, 1, 2, 4, 5]]),
        tokenizer_fingerprint="",
    )
    facts = Alignment.of(a, b).facts()
    assert facts == {
        "units": 2,
        "tokens_per_unit": [1.0, 1.5],
        "single_share": 0.5,
        "text_share": 1.0,
    }


def test_windows_with_bounds_come_back_from_disk(tmp_path) -> None:
    windows, _ = packed(PAIRS[0])
    loaded = load_windows(save_windows(windows[3:9], tmp_path))
    assert loaded.bounds is not None and windows.bounds is not None
    assert loaded.bounds.tolist() == windows.bounds[3:9].tolist()
    assert loaded.hash == windows[3:9].hash


def test_text_that_fills_too_few_windows_is_refused() -> None:
    with pytest.raises(InputError, match="must fill 6250 windows of 16 tokens"):
        packed(PAIRS[0], 100_000)
