"""Tasks: prompts by hand, what each corruption changes, and the errors of tokenizers and files."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from tests.reference.tiny_models import tiny_gpt_neox
from tokenizers import Regex, Tokenizer, models, pre_tokenizers
from transformers import PreTrainedTokenizerFast

from homolog.corpus import TokenWindows, fingerprint
from homolog.corpus.tasks import (
    CORRUPTIONS,
    TASKS,
    PromptPairs,
    associative_recall,
    greater_than,
    induction,
    ioi,
    make_task,
    natural_induction,
    ordinary_ids,
    read_pairs,
)
from homolog.corpus.tasks.templates import NAMES, NOUNS, PLACES, TEMPLATES, THINGS
from homolog.errors import InputError
from homolog.models import load_tokenizer
from homolog.models.gpt_neox import GPTNeoX

IDS = range(10, 400)


def word_level(words: list[str]) -> PreTrainedTokenizerFast:
    """One token a word with the space before it; digits in pairs."""
    vocabulary = {word: index for index, word in enumerate(dict.fromkeys(["<eot>", *words]))}
    backend = Tokenizer(models.WordLevel(vocabulary, unk_token="<eot>"))
    backend.pre_tokenizer = pre_tokenizers.Split(Regex(r" ?[A-Za-z]+| ?\d\d|[.,]"), "isolated")
    return PreTrainedTokenizerFast(tokenizer_object=backend, eos_token="<eot>", unk_token="<eot>")


def english() -> PreTrainedTokenizerFast:
    sentence = " ".join(TEMPLATES).replace(".", " .").replace(",", " ,").split()
    words = [word for word in sentence if not word.startswith("{")]
    words += [*NAMES, *PLACES, *THINGS, *NOUNS, "they", "lasted", "from", "year", "the"]
    digits = [f"{n:02d}" for n in range(100)]
    return word_level(
        [
            *words,
            *(f" {word}" for word in words),
            *digits,
            *(f" {d}" for d in digits),
            ".",
            ",",
            "The",
        ]
    )


def at(tokens: torch.Tensor, position: torch.Tensor) -> torch.Tensor:
    return tokens.gather(1, position[:, None])[:, 0]


def test_induction_prompts_repeat_one_token_and_ask_for_the_next() -> None:
    pairs = induction(IDS, 200, seed=3)
    a, b = at(pairs.clean, pairs.positions["A"]), at(pairs.clean, pairs.positions["B"])
    assert (len(pairs), pairs.length, pairs.clean.dtype, pairs.name) == (
        200,
        64,
        torch.int64,
        "induction",
    )
    assert torch.equal(pairs.clean[:, -1], a) and torch.equal(pairs.answer, b)
    assert torch.equal(pairs.positions["B"], pairs.positions["A"] + 1)
    assert torch.equal(pairs.positions["B+1"], pairs.positions["A"] + 2)
    assert set(pairs.positions["last"].tolist()) == {63}
    assert ((pairs.clean == a[:, None]).sum(1) == 2).all() and (
        (pairs.clean == b[:, None]).sum(1) == 1
    ).all()
    assert set(pairs.positions["A"].tolist()) == set(
        range(32)
    )  # 200 draws from 32: a gap has probability 0.06
    assert pairs.clean.min() >= 10 and pairs.clean.max() < 400
    assert ((pairs.clean == pairs.distractor[:, None]).sum(1) == 0).all()
    assert [len(set(row.tolist())) for row in pairs.clean] == [
        63
    ] * 200  # all differ but the repeat


def test_the_papers_second_prompt_has_a_first() -> None:
    pairs = induction(IDS, 5, length=129, first_index=0)
    assert pairs.clean.shape == (5, 129)
    assert torch.equal(pairs.clean[:, 0], pairs.clean[:, 128]) and torch.equal(
        pairs.answer, pairs.clean[:, 1]
    )


@pytest.mark.parametrize("repeat", [1, 4])
def test_what_each_corruption_changes(repeat: int) -> None:
    made = {
        c: induction(IDS, 50, seed=1, length=20, corruption=c, repeat=repeat) for c in CORRUPTIONS
    }
    one = made["replace_B"]
    a, b = one.positions["A"], one.positions["B"]
    rows, end = torch.arange(50), torch.arange(20) >= 20 - repeat
    changed = {c: pairs.clean != pairs.corrupt for c, pairs in made.items()}
    is_a, is_b = (torch.arange(20) == index[:, None] for index in (a, b))
    assert torch.equal(changed["replace_B"], is_b)
    assert torch.equal(changed["unrepeated"], end.expand(50, 20))
    assert torch.equal(changed["unrepeated_replace_AB"], end | is_a | is_b)
    assert changed["unrelated"].float().mean() > 0.9
    assert (
        not changed["repeat_another"][:, :-repeat].any() and changed["repeat_another"][:, -1].all()
    )
    assert torch.equal(at(one.corrupt, b), one.distractor)
    for c in ("unrepeated", "unrepeated_replace_AB", "unrelated"):
        assert [len(set(row.tolist())) for row in made[c].corrupt] == [20] * 50, c
    other = made["repeat_another"]
    earlier = (other.clean[:, : 20 - repeat] == other.corrupt[:, -1:]).long()
    assert (
        earlier.sum(1) == 1
    ).all()  # the corrupt prompt repeats another token; its answer is what came next
    assert torch.equal(other.clean[rows, earlier.argmax(1) + 1], other.distractor)
    assert (other.distractor != other.answer).all() and (
        other.distractor != other.clean[:, -1]
    ).all()
    for pairs in made.values():  # paired: the same clean prompts
        assert torch.equal(pairs.clean, one.clean) and torch.equal(pairs.answer, one.answer)
    for back in range(repeat):  # the repeat is of the tokens that end with A
        assert torch.equal(one.clean[:, -1 - back], one.clean[rows, a - back])


@pytest.mark.parametrize("corruption", CORRUPTIONS)
def test_a_vocabulary_smaller_than_the_prompt_keeps_the_answer_unambiguous(corruption: str) -> None:
    pairs = induction(range(12), 30, length=40, corruption=corruption)
    a = pairs.clean[:, -1:]
    assert ((pairs.clean == a).sum(1) == 2).all()
    assert ((pairs.clean == pairs.answer[:, None]).sum(1) == 1).all()
    assert (pairs.answer != pairs.distractor).all()


def test_seeds_decide_and_only_they() -> None:
    first, again, other = (induction(IDS, 8, seed=s) for s in (5, 5, 6))
    assert torch.equal(first.clean, again.clean) and torch.equal(first.corrupt, again.corrupt)
    assert not torch.equal(first.clean, other.clean)


def test_associative_recall_asks_for_the_value_of_a_key() -> None:
    pairs = associative_recall(IDS, 100, n_pairs=5)
    assert pairs.length == 11 and (pairs.positions["A"] % 2 == 0).all()
    assert torch.equal(at(pairs.clean, pairs.positions["A"]), pairs.clean[:, -1])
    assert torch.equal(at(pairs.clean, pairs.positions["B"]), pairs.answer)
    assert set(pairs.positions["A"].tolist()) == {0, 2, 4, 6, 8}
    assert torch.equal(pairs.clean[:, :-1], pairs.corrupt[:, :-1])
    keys, values = pairs.clean[:, 0:-1:2], pairs.clean[:, 1::2]
    asked = keys == pairs.corrupt[:, -1:]
    assert (asked.sum(1) == 1).all() and torch.equal(values[asked], pairs.distractor)
    assert (pairs.distractor != pairs.answer).all()


def test_ids_of_a_model_are_those_its_tokenizer_knows_and_its_embedding_holds() -> None:
    tokenizer = word_level(["a", "b", "c"])
    model = GPTNeoX("tiny", tiny_gpt_neox(), None)
    assert ordinary_ids(model).tolist() == list(range(97))
    assert ordinary_ids(tokenizer).tolist() == [1, 2, 3]
    assert ordinary_ids(GPTNeoX("tiny", tiny_gpt_neox(), tokenizer)).tolist() == [1, 2, 3]
    assert ordinary_ids([4, 2]).tolist() == [2, 4]
    assert make_task("induction", model, 4, length=10).clean.shape == (4, 10)


def test_chunks_of_a_batch() -> None:
    pairs = greater_than(english(), 6)
    part = pairs[2:4]
    assert (
        isinstance(part, PromptPairs)
        and len(part) == 2
        and part.right is not None
        and part.choices is not None
    )
    assert torch.equal(part.clean, pairs.clean[2:4]) and len(part.right) == 2
    assert torch.equal(part.choices, pairs.choices)
    assert torch.equal(part.positions["year"], pairs.positions["year"][2:4])
    assert torch.equal(pairs[torch.tensor([5, 0])].answer, pairs.answer[[5, 0]])


WINDOW = [5, 1, 2, 6, 7, 1, 2, 8, 9, 9]  # "1 2" recurs: at index 5 the text calls for induction


def windows(*rows: list[int], special: tuple[int, ...] = ()) -> TokenWindows:
    tokens = np.array(rows, dtype=np.int32)
    return TokenWindows(
        tokens, np.zeros_like(tokens), ~np.isin(tokens, special), tokenizer_fingerprint="x"
    )


def test_natural_induction_finds_the_recurrence() -> None:
    pairs = natural_induction(windows(WINDOW), 1, length=6)
    assert pairs.clean.tolist() == [[5, 1, 2, 6, 7, 1]]
    assert (
        pairs.answer.tolist(),
        pairs.positions["A"].tolist(),
        pairs.positions["B"].tolist(),
    ) == ([2], [1], [2])
    assert pairs.distractor.tolist()[0] in {8, 9}  # not in the prompt, not the answer
    assert pairs.corrupt.tolist() == [[5, 1, pairs.distractor.tolist()[0], 6, 7, 1]]
    assert natural_induction(windows(WINDOW), 1, length=5).clean.tolist() == [[1, 2, 6, 7, 1]]


@pytest.mark.parametrize(
    ("row", "length", "special"),
    [
        (WINDOW, 4, ()),  # the first A lies before the prompt
        ([1, 1, 2, 6, 7, 1, 2, 8, 9, 9], 6, ()),  # A twice before
        ([2, 1, 2, 6, 7, 1, 2, 8, 9, 9], 6, ()),  # B twice before
        (WINDOW, 6, (6,)),  # a special token between: another document
        ([5, 1, 1, 1, 7, 8, 9, 4, 3, 6], 4, ()),  # A A A
        ([5, 1, 2, 6, 7, 1, 3, 8, 9, 4], 6, ()),  # A recurs, and something else follows
    ],
)
def test_natural_induction_leaves_out_what_is_ambiguous(
    row: list[int], length: int, special: tuple
) -> None:
    with pytest.raises(
        InputError, match=f"1 windows of 10 tokens have 0 .* within {length} tokens"
    ):
        natural_induction(windows(row, special=special), 1, length=length)


def test_natural_induction_leaves_out_what_a_bigram_model_knows() -> None:
    elsewhere = [1, 2, 3, 1, 2, 4, 1, 2, 5, 6]  # B follows 3 of 3 occurrences of A here
    with pytest.raises(InputError, match="have 0"):
        natural_induction(windows(WINDOW, elsewhere), 1, length=6, max_bigram=0.9)
    assert len(natural_induction(windows(WINDOW, elsewhere), 1, length=6, max_bigram=1.0)) == 1
    other = [1, 3, 3, 1, 4, 4, 1, 2, 5, 6]  # 1 of 3
    assert len(natural_induction(windows(WINDOW, other), 1, length=6, max_bigram=0.34)) == 1
    with pytest.raises(InputError, match="have 0"):
        natural_induction(windows(WINDOW, other), 1, length=6, max_bigram=0.32)


def test_natural_induction_takes_one_place_of_each_window() -> None:
    rows = [[10 * n + t for t in WINDOW] for n in range(8)]
    pairs = natural_induction(windows(*rows), 8, length=6)
    assert sorted(pairs.answer.tolist()) == [10 * n + 2 for n in range(8)]


def test_ioi_by_reading_the_prompts() -> None:
    tokenizer = english()
    pairs = ioi(tokenizer, 40)
    words = [[tokenizer.decode([t]).strip() for t in row] for row in pairs.clean.tolist()]
    for i, row in enumerate(words):
        place = {name: int(position[i]) for name, position in pairs.positions.items()}
        io, s = row[place["IO"]], row[place["S1"]]
        assert {io, s} <= set(NAMES) and io != s and row[place["S2"]] == s and row.count(io) == 1
        assert tokenizer.decode([int(pairs.answer[i])]).strip() == io
        assert tokenizer.decode([int(pairs.distractor[i])]).strip() == s
        assert (
            row[-1] in {"to", "it"}
            and place["last"] == len(row) - 1
            and place["S1+1"] == place["S1"] + 1
        )
    assert {bool(x) for x in pairs.positions["IO"] < pairs.positions["S1"]} == {True, False}
    names = {int(t) for t in ordinary_ids(tokenizer) if tokenizer.decode([int(t)]).strip() in NAMES}
    changed = pairs.clean != pairs.corrupt
    assert (changed.sum(1) == 3).all()  # three names, each replaced by another one
    assert set(pairs.corrupt[changed].tolist()) <= names
    assert all(
        len(set(row[c].tolist())) == 3 for row, c in zip(pairs.corrupt, changed, strict=True)
    )


def test_ioi_swapped_calls_for_the_distractor() -> None:
    pairs = ioi(english(), 10, corruption="swap")
    changed = pairs.clean != pairs.corrupt
    assert (changed.sum(1) == 1).all() and torch.equal(
        changed.long().argmax(1), pairs.positions["S2"]
    )
    assert torch.equal(at(pairs.corrupt, pairs.positions["S2"]), pairs.answer)


def test_greater_than_by_reading_the_prompts() -> None:
    tokenizer = english()
    pairs = greater_than(tokenizer, 30)
    assert pairs.choices is not None and pairs.right is not None and pairs.distractor is not None
    values = np.array([int(tokenizer.decode([t])) for t in pairs.choices.tolist()])
    assert values.tolist() == list(range(100))
    for i, row in enumerate(pairs.clean.tolist()):
        year = int(tokenizer.decode([row[int(pairs.positions["year"][i])]]))
        assert pairs.right[i].tolist() == (values > year).tolist()
        assert int(tokenizer.decode([int(pairs.answer[i])])) > year
        assert int(tokenizer.decode([int(pairs.distractor[i])])) <= year
        assert int(tokenizer.decode([row[-1]])) in range(11, 18)
    assert tokenizer.decode(at(pairs.corrupt, pairs.positions["year"])[:1].tolist()) == "01"
    assert ((pairs.clean != pairs.corrupt).sum(1) == 1).all()


@pytest.mark.parametrize(
    ("task", "parts"),
    [
        (
            "ioi",
            [
                "name is 'John'",
                "5 or more names as one token each and has 0",
                "' John' as ' J' + 'o' + 'h' + 'n'",
            ],
        ),
        ("greater_than", ["year is '1732'", "' 1732' as ' 1' + '7' + '3' + '2'"]),
    ],
)
def test_a_tokenizer_that_splits_the_words_is_refused_with_the_split(
    task: str, parts: list[str]
) -> None:
    with pytest.raises(InputError) as error:
        make_task(task, load_tokenizer("zoo:transformer-s0"), 4)
    for part in [*parts, "own pairs as JSONL"]:
        assert part in str(error.value)


def test_years_in_single_digits_are_refused() -> None:
    words = ["The", *NOUNS, "lasted", "from", "the", "year", "to", *"0123456789"]
    backend_words = [*words, *(f" {w}" for w in words)]
    vocabulary = {word: index for index, word in enumerate(["<eot>", *backend_words])}
    backend = Tokenizer(models.WordLevel(vocabulary, unk_token="<eot>"))
    backend.pre_tokenizer = pre_tokenizers.Split(Regex(r" ?[A-Za-z]+| ?\d"), "isolated")
    tokenizer = PreTrainedTokenizerFast(
        tokenizer_object=backend, eos_token="<eot>", unk_token="<eot>"
    )
    with pytest.raises(InputError, match=r"' 1732' as ' 1' \+ '7' \+ '3' \+ '2'"):
        greater_than(tokenizer, 2)


def test_names_of_one_token_are_kept_and_too_few_are_an_error() -> None:
    tokenizer = english()
    pairs = ioi(
        tokenizer, 12, names=[*NAMES[:5], "Bartholomew"]
    )  # an unknown word is no token of its own
    assert {tokenizer.decode([t]).strip() for t in pairs.answer.tolist()} <= set(NAMES[:5])
    with pytest.raises(InputError, match=r"name is 'Bartholomew'.* has 4"):
        ioi(tokenizer, 12, names=[*NAMES[:4], "Bartholomew"])


@pytest.mark.parametrize(
    ("call", "parts"),
    [
        (lambda: make_task("inducton", IDS), ["inducton", "Did you mean 'induction'", *TASKS]),
        (
            lambda: make_task("induction", IDS, corupt="x"),
            ["corupt", "Did you mean 'corruption'", "first_index"],
        ),
        (
            lambda: induction(IDS, 4, corruption="replaceB"),
            ["replaceB", "Did you mean 'replace_B'"],
        ),
        (lambda: induction(IDS, 0), ["n_prompts", "at least one"]),
        (lambda: induction(IDS, 1, seed=-1), ["seed", "0 or more"]),
        (lambda: induction(IDS, 1, length=4), ["length", "Give 5 or more"]),
        (lambda: induction(IDS, 1, length=8, repeat=4), ["length", "Give 10 or more"]),
        (lambda: induction(IDS, 1, length=10, first_index=7), ["first_index", "Give 0 to 6"]),
        (lambda: induction(range(5), 1), ["5 tokens", "more than 5"]),
        (lambda: induction([1, 1, 2], 1), ["token ids", "different non-negative integers"]),
        (
            lambda: associative_recall(range(20), 1, n_pairs=10),
            ["n_pairs", "there are 20", "Give 8 or fewer"],
        ),
        (lambda: associative_recall(range(20), 1, n_pairs=1), ["n_pairs", "another key"]),
        (
            lambda: ioi(GPTNeoX("tiny", tiny_gpt_neox()), 1),
            ["tokenizer", "tiny", "needs a tokenizer"],
        ),
        (lambda: make_task("natural_induction", english(), 2), ["windows", "pack("]),
        (
            lambda: make_task("natural_induction", english(), 2, windows=windows(WINDOW)),
            ["another tokenizer"],
        ),
        (lambda: natural_induction(windows(WINDOW), 1, length=10), ["length", "4 to 9"]),
    ],
)
def test_errors_say_what_to_do(call, parts: list[str]) -> None:
    with pytest.raises(InputError) as error:
        call()
    for part in parts:
        assert part in str(error.value)


def test_natural_induction_by_name() -> None:
    tokenizer = english()
    text = windows(WINDOW)
    text = TokenWindows(
        text.tokens, text.document, text.mask, tokenizer_fingerprint=fingerprint(tokenizer)
    )
    assert make_task("natural_induction", tokenizer, 1, windows=text, length=6).answer.tolist() == [
        2
    ]
    with pytest.raises(InputError, match="Did you mean 'max_bigram'"):
        make_task("natural_induction", tokenizer, 1, windows=text, max_bigrm=6)


def written(folder: Path, *lines: object) -> Path:
    path = folder / "capitals.jsonl"
    path.write_text(
        "\n".join(line if isinstance(line, str) else json.dumps(line) for line in lines) + "\n"
    )
    return path


CAPITALS = word_level(
    [
        "Paris",
        "Rome",
        " is",
        " in",
        " France",
        " Italy",
        "France",
        " Spain",
        " the",
        " old",
        " <eot>",
    ]
)
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
    with pytest.raises(InputError, match=r"n_prompts is 3, but .* has 2 prompts"):
        make_task(str(tmp_path / "capitals.jsonl"), CAPITALS, 3)


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
    """A line ends with a line feed alone; bytes of a character are named; what is no text is
    refused by line.
    """
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
