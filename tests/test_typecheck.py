"""What is imported from homolog while tests run checks its annotations: axes and plain types."""

from __future__ import annotations

import pytest
import torch
from beartype.roar import BeartypeCallHintViolation

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
