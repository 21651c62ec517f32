"""A planted run, and the planted explorer in a browser."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from playwright.sync_api import Browser
from tests.analyses import planted_run
from tests.report.pages import Tab
from tests.report.planted_features import A, B, planted


@pytest.fixture(scope="session")
def make_run() -> Callable[..., Path]:
    """`planted_run.make_run`."""
    return planted_run.make_run


@pytest.fixture(scope="module")
def index(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The planted explorer."""
    return planted(tmp_path_factory.mktemp("explorer") / "explorer")


@pytest.fixture
def tab(chromium: Browser, index: Path) -> Iterator[Tab]:
    """Its first view as rows, which may say nothing on the console, and ask for no file from
    elsewhere.
    """
    tab = Tab(chromium, index, f"#from={A}&to={B}&homolog=yes&sort=-beyond")
    yield tab
    assert tab.said == []
    assert all(url.startswith(index.parent.as_uri()) or url == "data:," for url in tab.asked)
    tab.page.close()
