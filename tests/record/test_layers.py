"""The words for layers: what they stand for in models of different depth, and what is refused."""

from __future__ import annotations

from fractions import Fraction
from typing import Any

import pytest

from homolog.errors import InputError
from homolog.pipeline.recipes import parse_saes
from homolog.record.layers import chosen_layers, read_layers


@pytest.mark.parametrize(
    ("given", "read"),
    [
        ("all", "all"),
        (None, "all"),
        ("3", (3,)),
        (3, (3,)),
        ([7, 3], (3, 7)),
        ("0,3,5-7", (0, 3, 5, 6, 7)),
        (" 2-2 , 1 ", (1, 2)),
        (" every  4 ", "every 4"),
        ("0.75, .25, 0.5", "0.25, 0.5, 0.75"),
        ([0.25, 1.0], "0.25, 1.0"),
    ],
)
def test_words_are_read_in_one_form_that_is_read_again(given: Any, read: Any) -> None:
    assert read_layers(given) == read
    assert read_layers(read) == read


@pytest.mark.parametrize("given", ["", [], "x", "3-1", "1,,2", "-1", "1-", "1,0.5", "every", [-1]])
def test_words_that_are_none(given: Any) -> None:
    with pytest.raises(InputError, match=r"layers is .* numbers and ranges, or all.*every 4"):
        read_layers(given)


@pytest.mark.parametrize(
    ("given", "words"),
    [
        ("1,2,1", "no block may be named twice"),
        ("1-3,2", "no block may be named twice"),
        ("0.5, 0.50", "no depth may be named twice"),
        ("0.0, 0.5", "above 0 and at most 1"),
        ("1.5", "above 0 and at most 1"),
        ("every 0", "of 1 to 99999 blocks the last can be taken"),
        ("100000", "no model has 100000 layers"),
    ],
)
def test_choices_that_cannot_be_of_any_model(given: str, words: str) -> None:
    with pytest.raises(InputError, match=words):
        read_layers(given)


@pytest.mark.parametrize(
    ("given", "n_layers", "layers"),
    [
        ("all", 3, (0, 1, 2)),
        ("every 4", 12, (3, 7, 11)),
        ("every 4", 10, (3, 7)),
        ("every 1", 2, (0, 1)),
        ("0.25, 0.5, 0.75", 8, (1, 3, 5)),
        ("0.25, 0.5, 0.75", 30, (6, 14, 21)),  # 7.5 and 22.5 blocks: of two as near the earlier
        ("0.01, 1.0", 30, (0, 29)),
        ((0, 4), 5, (0, 4)),
    ],
)
def test_blocks_of_a_model(given: Any, n_layers: int, layers: tuple[int, ...]) -> None:
    assert chosen_layers(read_layers(given), n_layers, "M") == layers


def test_the_block_at_a_depth_is_the_nearest_of_all() -> None:
    for n_layers in range(1, 40):
        for percent in range(1, 101):
            depth = Fraction(percent, 100)
            far = [abs(Fraction(layer + 1, n_layers) - depth) for layer in range(n_layers)]
            (layer,) = chosen_layers(read_layers(f"{percent / 100:.2f}"), n_layers, "M")
            assert layer == far.index(min(far))


@pytest.mark.parametrize(
    ("given", "words"),
    [
        ([3, 7], r"layers is 7, but M has layers 0 to 5\. Choose of these"),
        ("every 7", "M has layers 0 to 5, fewer than 7"),
        ("0.5, 0.52", "block 2 is the nearest to 0.5 and to 0.52"),
    ],
)
def test_blocks_that_a_model_does_not_have(given: Any, words: str) -> None:
    with pytest.raises(InputError, match=words):
        chosen_layers(read_layers(given), 6, "M")


def test_an_option_is_named_as_people_write_it() -> None:
    assert parse_saes(model="zoo:mamba-s0", layers="5, 3").layers == (3, 5)
    with pytest.raises(InputError, match="--layers is '3-1'"):
        parse_saes(model="zoo:mamba-s0", layers="3-1")
