"""A planted run, a browser, and the planted explorer in it."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from playwright.sync_api import Browser, sync_playwright
from tests.analyses import planted_run
from tests.report.pages import Tab
from tests.report.planted_features import planted

CHROMIUM = Path("/usr/bin/chromium")
FLAGS = [
    "--headless",
    "--no-sandbox",
    "--disable-gpu",
    "--disable-quic",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
]


@pytest.fixture(scope="session")
def make_run() -> Callable[..., Path]:
    """`planted_run.make_run`."""
    return planted_run.make_run


@pytest.fixture(scope="session")
def chromium() -> Iterator[Browser]:
    if not CHROMIUM.exists():
        pytest.fail(
            "Chromium is not installed at /usr/bin/chromium: `make test` installs it, then runs "
            "this test"
        )
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=str(CHROMIUM), args=FLAGS)
        yield browser
        browser.close()


@pytest.fixture(scope="module")
def index(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The planted explorer."""
    return planted(tmp_path_factory.mktemp("explorer") / "explorer")


@pytest.fixture
def tab(chromium: Browser, index: Path) -> Iterator[Tab]:
    """Its first view, which may say nothing on the console and ask for no file from elsewhere."""
    tab = Tab(chromium, index)
    yield tab
    assert tab.said == []
    assert all(url.startswith(index.parent.as_uri()) or url == "data:," for url in tab.asked)
    tab.page.close()
