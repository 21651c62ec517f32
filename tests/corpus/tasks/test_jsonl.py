"""Prompts of one's own: read as they are written, refused with file and line."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from tests.corpus.tasks.helpers import word_level
from tests.reference.tiny_models import tiny_gpt_neox

from homolog.corpus.tasks import make_task, read_pairs
from homolog.errors import InputError
from homolog.models import load_tokenizer
from homolog.models.gpt_neox import GPTNeoX


def written(folder: Path, *lines: object) -> Path:
    path = folder / "capitals.jsonl"
    path.write_text(
        "\n".join(line if isinstance(line, str) else json.dumps(line) for line in lines) + "\n"
    )
    return path


_WORDS = "Paris,Rome, is, in, France, Italy,France, Spain, the, old, <eot>"
CAPITALS = word_level(_WORDS.split(","))
LINE = {
    "clean": "Paris is in",
    "corrupt": "Rome is in",
    "answer": " France",
    "distractor": " Italy",
}


def test_own_pairs_of_texts_and_of_token_ids(tmp_path: Path) -> None:
    ids = CAPITALS.get_vocab()
    tokens = [[ids[w] for w in (town, " is", " in")] for town in ("Paris", "Rome")]
    as_ids = {
        "clean": tokens[1],
        "corrupt": tokens[0],
        "answer": ids[" Italy"],
        "distractor": [ids[" France"]],
    }
    pairs = read_pairs(written(tmp_path, LINE, "", as_ids), CAPITALS)
    assert (pairs.name, pairs.seed, len(pairs), list(pairs.positions)) == (
        "capitals",
        None,
        2,
        ["last"],
    )
    assert pairs.clean.tolist() == tokens and pairs.corrupt.tolist() == tokens[::-1]
    assert pairs.answer.tolist() == [ids[" France"], ids[" Italy"]]
    assert pairs.distractor is not None and pairs.distractor.tolist() == [
        ids[" Italy"],
        ids[" France"],
    ]
    assert make_task(tmp_path / "capitals.jsonl", CAPITALS, 1).answer.tolist() == [ids[" France"]]
    assert len(make_task(tmp_path / "capitals.jsonl", CAPITALS)) == 2
    with pytest.raises(InputError, match=r"n_prompts is 3, but .* has 2 prompts"):
        make_task(str(tmp_path / "capitals.jsonl"), CAPITALS, 3)
    with pytest.raises(InputError, match="n_prompts is 0, but a task has at least one prompt"):
        make_task(str(tmp_path / "capitals.jsonl"), CAPITALS, 0)


def test_own_pairs_of_token_ids_need_no_tokenizer_and_no_distractor(tmp_path: Path) -> None:
    path = written(tmp_path, {"clean": [1, 2], "corrupt": [3, 2], "answer": 4})
    pairs = read_pairs(path, GPTNeoX("tiny", tiny_gpt_neox()))
    assert pairs.distractor is None and pairs.clean.tolist() == [[1, 2]] and len(pairs[:1]) == 1
    with pytest.raises(InputError, match=r"capitals.jsonl:1.*no token id of the model"):
        read_pairs(written(tmp_path, {"clean": [1, 97], "corrupt": [3, 2], "answer": 4}), range(97))


@pytest.mark.parametrize(
    ("lines", "parts"),
    [
        ([LINE, '{"clean": '], [":2", "JSON object"]),
        ([[1, 2]], [":1", "JSON object, not [1, 2]"]),
        ([LINE, {"clean": "Paris is in"}], [":2", "lacks corrupt and answer"]),
        (
            [LINE | {"distracter": "x"}],
            [":1", "'distracter' is not known", "Did you mean 'distractor'"],
        ),
        (
            [LINE | {"corrupt": "Rome is"}],
            [":1", "clean has 3 tokens and corrupt 2", "'Rome' + ' is'"],
        ),
        ([LINE | {"corrupt": LINE["clean"]}], [":1", "same prompt"]),
        (
            [LINE | {"answer": " France Spain"}],
            [":1", "answer must be one token", "' France' + ' Spain'"],
        ),
        ([LINE | {"answer": "Spain"}], [":1", "Write it with a space before it: ' Spain'"]),
        ([LINE | {"answer": " <eot>"}], [":1", "answer must be one token"]),
        ([LINE | {"distractor": " France"}], [":1", "the distractor is the answer"]),
        ([LINE | {"clean": [1, 2, "x"]}], [":1", "'x', which is no token id"]),
        ([LINE | {"clean": ""}], [":1", "clean must be a text or a list"]),
        (
            [LINE, LINE | {"clean": "Paris is in the", "corrupt": "Rome is in the"}, LINE],
            [":2", "2 of 3 tokens, 1 of 4 tokens", "file of their own"],
        ),
        (
            [LINE, {key: LINE[key] for key in ("clean", "corrupt", "answer")}],
            [":2", "no distractor"],
        ),
        ([""], ["at least one prompt"]),
    ],
)
def test_own_pairs_errors_name_file_and_line(tmp_path: Path, lines: list, parts: list[str]) -> None:
    with pytest.raises(InputError) as error:
        read_pairs(written(tmp_path, *lines), CAPITALS)
    assert "capitals.jsonl" in str(error.value)
    for part in parts:
        assert part in str(error.value)


def test_own_pairs_of_any_text_are_read_or_refused(tmp_path: Path) -> None:
    """Lines end with a line feed alone; bytes of a character are named, and lines of no text."""
    path = written(tmp_path, LINE)
    path.write_bytes(b"\xef\xbb\xbf" + path.read_bytes().replace(b"\n", b"\r\n"))
    assert len(read_pairs(path, CAPITALS)) == 1
    tokenizer = load_tokenizer("zoo:transformer-s0")
    line = {"clean": "a\u2028b", "corrupt": "c\u2028d", "answer": " the"}
    path.write_text(json.dumps(line, ensure_ascii=False), "utf-8")
    assert tokenizer.decode(read_pairs(path, tokenizer).clean[0].tolist()) == "a\u2028b"
    with pytest.raises(InputError, match=r"'\u81ea' as '<E8>' \+ '<87>' \+ '<AA>'"):
        read_pairs(written(tmp_path, line | {"answer": "\u81ea"}), tokenizer)
    for wrong in ('{"clean": "\\ud800"}', "[" * 100_000, '{"clean": ' + "9" * 5000 + "}"):
        with pytest.raises(
            InputError, match=r"capitals.jsonl:2', but the line must be a JSON object"
        ):
            read_pairs(written(tmp_path, LINE, wrong), CAPITALS)
    for name in (tmp_path, tmp_path / ("x" * 5000), "~nobody-of-that-name/a.jsonl"):
        with pytest.raises(InputError, match="must be a JSONL file in UTF-8"):
            read_pairs(name, CAPITALS)


def test_a_missing_file_is_named(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"none.jsonl"):
        make_task(tmp_path / "none.jsonl", CAPITALS, 1)
