"""Questions show what they should; answers are read strictly."""

from __future__ import annotations

import pytest

from homolog.analyses.ratings import prompts
from homolog.analyses.ratings.prompts import (
    Excerpt,
    Explanation,
    read_detection,
    read_explanation,
)


def test_the_question_marks_tokens_and_gives_values_of_ten():
    text = prompts.explain(
        [Excerpt((" the", " cat", " sat"), (0.0, 2.0, 4.1), 2), Excerpt(("\n",), (8.2,), 0)], 8.2
    )
    assert "Text 1:  the« cat»« sat»\nValues: cat 3, sat 5" in text
    assert 'Text 2: «\n»\nValues: "\\n" 10' in text


def test_the_test_marks_one_token_whatever_its_value():
    text = prompts.detect(
        "cats", [Excerpt((" a", " cat"), (0.0, 3.0), 1), Excerpt((" a", " dog"), (0.0, 0.0), 1)]
    )
    assert "    cats\n" in text and "2 numbered texts" in text
    assert "Text 1:  a« cat»\n\nText 2:  a« dog»" in text


def test_a_text_that_looks_like_a_place_to_fill_stays_text():
    text = prompts.detect("{{ texts }} {{ n }}", [Excerpt(("{{ explanation }}",), (1.0,), 0)])
    assert "    {{ texts }} {{ n }}\n" in text and "Text 1: «{{ explanation }}»" in text


@pytest.mark.parametrize(
    "reply",
    [
        '{"explanation": "cats", "complexity": 2, "consistency": 5}',
        'Here it is:\n```json\n{"explanation": " cats ", "complexity": 2, "consistency": '
        "5}\n```\nDone {x}.",
    ],
)
def test_an_answer_may_stand_in_a_fence_or_among_words(reply):
    assert read_explanation(reply) == Explanation("cats", 2, 5)


@pytest.mark.parametrize(
    "reply",
    [
        "",
        "cats",
        '{"explanation": "cats", "complexity": 2}',
        '{"explanation": "", "complexity": 2, "consistency": 5}',
        '{"explanation": "cats", "complexity": 0, "consistency": 5}',
        '{"explanation": "cats", "complexity": 2.5, "consistency": 5}',
        '{"explanation": "cats", "complexity": "2", "consistency": 5}',
        '{"explanation": "cats", "complexity": true, "consistency": 5}',
        '{"explanation": "cats", "complexity": 2, "consistency": 5',
        '{"explanation": "a", "complexity": 2, "consistency": 5} {"explanation": "b"}',
        "{" * 5000,
    ],
)
def test_nothing_is_guessed_from_a_malformed_answer(reply):
    assert read_explanation(reply) is None


def test_numbers_of_texts():
    assert read_detection('{"active": [1, 3, 3]}', 3) == {0, 2}
    assert read_detection('{"active": []}', 3) == frozenset()
    for reply in (
        '{"active": [0]}',
        '{"active": [4]}',
        '{"active": ["1"]}',
        '{"active": 1}',
        "[1, 2]",
        '{"active": [true]}',
    ):
        assert read_detection(reply, 3) is None


def test_the_version_changes_with_the_questions():
    assert len(prompts.VERSION) == 12 and int(prompts.VERSION, 16) >= 0
