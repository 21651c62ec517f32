"""More than two models: the overview, a page a pair, and the links between them."""

from __future__ import annotations

from pathlib import Path
from typing import Any
from urllib.parse import urljoin

import pytest
from playwright.sync_api import Browser
from tests.analyses.planted_run import A, B, C, make_run
from tests.report.pages import EVIL, files_of, opened, pages_from, parsed, parsed_all

from homolog.analyses import ANALYSES
from homolog.analyses.records import read_study
from homolog.report import write_report
from homolog.report.page import leaves, render

PAIRS = [f"pair-{A}--{B}", f"pair-{A}--{C}", f"pair-{B}--{C}"]


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Three models, one verdict withheld, the words of another hostile."""

    def poison(record: dict[str, Any]) -> None:
        next(v for v in record["verdicts"] if (v["model"], v["best_model"]) == (C, B))["words"] = (
            EVIL
        )

    folder = tmp_path_factory.mktemp("three") / "run"
    path = make_run(folder, compared=(A, B, C), withheld={(C, A)}, edit=poison)
    write_report(path)
    return path


def test_the_overview_opens_and_each_pair_has_its_page(run):
    files = files_of(run / "report")
    index = run / "report" / "index.html"
    homes = [index, *(index.with_name(f"{name}.html") for name in PAIRS)]
    assert {name for name in files if name.endswith(".html")} == {
        file.name for home in homes for file in pages_from(home)
    }
    assert f"{PAIRS[0]}-chance.html" in files
    for name in PAIRS:
        assert f"figures/{name}/layers.svg" in files and f"figures/{name}/stages.svg" not in files
    assert {"figures/shared.svg", "figures/variance.svg", "figures/stages.svg"} <= set(files)
    text, addresses = parsed_all(index)
    assert f"What do {A}, {B} and {C} share?" in text
    assert f"The planted words on {A} in {B}." in text
    assert f"No words on {C}. Withheld: dictionaries of {A} miss their gates" in text
    listed = [f"{name}.html" for name in PAIRS]
    assert [address for address in addresses if address in listed] == listed
    text, _ = parsed_all(homes[2])
    assert f"How much of {A} does {C} compute too?" in text and "No words on rwkv-s0" in text
    assert B not in text
    for page in files:
        if page.endswith(".html"):
            for address in parsed(run / "report" / page)[1]:
                if address != "data:," and not address.startswith("#"):
                    assert (run / "report" / page).parent.joinpath(address).exists(), address


def test_a_reader_goes_from_the_overview_to_a_pair_and_back(run, chromium: Browser):
    index = run / "report" / "index.html"
    tab, said, asked = opened(chromium, index, viewport={"width": 1280, "height": 900})
    drawn = tab.evaluate(
        "[...document.querySelectorAll('.chart svg')].map(svg => "
        "svg.closest('.chart').dataset.figure)"
    )
    assert drawn == ["shared"]
    cells = tab.locator("[data-figure=shared] svg").text_content() or ""
    assert "no verdict" in cells and "%" in cells
    for name in PAIRS:
        tab.locator("nav a[href='pair-by-pair.html']").click()
        tab.locator(f"a[href='{name}.html']").click()
        tab.wait_for_selector("html[data-charts=drawn]", state="attached")
        assert tab.url == urljoin(index.as_uri(), f"{name}.html")
        charts = tab.evaluate(
            "[...document.querySelectorAll('.chart')].map(chart => !!chart.querySelector('svg'))"
        )
        assert charts == [True]
        tab.locator("header a[href='index.html']").click()
        tab.wait_for_selector("html[data-charts=drawn]", state="attached")
        assert tab.url == index.as_uri()
    assert said == []
    assert all(url.startswith(index.parent.as_uri()) for url in asked if url != "data:,")
    tab.close()


@pytest.mark.parametrize("width", [320, 768])
def test_the_overview_fits_a_small_screen(run, chromium: Browser, width: int):
    tab, said, _ = opened(
        chromium, run / "report" / "index.html", viewport={"width": width, "height": 800}
    )
    assert said == []
    assert tab.evaluate("document.documentElement.scrollWidth") <= width
    assert tab.evaluate(
        "[...document.querySelectorAll('.chart')].every(c => c.scrollWidth <= c.clientWidth + 1)"
    )
    tab.close()


def test_markup_from_the_run_is_text(run, chromium: Browser):
    told = {"index": 0, PAIRS[2]: 0}  # a verdict that is given stands with all pairs
    for name in told:
        for page in pages_from(run / "report" / f"{name}.html"):
            assert EVIL not in page.read_text("utf-8")
            tab, said, _ = opened(chromium, page)
            assert said == [] and tab.evaluate("window.hacked") is None
            told[name] += tab.evaluate("document.body.textContent").count(EVIL)
            tab.close()
    assert told == {"index": 1, PAIRS[2]: 0}


def test_markup_in_names_is_text(tmp_path):
    def rename(record: dict[str, Any]) -> None:
        record["compared"] = [A, EVIL, C]

    records = read_study(make_run(tmp_path / "run", name=EVIL, edit=rename))
    texts, _ = render(next(leaves(records, None)), ANALYSES)
    assert all(
        EVIL not in text and "&lt;script&gt;window.hacked" in text for text in texts.values()
    )
