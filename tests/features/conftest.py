"""A small model of the zoo, and passes of a few windows, on one thread."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
import torch
from tests.features.helpers import BATCH, CAPTURE, CONTEXT

import homolog


@pytest.fixture(scope="session")
def model() -> homolog.LanguageModel:
    return homolog.load("zoo:transformer-s0")


@pytest.fixture(scope="module")
def small_passes() -> Iterator[None]:
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(CAPTURE, "FORWARD_TOKENS", BATCH * CONTEXT)
        yield
    torch.set_num_threads(threads)
