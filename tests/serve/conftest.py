"""The two runs, made once, and what answers questions about them."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
from tests.serve.study import made, served, two_architectures, two_tokenizers, with_homologs

from homolog.progress import SilentProgress
from homolog.record.run_folder import RunFolder
from homolog.serve.desk import Desk
from homolog.serve.opening import open_desk
from homolog.serve.server import Prompt


@pytest.fixture(scope="session")
def run(tmp_path_factory: pytest.TempPathFactory) -> RunFolder:
    """A Transformer beside a Mamba."""
    return made(two_architectures(), tmp_path_factory.mktemp("architectures"))


@pytest.fixture(scope="session")
def run_of_two(tmp_path_factory: pytest.TempPathFactory) -> RunFolder:
    """Of two tokenizers."""
    folder = tmp_path_factory.mktemp("tokenizers")
    return made(two_tokenizers(folder), folder)


@pytest.fixture(scope="session")
def desk(run: RunFolder) -> Desk:
    return with_homologs(open_desk(run.path, SilentProgress()))


@pytest.fixture(scope="session")
def desk_of_two(run_of_two: RunFolder) -> Desk:
    return with_homologs(open_desk(run_of_two.path, SilentProgress()))


@pytest.fixture(scope="module")
def prompt(desk: Desk) -> Prompt:
    return Prompt(desk)


@pytest.fixture(scope="module")
def address(run: RunFolder, prompt: Prompt) -> Iterator[str]:
    with served(run.path, prompt) as address:
        yield address
