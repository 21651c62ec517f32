"""What is imported from homolog while tests run checks its annotations: axes and plain types."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
import torch
from beartype.roar import BeartypeCallHintViolation
from jaxtyping import Float

import typecheck
from homolog.analyses.transplant.measure import LinearMap
from homolog.models.sites import Site
from homolog.record.names import folder_name


def test_axes_of_one_name_have_one_size():
    weight = torch.zeros(3, 4)
    assert LinearMap(weight, torch.zeros(4)).bias.shape == (4,)
    with pytest.raises(BeartypeCallHintViolation, match="d_target"):
        LinearMap(weight, torch.zeros(5))


def test_dtypes_are_those_that_are_annotated():
    with pytest.raises(BeartypeCallHintViolation, match="weight"):
        LinearMap(torch.zeros(3, 4, dtype=torch.int64), torch.zeros(4))


def test_plain_types_are_checked_where_there_is_no_array():
    with pytest.raises(BeartypeCallHintViolation):
        folder_name(3)  # pyright: ignore[reportArgumentType]
    with pytest.raises(BeartypeCallHintViolation):
        Site("resid", layer="2")  # pyright: ignore[reportArgumentType]


@typecheck.checked
def rows(x: Float[torch.Tensor, "row column"]) -> Iterator[torch.Tensor]:
    yield from x


@typecheck.checked
def first_of_half(x: Float[torch.Tensor, "row column"]) -> torch.Tensor:
    return next(rows(x[: len(x) // 2]))


def test_a_generator_is_checked_when_it_is_called_and_its_axes_are_its_own():
    assert first_of_half(torch.zeros(4, 3)).shape == (3,)
    with pytest.raises(BeartypeCallHintViolation):
        rows(torch.zeros(4))


def test_of_many_calls_in_a_test_the_first_and_then_some_are_checked():
    def refused() -> bool:
        try:
            rows(torch.zeros(4))
        except BeartypeCallHintViolation:
            return True
        return False

    typecheck.begin_test()
    outcomes = [refused() for _ in range(4 * typecheck.EVERY)]
    assert all(outcomes[: typecheck.ALWAYS])
    assert sum(outcomes) == typecheck.ALWAYS + 4
    typecheck.begin_test()
    assert refused()
