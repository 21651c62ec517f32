"""The explorer as a browser shows it from the file system."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from playwright.sync_api import Browser
from tests.report.pages import EVIL, Tab
from tests.report.planted_features import (
    LAYERS,
    SIZES,
    A,
    B,
    C,
    contexts_of,
    features_of,
    matches_of,
    no_scatter,
    planted,
    planted_bytes,
    words_slowly,
)

from homolog.report.explorer import address

FIRST = "#features tbody tr:first-child a"
LIST = f"#from={A}&to={B}"


def test_the_first_view_is_the_homologs_in_their_contexts(chromium: Browser, index: Path) -> None:
    tab = Tab(chromium, index)
    assert tab.text("#count") == "44 of 136 features"
    assert tab.page.get_by_role("combobox", name="Homolog", exact=True).input_value() == "yes"
    assert (
        tab.page.locator("#cards .card").count() and not tab.page.locator("#features").is_visible()
    )
    assert tab.said == []
    tab.page.close()


def test_a_list_reads_no_contexts(chromium: Browser, index: Path) -> None:
    tab = Tab(chromium, index, LIST)
    assert tab.text("#count") == "136 of 136 features"
    assert tab.rows()[:6] == [
        "0 / 0",
        "1 / 0",
        "0 / 1",
        "1 / 1",
        "0 / 3",
        "1 / 3",
    ]  # r is 1 - f/200, equal ones in order
    assert tab.text("#page") == "page 1 of 3" and len(tab.rows()) == 50
    headers = tab.page.locator("#features th[aria-sort]")
    assert headers.count() == 1 and headers.get_attribute("aria-sort") == "descending"
    cells = tab.page.locator("#features tbody tr:nth-child(3) > *").all_text_contents()
    assert cells == ["0 / 1  cat", "0 / 1  cat", "0.995", "0.495", "0.1%", "yes"]
    assert not [
        url
        for url in tab.asked
        if "/features/" in url or "/words/" in url or "token_entropy" in url
    ]
    tab.page.close()


def test_order_is_a_stable_sort_with_the_undefined_last(tab: Tab) -> None:
    sizes = SIZES[A]
    number = np.array([f for size in sizes for f in range(size)])
    entropy = np.where(number == 0, np.inf, number / 16)
    for sign, order in ((1, "sort=token_entropy"), (-1, "sort=-token_entropy")):
        keys = np.where(np.isinf(entropy), np.inf, sign * entropy)
        wanted = np.argsort(keys, kind="stable")
        tab.go(f"from={A}&to={B}&{order}&page=3")
        found = tab.rows()
        assert found == [f"{int(row >= sizes[0])} / {number[row]}" for row in wanted[100:]]
    tab.page.get_by_role("button", name="Excess").click()
    tab.wait("location.hash.includes('-excess')")
    tab.page.get_by_role("button", name="Excess").click()
    tab.wait("document.documentElement.dataset.explorer.includes('sort=excess')")
    assert tab.page.locator("th[aria-sort]").get_attribute("aria-sort") == "ascending"
    assert tab.rows()[0] == "0 / 129" and "page" not in tab.hash


def test_filters_make_a_permanent_link(tab: Tab, chromium: Browser, index: Path) -> None:
    page = tab.page
    page.get_by_role("combobox", name="Homolog", exact=True).select_option("yes")
    tab.wait(
        "document.querySelector('#count').textContent === '44 of 136 features'"
    )  # 39 of layer 0, 5 of layer 1
    page.get_by_role("combobox", name="Layer", exact=True).select_option("0")
    tab.wait("document.querySelector('#count').textContent === '39 of 136 features'")
    page.get_by_text("More filters").click()
    page.get_by_label("r, at least").fill("0.9")
    page.get_by_label("r, at least").press("Tab")
    tab.wait(
        "document.querySelector('#count').textContent === '20 of 136 features'"
    )  # f of 0 to 20 but 2
    focused = page.evaluate("document.activeElement.getAttribute('aria-label')")
    assert focused == "r, at most"
    page.get_by_label("Active, at most").fill("0.5")  # per cent: f of at most 5
    page.get_by_label("Active, at most").press("Enter")
    tab.wait("document.querySelector('#count').textContent === '5 of 136 features'")
    assert tab.rows() == ["0 / 0", "0 / 1", "0 / 3", "0 / 4", "0 / 5"]
    again = Tab(chromium, index, page.evaluate("location.hash"))
    assert again.rows() == tab.rows() and again.said == []
    assert again.page.get_by_label("Active, at most").input_value() == "0.5"
    again.page.close()
    page.go_back()
    tab.wait("document.querySelector('#count').textContent === '20 of 136 features'")
    page.get_by_role("button", name="Clear filters").click()
    tab.wait("document.querySelector('#count').textContent === '136 of 136 features'")
    tab.go(f"from={A}&to={B}&to_layer=2")
    assert tab.text("#count").startswith("None of 136 features")
    assert tab.page.locator("#count").get_attribute("aria-live") == "polite"


def test_text_is_found_as_the_slow_index_finds_it(tab: Tab) -> None:
    tab.page.get_by_role("searchbox", name="Text", exact=True).fill("pari")
    tab.wait("location.hash.includes('text=pari')")
    wanted = {
        row for word, rows in words_slowly(A).items() if word.startswith("pari") for row in rows
    }
    tab.wait(f"document.querySelector('#count').textContent === '{len(wanted)} of 136 features'")
    asked = [
        ["cat"],
        ["中"],
        ["__proto__"],
        ["constructor"],
        ["over", "cat"],
        ["文", "the"],
        ["s"],
        ["nothing"],
        ["naïve"],
        ["ca"],
        ["ﾊﾛ"],
        ["𐐨"],
        ["𐐨𐐩"],
    ]
    for place, model in enumerate((A, B)):
        words = words_slowly(model)
        for query in asked:
            for fires in (False, True):
                found = tab.page.evaluate(
                    """([place, text, fires]) => explorer.search(place, text, fires).then((rows) =>
                    [...rows].flatMap((kept, row) => kept ? [row] : []))""",
                    [place, " ".join(query), fires],
                )
                assert found == sorted(slow_search(words, query, fires)), (model, query, fires)


def slow_search(words: dict[str, dict[int, bool]], query: list[str], fires: bool) -> set[int]:
    """Rows that have a word for each asked one: beginning with it, or equal if of one character."""
    return set.intersection(
        *(
            {
                row
                for word, rows in words.items()
                if (word.startswith(asked) if len(asked) > 1 else word == asked)
                for row, on in rows.items()
                if on or not fires
            }
            for asked in query
        )
    )


def test_a_pair_stands_side_by_side(tab: Tab) -> None:
    tab.go(f"from={A}&to={B}&feature=0/1")
    page = tab.page
    assert tab.text("h1") == f"{A}, layer 0, feature 1" and page.title().startswith(
        f"{A}, layer 0, feature 1 ·"
    )
    boxes = [page.locator(".side").nth(i).bounding_box() for i in (0, 1)]
    assert (
        boxes[0] and boxes[1] and boxes[0]["y"] == boxes[1]["y"] and boxes[0]["x"] < boxes[1]["x"]
    )
    facts = dict(
        zip(
            page.locator(".match dt").all_text_contents(),
            page.locator(".match dd").all_text_contents(),
            strict=True,
        )
    )
    assert facts == {
        "Correlation r": "0.995",
        "Excess": "0.495",
        "False discovery rate": "1e\u22124",
        "Homolog": "yes",
        "Mutual": "yes",
        "Runner-up": "0 / 2 r 0.250",
    }
    own = page.locator(".side").first
    assert own.locator(".depth").text_content() == "layer 0: depth 1 of 2"
    strongest = own.locator(".contexts li").first
    assert strongest.locator(".context").text_content() == " Paris (6.00) "
    mark = strongest.locator("mark.peak")
    assert mark.get_attribute("title") == "activation 6.00"
    assert "document 0, position 11" in (strongest.locator(".where").text_content() or "")
    seen = own.evaluate(
        "side => [...side.querySelectorAll('mark')].map(mark => "
        "getComputedStyle(mark).backgroundColor)"
    )
    assert len(set(seen)) > 1
    circles = page.locator(".activations circle").evaluate_all(
        "dots => dots.map(dot => [+dot.getAttribute('cx'), +dot.getAttribute('cy')])"
    )
    assert (
        circles[0][1] - circles[2][1] == 240 and circles[2][0] - circles[0][0] == 240
    )  # 0 and the largest of both
    assert "No contexts" not in (own.text_content() or "") and "explanation" not in (
        own.inner_html()
    )
    page.get_by_role("link", name=f"{B} 0 / 1").click()
    tab.wait(f"document.querySelector('h1').textContent === '{B}, layer 0, feature 1'")
    assert page.locator(".activations").count() == 0
    page.go_back()
    tab.wait(f"document.querySelector('h1').textContent === '{A}, layer 0, feature 1'")
    page.get_by_role("link", name=f"Its partner in {C}").click()
    tab.wait(f"document.querySelectorAll('.side')[1].getAttribute('aria-label').startsWith('{C}')")


def test_the_report_can_link_to_a_pair_of_layers_and_to_a_feature(tab: Tab) -> None:
    tab.go(address(A, B, layer=0, to_layer=0).split("#")[1])
    assert tab.text("#count") == "129 of 136 features"  # all of layer 0 but feature 2
    assert tab.page.locator("select[name=to_layer]").input_value() == "0"
    tab.go(address(B, A, feature=(2, 7)).split("#")[1])
    assert tab.text("h1") == f"{B}, layer 2, feature 7"
    assert address("a b&c/d", B) == f"explorer/index.html#from=a%20b%26c/d&to={B}"


def test_a_feature_without_a_partner_says_so(tab: Tab) -> None:
    tab.go(f"from={A}&to={B}&feature=0/2")
    assert "It has no partner there" in tab.text(".side:nth-child(2)")
    tab.go(f"from={A}&to={B}&feature=0/0")
    assert "It never fires" in tab.text(".side")
    tab.go(f"from={C}&feature=0/0")  # nothing was looked for from C
    assert tab.text("h1") == f"{C}, layer 0, feature 0" and "It has no partner there" in tab.text(
        "#feature"
    )
    for asked, words in (
        (f"from={A}&feature=0/999", "no feature 999 in layer 0"),
        ("from=gpt", "no model gpt"),
    ):
        tab.page.evaluate("asked => { location.hash = asked }", asked)
        tab.wait(f"document.querySelector('#problem').textContent.includes('{words}')")
        assert tab.page.locator("#problem").is_visible()


def test_markup_from_corpora_and_models_is_text(chromium: Browser, tmp_path: Path) -> None:
    evil = f"</script>{EVIL}"
    features = features_of().with_columns(model=features_of()["model"].replace(A, evil))
    matches = matches_of()
    matches = matches.with_columns(
        model=matches["model"].replace(A, evil), best_model=matches["best_model"].replace(A, evil)
    )
    index = planted(
        tmp_path / "explorer",
        features=features,
        matches=matches,
        name=evil,
        scatter=no_scatter,
        n_layers={evil if model == A else model: n for model, n in LAYERS.items()},
        contexts=lambda model, layer: contexts_of(A if model == evil else model, layer),
    )
    tab = Tab(chromium, index)
    assert EVIL in tab.text("caption") and EVIL in tab.text("header")
    tab.go(f"to={B}&feature=0/3")
    shown = tab.page.locator("#feature").inner_text()
    assert tab.text("h1") == f"{evil}, layer 0, feature 3"
    assert tab.text(".explanation").startswith(f"Names of cities {EVIL}")
    assert shown.count(EVIL) >= 4  # heading, explanation, promoted tokens of both
    assert any(EVIL in text for text in tab.page.locator(".context").all_text_contents())
    tab.page.wait_for_timeout(200)
    assert tab.page.evaluate("window.hacked") is None
    assert tab.page.locator("img").count() == 0 and tab.page.locator("main script").count() == 0
    assert tab.said == []
    tab.page.close()


def test_the_keyboard_reaches_everything(tab: Tab) -> None:
    page = tab.page
    focused = "document.activeElement"
    page.keyboard.press("/")
    assert page.evaluate(f"{focused}.name") == "text"
    page.evaluate(f"{focused}.blur()")  # as where the page was just opened
    page.keyboard.press("ArrowDown")
    assert page.evaluate(f"{focused}.textContent") == "0 / 0"
    page.keyboard.press("ArrowDown")
    page.keyboard.press("ArrowDown")
    page.keyboard.press("ArrowUp")
    assert page.evaluate(f"{focused}.textContent") == "1 / 0"
    outline = page.evaluate(f"getComputedStyle({focused}).outlineWidth")
    assert outline == "3px"
    page.keyboard.press("Enter")
    tab.wait("document.querySelector('h1').textContent.includes('layer 1, feature 0')")
    tab.wait("document.activeElement.id === 'title'")
    page.keyboard.press("ArrowRight")
    tab.wait("document.querySelector('h1').textContent.includes('layer 0, feature 1')")
    page.keyboard.press("ArrowLeft")
    tab.wait("document.querySelector('h1').textContent.includes('layer 1, feature 0')")
    page.keyboard.press("Escape")
    tab.wait("document.activeElement.textContent === '1 / 0'")
    assert page.locator("#list").is_visible() and not page.locator("#feature").is_visible()
    unnamed = page.evaluate("""[...document.querySelectorAll('input, select')].filter(field =>
        !field.labels.length && !field.getAttribute('aria-label')).length""")
    assert unnamed == 0


def test_a_click_anywhere_on_a_row_opens_it(tab: Tab) -> None:
    tab.page.locator("#features tbody tr:nth-child(3) td:last-child").click()
    tab.wait("document.querySelector('h1').textContent.includes('layer 0, feature 1')")


@pytest.mark.parametrize(
    "address",
    [
        "",
        LIST,
        f"#from={A}&to={B}&measures=1&text=cat&r=0.2..",
        f"#from={A}&to={B}&view=cards",
        f"#from={A}&to={B}&view=map",
        f"#from={A}&to={B}&feature=0/1",
    ],
)
def test_a_phone_never_scrolls_sideways(chromium: Browser, index: Path, address: str) -> None:
    tab = Tab(chromium, index, address, viewport={"width": 390, "height": 844})
    assert tab.page.evaluate("document.documentElement.scrollWidth") <= 390
    if address == LIST:
        table = tab.page.locator("#features").bounding_box()
        assert table and table["width"] <= 390
        assert tab.page.locator("#features thead th:visible").count() == 3  # feature, partner, r
    tab.page.close()


def test_dark_and_light(chromium: Browser, index: Path) -> None:
    seen = {}
    for scheme in ("light", "dark"):
        tab = Tab(chromium, index, f"#from={A}&to={B}&feature=0/1", color_scheme=scheme)
        colours = """() => ['body', '.side', 'mark.peak']
            .map(selector => getComputedStyle(document.querySelector(selector)))
            .map(style => [style.color, style.backgroundColor, style.borderTopColor])"""
        seen[scheme] = tab.page.evaluate(colours)
        tab.page.close()
    assert all(light != dark for light, dark in zip(seen["light"], seen["dark"], strict=True))
    assert (
        seen["light"][1][2] == "rgb(49, 69, 155)" and seen["dark"][1][2] == "rgb(147, 168, 255)"
    )  # theme.MODEL_COLOURS
    assert seen["light"][0][1] == "rgb(246, 247, 249)" and seen["dark"][0][1] == "rgb(15, 18, 22)"


def test_a_missing_file_is_named(chromium: Browser, index: Path, tmp_path: Path) -> None:
    folder = planted(tmp_path / "explorer")
    (folder.parent / "data" / "features" / "0-0-0.js").unlink()
    tab = Tab(chromium, folder)
    tab.go(f"from={A}&to={B}&feature=0/1")
    assert tab.text("#problem") == "data/features/0-0-0.js is missing: make the report again."
    tab.page.close()


def test_characters_of_several_tokens(chromium: Browser, tmp_path: Path) -> None:
    tab = Tab(chromium, planted_bytes(tmp_path / "explorer"))
    tab.go(f"from={A}&to={B}&text=自&anywhere=1")
    assert tab.rows() == ["0 / 0", "0 / 1"]
    tab.go(f"from={A}&to={B}&text=自")
    assert tab.rows() == ["0 / 0"]  # it fires on the first byte
    shown = {}
    for feature in range(5):
        tab.go(f"from={A}&to={B}&feature=0/{feature}")
        shown[feature] = tab.page.locator("article:first-child .context").all_text_contents()
    assert shown == {
        0: [" x (2.00) 自"],
        1: ["自ab (1.00) "],
        2: ["<87><AA> (1.00) b<E8>"],
        3: ["\u0442\u043e (3.00)  x"],
        4: ["<E8> (1.00) <87> (1.00) ", "<AA> (1.00)  x (1.00) "],
    }
    tab.go(f"from={A}&to={B}&feature=0/0")
    assert tab.page.locator("article:first-child mark").first.bounding_box()["width"] > 2  # type: ignore[index]
    assert tab.said == []
    tab.page.close()
