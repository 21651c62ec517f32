"""What the tests of all pages share: a page read as text, and a page as a browser shows it."""

from __future__ import annotations

import json
import re
import time
from dataclasses import dataclass
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

from playwright.sync_api import Browser, Page
from tests.processes import HANGS

from homolog.analyses import Analysis
from homolog.analyses.records import Records
from homolog.report.page import chapters
from homolog.report.templating import environment

EVIL = "<script>window.hacked = 1</script><img src=x onerror=window.hacked=1>"


class Text(HTMLParser):
    """The visible text of a page and the addresses it refers to."""

    def __init__(self) -> None:
        super().__init__()
        self.words: list[str] = []
        self.addresses: list[str] = []
        self.hidden = 0

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.hidden += tag in ("script", "style")
        self.addresses += [value or "" for name, value in attrs if name in ("href", "src")]

    def handle_endtag(self, tag: str) -> None:
        self.hidden -= tag in ("script", "style")

    def handle_data(self, data: str) -> None:
        if not self.hidden:
            self.words.append(data)


def parsed(page: Path) -> tuple[str, list[str]]:
    """(the text of a page, the addresses it refers to)."""
    return _read(page.read_text("utf-8"))


def pages_from(home: Path) -> list[Path]:
    """The pages that the first one leads to, in its order, and that one before them."""
    nav = home.read_text("utf-8").partition('<nav aria-label="Pages">')[2].partition("</nav>")[0]
    return [home.with_name(file) for file in re.findall(r'href="([^"]+)"', nav)]


def parsed_all(home: Path) -> tuple[str, list[str]]:
    """The same of the first page and of all that it leads to, joined."""
    texts, addresses = zip(*map(parsed, pages_from(home)), strict=True)
    return " ".join(texts), [address for some in addresses for address in some]


def said(analysis: Analysis, records: Records) -> str:
    """The text of an analysis's section."""
    found = chapters([analysis], {analysis.page: records}, environment(records.names))
    return _read("".join(chapter.body for chapter in found))[0]


def _read(html: str) -> tuple[str, list[str]]:
    reader = Text()
    reader.feed(html)
    text = re.sub(r"\s+", " ", " ".join(reader.words)).strip()
    text = re.sub(r" (?=[.,;:?')])", "", text)  # names stand in elements of their own
    return text, reader.addresses


def files_of(folder: Path) -> dict[str, bytes]:
    return {
        str(file.relative_to(folder)): file.read_bytes()
        for file in sorted(folder.rglob("*"))
        if file.is_file()
    }


def opened(browser: Browser, page: Path, **options: Any) -> tuple[Page, list[str], list[str]]:
    """The page once its charts are drawn, with all it said on the console and all it asked for."""
    tab = browser.new_page(**options)
    said: list[str] = []
    asked: list[str] = []
    tab.on("console", lambda message: said.append(f"{message.type}: {message.text}"))
    tab.on("pageerror", lambda error: said.append(f"error: {error}"))
    tab.on("request", lambda request: asked.append(request.url))
    tab.goto(page.as_uri())
    tab.wait_for_selector("html[data-charts=drawn]", state="attached", timeout=1000 * HANGS)
    return tab, said, asked


@dataclass(frozen=True)
class DrawnFigure:
    """A figure as the browser shows it: height in pixels, texts and paths, and what it says."""

    height: float
    marks: int
    text: str


def drawn_on(
    browser: Browser, page: Path, width: int = 1280, scheme: str = "light"
) -> dict[str, DrawnFigure]:
    """The figures of a page by name, each as wide as its place, on a page that asks nobody else."""
    tab, said, asked = opened(
        browser, page, viewport={"width": width, "height": 900}, color_scheme=scheme
    )
    assert said == []
    own = page.parent.as_uri()
    assert asked and all(url.startswith(own) for url in asked if url != "data:,"), asked
    drawn = tab.evaluate("""[...document.querySelectorAll('.chart')].map(chart => {
        const svg = chart.querySelector('svg'), box = svg?.getBoundingClientRect();
        return [chart.dataset.figure, box?.width ?? 0, chart.clientWidth, chart.scrollWidth,
                [box?.height ?? 0, svg?.querySelectorAll('path, text').length ?? 0,
                 chart.textContent]];
    })""")
    for name, wide, room, whole, _ in drawn:
        assert 0.9 * room < wide <= room + 1 and whole <= room + 1, (name, wide, room, whole)
    assert tab.evaluate("document.documentElement.scrollWidth") <= width
    assert tab.evaluate("document.querySelectorAll('h1').length") == 1
    assert tab.evaluate(
        "[...document.querySelectorAll('.chart')].every(chart => chart.ariaLabel.length > 40)"
    )
    tab.close()
    figures = {name: DrawnFigure(*shown) for name, *_, shown in drawn}
    for figure in figures.values():
        assert "undefined" not in figure.text and "NaN" not in figure.text, figure
    return figures


class Watched:
    """A page and all it said and asked for."""

    def __init__(self, browser: Browser, url: str, **options: Any) -> None:
        self.said, self.asked = list[str](), list[str]()
        self.page: Page = browser.new_page(
            **({"viewport": {"width": 1280, "height": 900}} | options)
        )
        self.page.on("console", lambda message: self.said.append(message.text))
        self.page.on("pageerror", lambda error: self.said.append(str(error)))
        self.page.on("request", lambda request: self.asked.append(request.url))
        self.page.goto(url)

    def wait(self, condition: str) -> None:
        """Wait until a condition holds in the page.

        Asked from here: its policy refuses code from text, which playwright's own waiting needs.
        """
        end = time.monotonic() + HANGS
        while not self.page.evaluate(condition):
            assert time.monotonic() < end, (
                f"{condition}, but the page shows: {self.page.inner_text('main')[:500]}"
            )
            self.page.wait_for_timeout(20)

    def text(self, selector: str) -> str:
        return (self.page.locator(selector).first.text_content() or "").strip()


class Tab(Watched):
    """A page of the explorer and all it said and asked for."""

    def __init__(self, browser: Browser, index: Path, address: str = "", **options: Any) -> None:
        self.index = index
        super().__init__(browser, index.as_uri() + address, **options)
        self.settled(address)

    def settled(self, address: str) -> None:
        """Wait until what the address asks for is shown."""
        self.wait(f"document.documentElement.dataset.explorer === {json.dumps(address or '#')}")

    def go(self, address: str) -> None:
        """To what stands after # in an address of the explorer."""
        self.page.evaluate("address => { location.hash = address }", address)
        self.settled(self.page.evaluate("location.hash"))

    def rows(self) -> list[str]:
        return self.page.locator("#features tbody th a").all_text_contents()

    @property
    def hash(self) -> str:
        return self.page.evaluate("decodeURIComponent(location.hash)")
