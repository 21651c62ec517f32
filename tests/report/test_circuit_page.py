"""The pages of circuits, alone and beside a comparison, as files and in a browser."""

from __future__ import annotations

import re
from collections.abc import Callable
from pathlib import Path

import pytest
from playwright.sync_api import Browser
from tests.report.pages import EVIL, files_of, opened, parsed
from tests.report.planted_circuits import TRANSFORMER, write_circuits

from homolog.report import write_report
from homolog.report.circuit_charts import circuit_figures
from homolog.report.circuit_records import read_circuits
from homolog.report.page import render_circuits
from homolog.report.run_charts import stage_figure

FIGURES = {
    "circuits",
    "heads",
    "key-head",
    "blocks",
    "upstream",
    "convolution",
    "positions",
    "offsets",
    "edges",
}


@pytest.fixture(scope="module")
def both(make_run: Callable[..., Path], tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of a comparison with circuits."""
    return write_report(write_circuits(make_run(tmp_path_factory.mktemp("both") / "run"))).parent


@pytest.fixture(scope="module")
def alone(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of circuits alone: one that can, of a hostile name, and one that cannot."""
    path = write_circuits(
        tmp_path_factory.mktemp("alone") / "run", (EVIL,), cannot=(f"cannot {EVIL}",)
    )
    return write_report(path).parent


def test_a_comparison_has_the_summary_and_a_page_of_its_own_for_the_rest(both: Path) -> None:
    files = files_of(both)
    assert {
        f"figures/{name}.{kind}" for name in FIGURES for kind in ("svg", "png", "vl.json")
    } <= set(files)
    text, addresses = parsed(both / "index.html")
    assert "Both circuits have the same three parts" in text and "circuits.html" in addresses
    assert (
        "spec-circuits" in files["index.html"].decode()
        and "spec-heads" not in files["index.html"].decode()
    )
    assert len(files["circuits.html"]) < 400_000
    for page in ("index.html", "circuits.html"):
        _, addresses = parsed(both / page)
        for address in addresses:
            if address != "data:," and not address.startswith("#"):
                assert (both / address).exists(), address


def test_what_the_page_says(both: Path) -> None:
    text, _ = parsed(both / "circuits.html")
    for said in (
        "The convolution of block 5 (its tap at A) 50%",
        "\u22123.00 (\u22123.30 to \u22122.70); probability \u22120.150, KL 0.750",
        "B is carried by the position after it: off by one",
        "0.75 (0.70 to 0.80)",
        "conv_in.0 \u2192 conv_taps.0 (tap 3) at B",
        "z of every other head there",
        "[Wang 2025] Junxuan Wang",
    ):
        assert said in text, said


def test_circuits_alone_are_the_index(alone: Path) -> None:
    files = files_of(alone)
    assert (
        "circuits.html" not in files
        and "figures/blocks.svg" not in files
        and "figures/stages.svg" in files
    )
    text, _ = parsed(alone / "index.html")
    assert (
        "cannot do the task" in text
        and "53% of the prompts" in text
        and "circuits.length = 16" in text
    )


def test_the_same_tables_give_the_same_bytes(alone: Path) -> None:
    records = read_circuits(alone.parent)
    assert records is not None
    page = render_circuits(records, [*circuit_figures(records), stage_figure(records)], alone=True)  # type: ignore[list-item]
    assert page == (alone / "index.html").read_text("utf-8")


@pytest.mark.parametrize("width, scheme", [(1280, "light"), (375, "dark")])
def test_every_figure_is_drawn_and_fits(
    chromium: Browser, both: Path, width: int, scheme: str
) -> None:
    page = both / "circuits.html"
    tab, said, asked = opened(
        chromium, page, viewport={"width": width, "height": 900}, color_scheme=scheme
    )
    assert said == []
    assert all(url.startswith(both.as_uri()) for url in asked if url != "data:,"), asked
    drawn = tab.evaluate("""[...document.querySelectorAll('.chart')].map(chart => {
        const svg = chart.querySelector('svg'), box = svg?.getBoundingClientRect();
        return [chart.dataset.figure, box?.width ?? 0, chart.clientWidth, chart.scrollWidth];
    })""")
    assert {name for name, *_ in drawn} == FIGURES
    for name, wide, room, whole in drawn:
        assert 0.9 * room < wide <= room + 1 and whole <= room + 1, (name, wide, room, whole)
    assert tab.evaluate("document.documentElement.scrollWidth") <= width
    text = tab.evaluate(
        "[...document.querySelectorAll('.chart')].map(chart => chart.textContent).join(' ')"
    )
    assert "NaN" not in text and "undefined" not in text
    tab.close()


def test_the_switch_shows_another_metric(chromium: Browser, both: Path) -> None:
    tab, said, _ = opened(chromium, both / "circuits.html")
    cells = "[...document.querySelectorAll('[data-figure=heads] svg text')].map(text => text.textContent)"
    assert "\u22126.00" in tab.evaluate(cells)
    tab.locator("[data-figure=heads] input[value=kl]").click()
    tab.wait_for_function(f"{cells}.includes('+1.50')")
    assert "\u22126.00" not in tab.evaluate(cells)
    assert said == []
    tab.close()


def test_markup_in_names_is_text(chromium: Browser, alone: Path) -> None:
    assert EVIL not in (alone / "index.html").read_text("utf-8")
    tab, said, _ = opened(chromium, alone / "index.html")
    assert said == [] and tab.evaluate("window.hacked") is None
    headings = tab.evaluate(
        "[...document.querySelectorAll('h1, .roles thead')].map(item => item.textContent).join()"
    )
    assert headings.count(EVIL) == 3 and not re.search(TRANSFORMER, headings)
    tab.close()
