"""What all tests share: checked annotations, threads, a browser, and the order of the files."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
import torch

import typecheck

if TYPE_CHECKING:
    from playwright.sync_api import Browser

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

typecheck.install("homolog")
os.fsync = lambda fd: None  # tests kill processes, not the machine


@pytest.fixture(scope="module")
def one_thread() -> Iterator[None]:
    """Tiny tensors on one thread: several spend their time waiting for each other."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@pytest.fixture(scope="module")
def no_gradients() -> Iterator[None]:
    with torch.no_grad():
        yield


@pytest.fixture(scope="session")
def chromium() -> Iterator[Browser]:
    """One for all: a second session of playwright in a process fails."""
    from playwright.sync_api import sync_playwright

    if not CHROMIUM.exists():
        pytest.fail(
            "Chromium is not installed at /usr/bin/chromium: `make test` installs it, then runs "
            "this test"
        )
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=str(CHROMIUM), args=FLAGS)
        yield browser
        browser.close()


def pytest_addoption(parser: pytest.Parser) -> None:
    """How many random damages of a kind are tried; `make damage` tries a thousand."""
    parser.addoption("--damages", type=int, default=100, help="random damages of each kind of file")


@pytest.hookimpl(tryfirst=True)
def pytest_runtest_setup() -> None:
    typecheck.begin_test()


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Whole studies first: begun last, a long file would run on when all others are done."""
    items.sort(key=lambda item: "pipeline" not in item.path.parts)
