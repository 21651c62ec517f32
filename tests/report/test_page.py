"""The page as files, and the page as a browser shows it."""

from __future__ import annotations

import json
import re
import shutil
import subprocess
import sys
import zlib
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

import pytest
import vl_convert
from playwright.sync_api import Browser
from tests.analyses.planted_circuits import write_circuits
from tests.analyses.planted_record import write_record
from tests.analyses.planted_run import make_run
from tests.report.pages import EVIL, drawn_on, files_of, opened, pages_from, parsed, parsed_all

from homolog.analyses import ANALYSES, Analysis
from homolog.errors import InputError
from homolog.record.tables import CIRCUITS, DISCOVERIES, EDGES, EFFECTS, OFFSETS, ROLES, TABLES
from homolog.report import write_report
from homolog.report.export import PNG_SCALE, export_figures

PAGES = (
    "index",
    "result",
    "controls",
    "chance",
    "distributions",
    "depth",
    "spaces",
    "the-closest-homologs",
    "dictionaries",
    "models-and-text",
    "the-run",
)
FIGURES = {
    "answer",
    "criteria",
    "summary",
    "calibration",
    "variance",
    "distribution",
    "shares",
    "neurons",
    "layers",
    "spaces",
    "depth",
    "dictionaries",
    "stages",
}


@pytest.fixture(scope="module")
def page(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_report(make_run(tmp_path_factory.mktemp("page") / "run"))


@pytest.fixture(scope="module")
def evil_page(tmp_path_factory: pytest.TempPathFactory) -> Path:
    def poison(run: dict[str, Any]) -> None:
        run["corpus"]["sources"] = [EVIL]
        run["models"][0]["architecture"] = EVIL
        run["recipe"]["note"] = "</script>" + EVIL
        run["stages"][EVIL] = {
            "status": EVIL,
            "seconds": 1.0,
            "peak_memory_bytes": 1,
            "outputs": {},
        }
        run["warnings"] = [EVIL]

    path = make_run(
        tmp_path_factory.mktemp("evil") / "run",
        name=EVIL,
        edit=poison,
        failing={("mamba-s0", 2)},
        withheld={("mamba-s0", "transformer-s0")},
    )
    return write_report(path)


def test_the_folder_holds_the_page_and_every_figure_twice(page: Path) -> None:
    files = files_of(page.parent)
    assert {
        f"figures/{name}.{kind}" for name in FIGURES for kind in ("svg", "png", "vl.json")
    } <= set(files)
    for name in FIGURES:
        assert files[f"figures/{name}.png"].startswith(b"\x89PNG")
        assert files[f"figures/{name}.svg"].startswith(b"<svg")
    first_view = sum(len(files[name]) for name in files if not name.startswith("figures/"))
    assert first_view < 3 * 10**6
    assert not [
        path.name for path in page.parent.parent.iterdir() if path.name.startswith(".partial")
    ]


def test_what_the_page_says(page: Path) -> None:
    assert [file.name for file in pages_from(page)] == [f"{name}.html" for name in PAGES]
    first, _ = parsed(page)
    navigation = (
        "In short Result Controls Chance Distributions Depth Spaces The closest homologs "
        "Dictionaries Models and text The run"
    )
    assert first.index(navigation) < first.index("How much is shared?")
    assert "no verdict" not in first and "Where to go on Result What do the matches pass?" in first
    text, addresses = parsed_all(page)
    assert text.count(navigation) == len(PAGES)
    assert "5 of 5 expectations hold." in text
    assert "Not measured in this run: Decoder directions: SVCCA." in text
    assert "65%" in text and "50%" in text
    assert re.search(r"against 0\.1[45] for transformer-s0", text)  # the rotated control's mean
    for fact in (
        "gpt_neox",
        "1,059,000",
        "3.412",
        "358,400",
        "ab12" * 16,
        "[sae]",
        "l1 = 0.3",
        "3 min 09 s",
        "1.87 GiB",
        "2.13.0",
        "arXiv:2410.06672",
        "3 of 812 documents",
        "Alive features only",
        "An untrained model",
    ):
        assert fact in text, fact
    for address in addresses:
        if address != "data:," and not address.startswith("#"):
            assert not re.match(r"[a-z]+:", address)
            assert (page.parent / address).exists(), address
    own = {table: page.parent.parent / table.file for table in TABLES}
    listed = [table for table, file in own.items() if file.exists()]
    assert len(listed) == 6
    for table in listed:
        assert f"{table.file}, {table.rows}" in text


def chunks_of(png: bytes) -> Iterator[tuple[bytes, bytes]]:
    """Kind and contents of the chunks of a PNG, each with its checksum checked."""
    at = 8
    while at < len(png):
        length = int.from_bytes(png[at : at + 4], "big")
        chunk, at = png[at + 4 : at + 8 + length], at + 12 + length
        assert zlib.crc32(chunk) == int.from_bytes(png[at - 4 : at], "big")
        yield chunk[:4], chunk[4:]
    assert at == len(png) and chunk == b"IEND"


def test_a_figure_says_which_run_made_it(evil_page: Path, tmp_path: Path) -> None:
    record = json.loads((evil_page.parent.parent / "run.json").read_text("utf-8"))
    made = f"homolog {record['versions']['homolog']}, run {EVIL}, recipe {record['recipe_hash']}"
    figures = evil_page.parent / "figures"
    exported = export_figures(evil_page.parent, tmp_path, ("svg", "png"), ["criteria"], scale=1)
    for svg in (figures / "criteria.svg", exported[0]):
        (told,) = ElementTree.parse(svg).iter("{http://www.w3.org/2000/svg}metadata")
        assert told.text == made
    for png in (figures / "criteria.png", exported[1]):
        texts = [body for kind, body in chunks_of(png.read_bytes()) if kind == b"iTXt"]
        assert texts == [b"Source" + bytes(5) + made.encode()]
    assert json.loads((figures / "criteria.vl.json").read_text("utf-8"))["usermeta"]["made"] == made


def test_pixels_are_packed_and_stay_what_they_are(page: Path) -> None:
    for name in FIGURES:
        svg, png = (page.parent / "figures" / f"{name}.{form}" for form in ("svg", "png"))
        drawn = vl_convert.svg_to_png(svg.read_text("utf-8"), scale=PNG_SCALE)
        ours, theirs = (_pixels(image) for image in (png.read_bytes(), drawn))
        assert ours == theirs
        assert png.stat().st_size < 0.6 * len(drawn)


def _pixels(png: bytes) -> bytes:
    """The rows of a PNG, as filters left them."""
    return zlib.decompress(b"".join(body for kind, body in chunks_of(png) if kind == b"IDAT"))


def test_the_report_is_made_without_torch() -> None:
    script = "import sys, homolog.report; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", script], check=False).returncode == 0


def test_a_withheld_verdict_comes_first_with_its_reason(evil_page: Path) -> None:
    text, _ = parsed_all(evil_page)
    verdict = "mamba-s0 → transformer-s0: the verdict is withheld No words on mamba-s0."
    reason = "Withheld: dictionaries of transformer-s0 miss"
    assert text.index(f"{verdict} {reason}") < text.index("In short Result")
    assert "No share: the verdict is withheld." in text
    assert "explained variance 0.41 is below 0.60" in text  # in the table of dictionaries


def test_the_same_run_gives_the_same_bytes_over_an_older_page(page: Path, tmp_path: Path) -> None:
    run = tmp_path / "run"
    shutil.copytree(page.parent.parent, run)
    (run / "report" / "left-over.txt").write_text("from an older version")
    shutil.rmtree(run / "report" / "figures")
    (run / ".partial-999999999-report").mkdir()  # of a build that was killed
    record = json.loads((run / "run.json").read_text())
    record["stages"]["report"] = {
        "status": "done",
        "seconds": 4.0,
        "peak_memory_bytes": 1,
        "outputs": {},
    }
    write_record(run, record)
    again = write_report(run)
    assert files_of(again.parent) == files_of(page.parent)
    assert not list(run.glob(".partial*"))


def test_an_error_leaves_the_old_page(page: Path, tmp_path: Path) -> None:
    run = tmp_path / "run"
    shutil.copytree(page.parent.parent, run)
    (run / "layers.parquet").unlink()
    with pytest.raises(InputError, match=r"layers\.parquet"):
        write_report(run)
    assert files_of(run / "report") == files_of(page.parent)


def test_an_analysis_from_elsewhere_has_its_chapter(tmp_path: Path) -> None:
    own = Analysis(
        "mine",
        chapter="My question",
        values=lambda records: {"n": records.matches.height},
        template="<p>{{ n|integer }} rows in all</p>",
    )
    silent = Analysis("silent", chapter="Silence", values=lambda records: None, template="a word")
    mute = Analysis("mute", measure=lambda material: {})  # it only measures
    more = Analysis("more", chapter="My question", template="<p>and more</p>")
    page = write_report(make_run(tmp_path / "run"), [*ANALYSES, own, silent, mute, more])
    text, addresses = parsed(page)
    assert "My question" in text and "my-question.html" in addresses
    assert "My question 4,800 rows in all and more" in parsed(page.with_name("my-question.html"))[0]
    text, _ = parsed_all(page)
    assert "Silence" not in text and "a word" not in text


def circuits(path: Path, model: str = "mamba-s0") -> Path:
    """A run with the circuits of a model that cannot do the task, and what is said of it."""
    path.mkdir(exist_ok=True)
    unable = {
        **{"model": model, "architecture": "mamba", "n_layers": 8, "task": "induction"},
        **dict.fromkeys(("n_prompts", "length", "repeat"), 8),
        **dict.fromkeys(("preferred", "accuracy", "probability", "logit_difference"), 0.5),
        **{"able": False, "reason": "too small"},
    }
    for table in (CIRCUITS, EFFECTS, ROLES, OFFSETS, DISCOVERIES, EDGES):
        table.write(table.frame([unable] if table is CIRCUITS else []), path / table.file)
    if not (path / "run.json").exists():
        stages = {"circuits": {"status": "done", "seconds": 2.0, "outputs": {}}}
        write_record(path, {"name": "alone", "recipe": {"name": "alone"}, "stages": stages})
    return path


WHOLE = Analysis(
    "whole", page="circuits", chapter="Every circuit", template="<p>of {{ records.names[0] }}</p>"
)
PART = Analysis("part", page="study", chapter="In words", home=True, template="<p>brief</p>")


def test_circuits_beside_a_comparison_have_a_page_of_their_own(tmp_path: Path) -> None:
    run = circuits(make_run(tmp_path / "run"))
    page = write_report(run, [WHOLE, PART])
    of_the_run = {"models-and-text.html", "the-run.html"}
    files = {file.name for file in page.parent.glob("*.html")}
    assert files == {"index.html", "every-circuit.html"} | of_the_run
    text, _ = parsed(page)
    assert "In words brief" in text and "of mamba-s0" not in text and "../run.json" not in text
    text, addresses = parsed(page.parent / "every-circuit.html")
    assert "How much of transformer-s0 does mamba-s0" in text
    assert "Every circuit of mamba-s0" in text and "brief" not in text
    assert "index.html" in addresses and "Next: Models and text" in text
    assert not (write_report(run, [PART]).parent / "every-circuit.html").exists()


def test_one_screen_has_question_answer_and_circuits(chromium: Browser, tmp_path: Path) -> None:
    run = write_circuits(make_run(tmp_path / "run", failing={("mamba-random", 1)}))
    tab, said, _ = opened(chromium, write_report(run), viewport={"width": 1400, "height": 900})
    assert said == []
    boxes = {
        name: tab.locator(place).bounding_box()
        for name, place in {
            "pages": "nav",
            "question": "h1",
            "answer": "#figure-answer",
            "doubts": ".doubts",
            "circuits": ".glance > section:nth-of-type(2)",
            "every page": "#pages",
        }.items()
    }
    tab.close()
    below = [boxes[name]["y"] for name in ("question", "answer", "doubts", "circuits")]
    assert below == sorted(below)
    assert boxes["circuits"]["y"] + boxes["circuits"]["height"] <= 900
    assert boxes["circuits"]["y"] < boxes["every page"]["y"]
    assert boxes["pages"]["x"] + boxes["pages"]["width"] <= boxes["question"]["x"]


def test_no_two_chapters_are_one_file(tmp_path: Path) -> None:
    def named(name: str, title: str) -> Analysis:
        return Analysis(name, chapter=title, template=f"<p>words of {name}</p>")

    three = [named("first", "A?"), named("second", "A b"), named("third", "a-B!"), named("4", "?")]
    page = write_report(make_run(tmp_path / "run"), three)
    texts = [parsed(file)[0] for file in pages_from(page)]
    of_the_run = 2
    names = [analysis.name for analysis in three]
    for text, name in zip(texts[:-of_the_run], names, strict=True):
        assert f"words of {name}" in text


def test_circuits_alone_are_the_index(tmp_path: Path) -> None:
    page = write_report(circuits(tmp_path / "run", EVIL), [WHOLE, PART])
    assert {file.name for file in page.parent.glob("*.html")} == {"index.html", "the-run.html"}
    assert all(EVIL not in file.read_text("utf-8") for file in pages_from(page))
    text, addresses = parsed_all(page)
    assert f"How does {EVIL} repeat" in text and f"Every circuit of {EVIL}" in text
    assert "The run" in text and "Models" not in text and "../circuits.parquet" in addresses
    assert (page.parent / "figures" / "stages.svg").exists()


def test_opens_from_the_file_system_and_draws_its_charts(chromium: Browser, page: Path) -> None:
    known = set()
    for file in pages_from(page):
        drawn = drawn_on(chromium, file)
        for name, figure in drawn.items():
            assert figure.height > 150 and figure.marks > 20, (name, figure)
        said = " ".join(figure.text for figure in drawn.values())
        assert "dictionaries" in said or file.name != "dictionaries.html"
        known |= drawn.keys()
    assert known == FIGURES


@pytest.mark.parametrize("width", [320, 375, 768])
@pytest.mark.parametrize("name", PAGES)
def test_nothing_overflows_on_a_small_screen(
    chromium: Browser, page: Path, name: str, width: int
) -> None:
    tab, said, _ = opened(
        chromium, page.with_name(f"{name}.html"), viewport={"width": width, "height": 800}
    )
    assert said == []
    assert tab.evaluate("document.documentElement.scrollWidth") <= width
    assert tab.evaluate(
        "[...document.querySelectorAll('.chart')].every(c => c.scrollWidth <= c.clientWidth + 1)"
    )
    # drawn for this width, not shrunk to it until nothing can be read
    shrunk = "c => c.querySelector('svg').width.baseVal.value / c.clientWidth"
    sizes = tab.evaluate(f"[...document.querySelectorAll('.chart')].map({shrunk})")
    assert max(sizes, default=0) < 1.3
    screens = tab.evaluate("document.documentElement.scrollHeight / innerHeight")
    assert screens < (6 if width < 500 else 5)
    tab.close()


def test_the_charts_follow_the_colour_scheme(chromium: Browser, page: Path) -> None:
    tab, said, _ = opened(chromium, page.with_name("distributions.html"), color_scheme="dark")
    dark, light = "#5bb4f0", "#0067a5"
    drawing = tab.evaluate("document.querySelector('[data-figure=shares] svg').outerHTML")
    assert dark in drawing and light not in drawing
    tab.emulate_media(color_scheme="light")
    tab.wait_for_function(
        f"document.querySelector('[data-figure=shares] svg')?.outerHTML.includes('{light}')"
    )
    assert said == []
    tab.close()


def test_markup_from_the_run_is_text(chromium: Browser, evil_page: Path) -> None:
    told = 0
    for file in pages_from(evil_page):
        assert EVIL not in file.read_text("utf-8")
        tab, said, _ = opened(chromium, file)
        assert said == []
        assert tab.evaluate("window.hacked") is None
        body = tab.evaluate("document.body.textContent")
        assert EVIL in body  # the name
        told += tab.evaluate("document.querySelector('main').textContent").count(EVIL)
        tab.close()
    assert told >= 4  # source, architecture, stage, warning


def test_readable_without_scripts(chromium: Browser, page: Path) -> None:
    context = chromium.new_context(java_script_enabled=False)
    tab = context.new_page()
    seen = 0
    for file in pages_from(page):
        tab.goto(file.as_uri())
        images = tab.locator("figure img")
        seen += images.count()
        assert all(
            (images.nth(i).bounding_box() or {"width": 0})["width"] > 100
            for i in range(images.count())
        )
    assert seen == len(FIGURES)
    context.close()
