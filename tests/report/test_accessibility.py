"""axe-core finds no serious fault on any page, in both colour schemes, wide and on a phone."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
from axe_playwright_python.sync_playwright import Axe
from playwright.sync_api import Browser, Page
from tests.analyses.planted_circuits import write_circuits
from tests.report.pages import Tab, opened, pages_from
from tests.report.planted_features import planted

from homolog.report import write_report

GRAVE = ("serious", "critical")
SEEN_AS = [
    {"viewport": {"width": 1400, "height": 900}, "color_scheme": "light"},
    {"viewport": {"width": 390, "height": 844}, "color_scheme": "dark"},
]


def faults(page: Page) -> list[str]:
    """Rule and element of every grave fault."""
    found = Axe().run(page).response["violations"]
    return [
        f"{fault['id']}: {node['target']} {node.get('failureSummary', '')}"
        for fault in found
        if fault["impact"] in GRAVE
        for node in fault["nodes"]
    ]


@pytest.fixture(scope="module")
def report(make_run: Callable[..., Path], tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A comparison with circuits."""
    return write_report(write_circuits(make_run(tmp_path_factory.mktemp("report") / "run")))


@pytest.mark.parametrize("seen_as", SEEN_AS, ids=["desktop", "phone"])
def test_every_page_of_the_report(chromium: Browser, report: Path, seen_as: dict) -> None:
    pages = pages_from(report)
    assert len(pages) > 10
    found = {}
    for file in pages:
        tab, _, _ = opened(chromium, file, **seen_as)
        found[file.name] = faults(tab)
        tab.close()
    assert not any(found.values()), {name: them for name, them in found.items() if them}


@pytest.fixture(scope="module")
def explorer(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return planted(tmp_path_factory.mktemp("explorer") / "explorer")


@pytest.mark.parametrize("seen_as", SEEN_AS, ids=["desktop", "phone"])
def test_the_explorer(chromium: Browser, explorer: Path, seen_as: dict) -> None:
    tab = Tab(chromium, explorer, **seen_as)
    assert faults(tab.page) == []
    tab.page.get_by_role("radio", name="Cards").check()
    tab.wait("document.querySelector('.card .context')")
    assert faults(tab.page) == []
    tab.page.get_by_role("radio", name="Map").check()
    tab.wait("document.querySelector('#map canvas').getAttribute('aria-label')")
    assert faults(tab.page) == []
    tab.page.get_by_role("radio", name="Cards").check()
    tab.wait("document.querySelector('.card .context')")
    tab.page.locator(".card a").first.click()
    tab.settled(tab.page.evaluate("location.hash"))
    assert faults(tab.page) == []


def test_a_planted_fault_is_found(chromium: Browser, tmp_path: Path) -> None:
    page = tmp_path / "faulty.html"
    page.write_text(
        '<!doctype html><html lang="en"><title>x</title><main><h1>x</h1>'
        '<p style="color:#bbb;background:#fff">pale</p><button></button></main></html>'
    )
    tab = chromium.new_page()
    tab.goto(page.as_uri())
    assert {fault.split(":")[0] for fault in faults(tab)} == {"color-contrast", "button-name"}
    tab.close()
