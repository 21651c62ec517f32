"""More than two models: the overview, a page a pair, and the links between them."""

from __future__ import annotations

import re
from collections.abc import Callable
from pathlib import Path
from typing import Any
from urllib.parse import urljoin

import pytest
from playwright.sync_api import Browser
from tests.report.pages import EVIL, files_of, opened, parsed
from tests.report.planted_circuits import write_circuits

from homolog.charts.words import MISSING
from homolog.report import overview, read_study, run_figures, write_report
from homolog.report.page import render_overview

A, B, C = "transformer-s0", "mamba-s0", "rwkv-s0"
PAIRS = [f"pair-{A}--{B}", f"pair-{A}--{C}", f"pair-{B}--{C}"]


@pytest.fixture(scope="module")
def run(make_run: Callable[..., Path], tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Three models and circuits, one verdict withheld, the words of another hostile."""

    def poison(record: dict[str, Any]) -> None:
        next(v for v in record["verdicts"] if (v["model"], v["best_model"]) == (C, B))["words"] = (
            EVIL
        )

    folder = tmp_path_factory.mktemp("three") / "run"
    path = write_circuits(make_run(folder, compared=(A, B, C), withheld={(C, A)}, edit=poison))
    write_report(path)
    return path


def test_every_ordered_pair_has_a_cell_and_a_row(run):
    records = read_study(run)
    cells = {(row["source"], row["target"]): row for row in overview.sharedness(records)}
    assert list(cells) == [(A, B), (A, C), (B, A), (B, C), (C, A), (C, B)]
    for row in records.shared.iter_rows(named=True):
        cell = cells[row["model"], row["best_model"]]
        if (row["model"], row["best_model"]) == (C, A):
            assert (cell["share"], cell["text"], cell["ceiling"]) == (None, "no verdict", "")
            continue
        assert cell["share"] == pytest.approx(row["share"], abs=1e-4)
        assert cell["ceiling"] == f"ceiling {100 * row['ceiling']:.0f}%"
    table = overview.shared_table(records)
    assert [row[0] for row in table.rows[:3]] == [f"{A}\n→ {B}", f"{A}\n→ {C}", f"{B}\n→ {A}"]
    assert [(row[0], row[2]) for row in table.rows if row[-1] == "withheld"] == [
        (f"{C}\n→ {A}", MISSING)
    ]


def test_models_without_a_second_dictionary_have_no_ceiling(make_run, tmp_path):
    records = read_study(make_run(tmp_path / "run", compared=(A, B, C), drop={"sae-seed"}))
    assert not any(row["ceiling"] for row in overview.sharedness(records))
    figure = overview.shared_figure(records)
    assert figure is not None and "ceiling" not in figure.read


def test_names_of_pages_are_safe_and_differ(make_run, tmp_path):
    def rename(record):
        record["compared"] = ["../a", "..-a", "b c"]

    records = read_study(make_run(tmp_path / "run", edit=rename))
    pages = overview.pair_pages(records)
    assert [page.file for page in pages] == [
        "pair-..-a--..-a.html",
        "pair-..-a--b-c.html",
        "pair-..-a--b-c-2.html",
    ]
    assert all(re.fullmatch(r"figures/[A-Za-z0-9._-]+", page.figures) for page in pages)


def test_the_overview_opens_and_each_pair_has_its_page(run):
    files = files_of(run / "report")
    assert {name for name in files if name.endswith(".html")} == {
        "index.html",
        "circuits.html",
        *(f"{name}.html" for name in PAIRS),
    }
    for name in PAIRS:
        assert f"figures/{name}/layers.svg" in files and f"figures/{name}/stages.svg" not in files
    assert {"figures/shared.svg", "figures/variance.svg", "figures/stages.svg"} <= set(files)
    text, addresses = parsed(run / "report" / "index.html")
    assert f"What do {A}, {B} and {C} share?" in text
    assert f"The planted words on {A} in {B}." in text
    assert f"No words on {C}. Withheld: dictionaries of {A} miss their gates" in text
    assert [address for address in addresses if address.startswith("pair-")] == [
        f"{name}.html" for name in PAIRS
    ]
    text, _ = parsed(run / "report" / f"{PAIRS[1]}.html")
    assert f"How much of {A} does {C} compute too?" in text and "No words on rwkv-s0" in text
    assert B not in text.replace(
        f"What do {A}, {B} and {C} share?", ""
    )  # only the way back names the third model
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
    assert drawn == ["shared", "variance", "circuits", "stages"]
    cells = tab.locator("[data-figure=shared] svg").text_content() or ""
    assert "no verdict" in cells and "%" in cells
    for name in PAIRS:
        tab.locator(f"a[href='{name}.html']").click()
        tab.wait_for_selector("html[data-charts=drawn]", state="attached")
        assert tab.url == urljoin(index.as_uri(), f"{name}.html")
        charts = tab.evaluate(
            "[...document.querySelectorAll('.chart')].map(chart => !!chart.querySelector('svg'))"
        )
        assert len(charts) == 10 and all(charts)
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
    for name in ("index", PAIRS[2]):
        page = run / "report" / f"{name}.html"
        assert EVIL not in page.read_text("utf-8")
        tab, said, _ = opened(chromium, page)
        assert said == [] and tab.evaluate("window.hacked") is None
        assert tab.evaluate("document.body.textContent").count(EVIL) == 1
        tab.close()


def test_markup_in_names_is_text(make_run, tmp_path):
    records = read_study(
        make_run(
            tmp_path / "run", name=EVIL, edit=lambda record: record.update(compared=[A, EVIL, C])
        )
    )
    text = render_overview(records, run_figures(records), overview.pair_pages(records))
    assert EVIL not in text and "&lt;script&gt;window.hacked" in text


def test_circuits_are_shown_on_the_overview_alone(run):
    assert "circuits.html" in parsed(run / "report" / "index.html")[1]
    assert all("circuits.html" not in parsed(run / "report" / f"{name}.html")[1] for name in PAIRS)
