"""The pages of circuits, alone and beside a comparison, as files and in a browser."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
from playwright.sync_api import Browser
from tests.analyses.planted_circuits import TRANSFORMER, write_circuits
from tests.report.pages import EVIL, drawn_on, files_of, opened, parsed, parsed_all

from homolog.errors import InputError
from homolog.report import write_report

FIGURES = {
    "circuits",
    "heads",
    "key-head",
    "blocks",
    "upstream",
    "convolution",
    "positions",
    "hidden-attention",
    "offsets",
    "offsets-matched",
    "edges",
}


@pytest.fixture(scope="module")
def both(make_run: Callable[..., Path], tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of a comparison with circuits."""
    return write_report(write_circuits(make_run(tmp_path_factory.mktemp("both") / "run"))).parent


@pytest.fixture(scope="module")
def alone(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of circuits alone: one that can, of a hostile name, and one that cannot."""
    folder = tmp_path_factory.mktemp("alone") / "run"
    return write_report(write_circuits(folder, (EVIL,), cannot=(f"cannot {EVIL}",))).parent


def test_a_comparison_has_the_summary_and_a_page_of_its_own_for_the_rest(both: Path) -> None:
    files = files_of(both)
    kinds = ("svg", "png", "vl.json")
    assert {f"figures/{name}.{kind}" for name in FIGURES for kind in kinds} <= set(files)
    text, addresses = parsed(both / "index.html")
    assert "Both circuits have the same three parts" in text and "circuits.html" in addresses
    for page, figure in (("circuits", "circuits"), ("every-part", "heads")):
        text = files[f"{page}.html"].decode()
        assert f"spec-{figure}" in text and len(text) < 400_000
        assert f"spec-{figure}" not in files["index.html"].decode()
    for address in parsed_all(both / "index.html")[1]:
        if address != "data:," and not address.startswith("#"):
            assert (both / address).exists(), address


def test_the_chapters_stand_in_their_order(both: Path) -> None:
    text, _ = parsed_all(both / "index.html")
    places = [
        text.index(said)
        for said in (
            "Both circuits have the same three parts",
            "Which heads write the answer?",
            "Off by one: the verdicts",
            "Score against real effect",
            "z of every other head there",
            "[Wang 2025] Junxuan Wang",
        )
    ]
    assert places == sorted(places)


def test_circuits_alone_are_the_index(alone: Path) -> None:
    files = files_of(alone)
    assert "circuits.html" not in files
    assert "figures/blocks.svg" not in files and "figures/stages.svg" in files
    text, _ = parsed_all(alone / "index.html")
    assert "cannot do the task" in text and "53% of the prompts" in text
    assert "[circuits] length = 16" in text


def test_the_same_tables_give_the_same_bytes(alone: Path) -> None:
    before = files_of(alone)
    write_report(alone.parent)
    assert files_of(alone) == before


@pytest.mark.parametrize("width, scheme", [(1280, "light"), (375, "dark")])
def test_every_figure_is_drawn_and_fits(
    chromium: Browser, both: Path, width: int, scheme: str
) -> None:
    known = set()
    for name in ("circuits", "every-part", "every-position", "off-by-one", "discovery"):
        known |= drawn_on(chromium, both / f"{name}.html", width, scheme).keys()
    assert known == FIGURES


def test_the_switch_shows_another_metric(chromium: Browser, both: Path) -> None:
    tab, said, _ = opened(chromium, both / "every-part.html")
    texts = "[...document.querySelectorAll('[data-figure=heads] svg text')]"
    cells = f"{texts}.map(text => text.textContent)"
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
    assert headings.count(EVIL) == 3 and TRANSFORMER not in headings
    tab.close()


def test_damaged_circuits_are_refused(tmp_path: Path) -> None:
    path = write_circuits(tmp_path / "run")
    (path / "roles.parquet").unlink()
    with pytest.raises(InputError, match=r"roles\.parquet"):
        write_report(path)


def test_a_run_with_neither_is_refused(tmp_path: Path) -> None:
    path = write_circuits(tmp_path / "run")
    for file in path.glob("*.parquet"):
        file.unlink()
    with pytest.raises(InputError, match=r"matches\.parquet, .* and shared\.parquet are missing"):
        write_report(path)
